//! Attention without a score matrix: blocks of keys, a running maximum and a running sum.
//!
//! A task computes as many queries as a vector register of sums is wide, one per lane: the scores
//! of a block of keys come out of their product as the factor that the next one reads, and the
//! softmax needs no sums across lanes. Each query is computed alike wherever it lies, so that
//! results do not depend on how the queries are divided.

use super::form::{Form, LANES, Task};
use super::parallel::for_each;
use crate::kernels::attention::Params;
use crate::kernels::vectorized::{Panels, View, exp, tile};

/// Keys whose scores are held at a time: a multiple of the rows of every form's tile, and few
/// enough for the scores and the queries to stay in the first-level cache.
const KEYS: usize = 96;

/// Operations above which all processors take part.
const PARALLEL_OPS: usize = 1 << 21;

/// `(o, lse)` of `q`, `k` and `v` whose heads have `head_dim` channels; see
/// [`attention`](crate::kernels::attention::attention()).
pub fn attention(
    form: Form,
    head_dim: usize,
    [q, k, v]: [&[f32]; 3],
    params: Params,
) -> (Vec<f32>, Vec<f32>) {
    let (queries, heads) = (params.queries as usize, params.heads as usize);
    let mut o = vec![0.0; queries * heads * head_dim];
    let mut lse = vec![0.0; queries * heads];
    let mut by_head: Vec<Vec<Row<'_>>> = (0..heads).map(|_| Vec::with_capacity(queries)).collect();
    for (o, lse) in o.chunks_mut(heads * head_dim).zip(lse.chunks_mut(heads)) {
        for ((head, o), lse) in by_head.iter_mut().zip(o.chunks_mut(head_dim)).zip(lse) {
            head.push(Row { o, lse });
        }
    }
    let ops = 4 * queries * params.keys as usize * heads * head_dim;
    for_each(ops >= PARALLEL_OPS, by_head, |head, rows| {
        form.run(Head { form, q, k, v, head, head_dim, params, rows });
    });
    (o, lse)
}

/// Where the results of a query and head go.
struct Row<'a> {
    o: &'a mut [f32],
    lse: &'a mut f32,
}

/// One head.
struct Head<'a> {
    form: Form,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    head: usize,
    head_dim: usize,
    params: Params,
    rows: Vec<Row<'a>>,
}

impl Task for Head<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool, const ROWS: usize>(mut self) {
        let Self { form, head_dim, params, .. } = self;
        let (width, first) = (params.heads as usize * head_dim, self.head * head_dim);
        let k: Panels<ROWS> = Panels::transposed(View::new(self.k, width, first, head_dim));
        let v: Panels<ROWS> = Panels::copied(View::new(self.v, width, first, head_dim));
        let ops = 4 * params.queries as usize * params.keys as usize * head_dim;
        let tiles = self.rows.chunks_mut(LANES).collect();
        for_each(ops >= PARALLEL_OPS, tiles, |index, rows: &mut [Row<'_>]| {
            let q = &self.q[index * LANES * width..][..rows.len() * width];
            let q = Panels::transposed(View::new(q, width, first, head_dim));
            form.run(Queries::<ROWS> { q, k: &k, v: &v, head_dim, params, rows });
        });
    }
}

/// Up to [`LANES`] queries of one head.
struct Queries<'a, 'b, const L: usize> {
    /// One panel, `[head_dim][LANES]`.
    q: Panels<LANES>,
    /// `[keys / L][head_dim][L]`
    k: &'a Panels<L>,
    /// `[head_dim / L][keys][L]`
    v: &'a Panels<L>,
    head_dim: usize,
    params: Params,
    rows: &'a mut [Row<'b>],
}

impl<const L: usize> Task for Queries<'_, '_, L> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool, const ROWS: usize>(self) {
        let keys = self.params.keys as usize;
        let q = self.q.panels().next().unwrap_or(&[]);
        let mut p = [[0.0; LANES]; KEYS];
        let mut softmax = Softmax { maximum: [f32::MIN; LANES], sum: [0.0; LANES] };
        // Transposed, [head_dim][LANES].
        let mut o = vec![[0.0; LANES]; self.head_dim];
        for start in (0..keys).step_by(KEYS) {
            let p = &mut p[..KEYS.min(keys - start)];
            let panels = self.k.panels().skip(start / L);
            for (p, k) in p.chunks_mut(L).zip(panels) {
                let scores = tile::<FMA, L, LANES>(k, q);
                p.copy_from_slice(&scores[..p.len()]);
            }
            let factor = softmax.add(p, self.params.scale);
            for (o, v) in o.chunks_mut(L).zip(self.v.panels()) {
                let sums = tile::<FMA, L, LANES>(&v[start..start + p.len()], p);
                for (o, sums) in o.iter_mut().zip(&sums) {
                    for lane in 0..LANES {
                        o[lane] = o[lane] * factor[lane] + sums[lane];
                    }
                }
            }
        }
        for (lane, row) in self.rows.iter_mut().enumerate() {
            let inverse = 1.0 / softmax.sum[lane];
            for (to, o) in row.o.iter_mut().zip(&o) {
                *to = o[lane] * inverse;
            }
            *row.lse = softmax.maximum[lane] + softmax.sum[lane].ln();
        }
    }
}

/// Maximum of the scores so far, and the sum of their exponentials relative to it.
struct Softmax {
    maximum: [f32; LANES],
    sum: [f32; LANES],
}

impl Softmax {
    /// Turns more scores, before scaling, into exponentials; returns what to multiply earlier ones
    /// by.
    #[inline(always)]
    fn add(&mut self, scores: &mut [[f32; LANES]], scale: f32) -> [f32; LANES] {
        let mut maximum = self.maximum;
        for row in scores.iter_mut() {
            for (score, maximum) in row.iter_mut().zip(&mut maximum) {
                *score *= scale;
                // Not `max`: in this order it is one instruction.
                *maximum = if *score > *maximum { *score } else { *maximum };
            }
        }
        let mut sum = [0.0; LANES];
        for row in scores {
            for lane in 0..LANES {
                row[lane] = exp(row[lane] - maximum[lane]);
                sum[lane] += row[lane];
            }
        }
        let mut factor = [0.0; LANES];
        for lane in 0..LANES {
            factor[lane] = exp(self.maximum[lane] - maximum[lane]);
            self.sum[lane] = self.sum[lane] * factor[lane] + sum[lane];
        }
        self.maximum = maximum;
        factor
    }
}
