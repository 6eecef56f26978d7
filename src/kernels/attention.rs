//! `shaders/attention.wgsl` — attention that never stores a score matrix.
//!
//! The result comes with the log-sum-exp of each row's scores. With it, results over parts of the
//! keys combine to the whole ([`merge_attention`]), which keeps long sequences inside what a
//! device can bind; a backward pass recomputes the probabilities from the same value.

use super::cpu;
use super::element::Element;
use super::launch::{contiguous_f32, flex_from_f32, linear_grid, u32_from};
use super::params::params;
use super::vectorized::{self, Panels, View, Write, product};
use super::{Const, Kernel};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use rayon::prelude::*;

mod form;
pub use form::{Form, attention_in};

/// Largest head that the shader holds in registers.
pub const MAX_HEAD_DIM: usize = 512;

/// The kernel, specialized to the channels of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attention {
    /// Channels per head, 1 to [`MAX_HEAD_DIM`].
    pub head_dim: u32,
}

params! {
    pub struct Params {
        /// Rows of `q`.
        pub queries: u32,
        /// Rows of `k` and `v`.
        pub keys: u32,
        /// Heads side by side in a row.
        pub heads: u32,
        /// Factor of the scores before the softmax.
        pub scale: f32,
    }
}

/// How a workgroup's invocations are laid out; each owns 4 queries × 4 columns.
struct Tile {
    row_groups: u32,
    column_groups: u32,
    /// Length of a matrix product between two barriers.
    step: u32,
}

impl Attention {
    /// An invocation accumulates `head_dim / column_groups` vectors, so wide heads get fewer
    /// queries per workgroup; both layouts have 64 invocations and stay below 16 KiB.
    fn tile(self) -> Tile {
        if self.head_dim <= 128 {
            Tile { row_groups: 8, column_groups: 8, step: 32 }
        } else {
            Tile { row_groups: 4, column_groups: 16, step: 16 }
        }
    }

    /// Queries that one workgroup computes.
    pub fn tile_queries(self) -> usize {
        4 * self.tile().row_groups as usize
    }

    /// The dispatch for `params`.
    pub fn grid(self, params: Params) -> [u32; 3] {
        linear_grid((params.queries as usize).div_ceil(self.tile_queries()) * params.heads as usize)
    }
}

impl Kernel for Attention {
    const NAME: &'static str = "attention";
    const SOURCE: &'static str = include_str!("../../shaders/attention.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        [1, 5, 16, 64, 128, 129, 384, 512].map(|head_dim| Self { head_dim }).to_vec()
    }

    fn workgroup_size(&self) -> u32 {
        let Tile { row_groups, column_groups, .. } = self.tile();
        row_groups * column_groups
    }

    fn constants(&self) -> Vec<Const> {
        let Tile { row_groups, column_groups, step } = self.tile();
        vec![
            Const::U32("HEAD_DIM", self.head_dim),
            Const::U32("ROW_GROUPS", row_groups),
            Const::U32("COLUMN_GROUPS", column_groups),
            Const::U32("STEP", step),
        ]
    }
}

/// Queries that the twins compute at a time, so that their scores stay in the cache.
pub(super) const REFERENCE_BLOCK: usize = 32;

/// Operations above which a twin uses all processors: below, starting them takes longer, and
/// training on the CPU device has a thread per sample already.
pub(super) const PARALLEL_OPS: usize = 1 << 22;

/// Plain-Rust twin of the shader: `(o, lse)`, an exact softmax row by row.
pub fn reference(
    kernel: Attention,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    params: Params,
) -> (Vec<f32>, Vec<f32>) {
    let (head_dim, heads) = (kernel.head_dim as usize, params.heads as usize);
    let (queries, keys) = (params.queries as usize, params.keys as usize);
    let width = heads * head_dim;
    let mut o = vec![0.0; queries * width];
    let mut lse = vec![0.0; queries * heads];
    let (rows, stats) = (REFERENCE_BLOCK * width, REFERENCE_BLOCK * heads);
    for head in 0..heads {
        let first = head * head_dim;
        let k = Panels::transposed(View::new(k, width, first, head_dim));
        let v = Panels::copied(View::new(v, width, first, head_dim));
        let block = |((o, lse), q): ((&mut [f32], &mut [f32]), &[f32])| {
            let q = Panels::transposed(View::new(q, width, first, head_dim));
            let mut scores = vec![0.0; o.len() / width * keys];
            product(&q, &k, &mut scores, keys, Write::Assign);
            for (row, lse) in scores.chunks_mut(keys).zip(lse.chunks_mut(heads)) {
                lse[head] = softmax(row, params.scale);
            }
            let p = Panels::transposed(View::new(&scores, keys, 0, keys));
            product(&p, &v, &mut o[first..], width, Write::Assign);
        };
        if 4 * queries * keys * head_dim < PARALLEL_OPS {
            o.chunks_mut(rows).zip(lse.chunks_mut(stats)).zip(q.chunks(rows)).for_each(block);
        } else {
            let lse = lse.par_chunks_mut(stats);
            o.par_chunks_mut(rows).zip(lse).zip(q.par_chunks(rows)).for_each(block);
        }
    }
    (o, lse)
}

/// `row = softmax(scale · row)`; returns the log-sum-exp of the scaled row.
fn softmax(row: &mut [f32], scale: f32) -> f32 {
    row.iter_mut().for_each(|score| *score *= scale);
    let maximum = vectorized::maximum(row);
    row.iter_mut().for_each(|score| *score = vectorized::exp(*score - maximum));
    let sum = vectorized::sum(row);
    let inverse = (1.0 / sum) as f32;
    row.iter_mut().for_each(|p| *p *= inverse);
    maximum + sum.ln() as f32
}

#[backend_extension(Cube, Flex, Autodiff)]
pub(super) trait AttentionOp: Backend {
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        kernel: Attention,
        params: Params,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

/// Shapes of `o` and `lse`.
pub(super) fn shapes(kernel: Attention, params: Params) -> [[usize; 2]; 2] {
    let (queries, heads) = (params.queries as usize, params.heads as usize);
    [[queries, heads * kernel.head_dim as usize], [queries, heads]]
}

impl AttentionOp for CubeBackend {
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        kernel: Attention,
        params: Params,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [q, k, v] = [q, k, v].map(contiguous_f32);
        let form = Form::preferred(&q.device, kernel, params, Element::F32);
        form.run(kernel, [q, k, v], params)
    }
}

impl AttentionOp for Flex {
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        kernel: Attention,
        params: Params,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let tensors = [q, k, v].map(|tensor| tensor.to_contiguous());
        let values = tensors.each_ref().map(|tensor| tensor.storage::<f32>());
        let (o, lse) = cpu::attention(cpu::Form::best(), kernel.head_dim as usize, values, params);
        let [o_shape, lse_shape] = shapes(kernel, params);
        (flex_from_f32(o, o_shape), flex_from_f32(lse, lse_shape))
    }
}

/// `softmax(scale · q kᵀ) v` for each of `heads` heads, and the log-sum-exp of the scaled scores.
///
/// `q` is `[queries, heads · head_dim]`, `k` and `v` are `[keys, heads · head_dim]`; the results
/// are `[queries, heads · head_dim]` and `[queries, heads]`. All are f32. Both results are
/// differentiable in all three; see [`attention_backward`](super::attention_backward).
///
/// # Panics
///
/// If the shapes do not fit, there is no query or no key, or a head has more than [`MAX_HEAD_DIM`] channels.
pub fn attention(
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    heads: usize,
    scale: f32,
) -> (Tensor<2>, Tensor<2>) {
    let (kernel, params) = checked([&q, &k, &v], heads, scale);
    let (o, lse) = Dispatch::attention(
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        kernel,
        params,
    );
    (Tensor::from_dispatch(o), Tensor::from_dispatch(lse))
}

/// Kernel and parameters of a call, whose shapes fit.
pub(super) fn checked([q, k, v]: [&Tensor<2>; 3], heads: usize, scale: f32) -> (Attention, Params) {
    let ([queries, width], [keys, _]) = (q.dims(), k.dims());
    assert!(
        k.dims() == [keys, width] && v.dims() == [keys, width] && queries > 0 && keys > 0,
        "attention: q {:?}, k {:?}, v {:?}",
        q.dims(),
        k.dims(),
        v.dims()
    );
    assert!(
        heads > 0 && width.is_multiple_of(heads) && (1..=MAX_HEAD_DIM).contains(&(width / heads)),
        "attention: {width} channels in {heads} heads"
    );
    let kernel = Attention { head_dim: u32_from(width / heads) };
    let params =
        Params { queries: u32_from(queries), keys: u32_from(keys), heads: u32_from(heads), scale };
    (kernel, params)
}

/// Attention over all keys from the results of [`attention`] over disjoint parts of them.
///
/// `o = Σ wᵢ oᵢ / Σ wᵢ` with `wᵢ = exp(lseᵢ)`, per query and head. Parts are taken one at a time,
/// so that an iterator that computes them keeps only one beside the result.
///
/// # Panics
///
/// If there is no part, or shapes differ between parts.
pub fn merge_attention(parts: impl IntoIterator<Item = (Tensor<2>, Tensor<2>)>) -> Tensor<2> {
    let weighted = |o: Tensor<2>, weight: Tensor<2>| {
        let ([queries, width], [_, heads]) = (o.dims(), weight.dims());
        let o = o.reshape([queries, heads, width / heads]) * weight.reshape([queries, heads, 1]);
        o.reshape([queries, width])
    };
    parts
        .into_iter()
        .reduce(|(o, lse), (next_o, next_lse)| {
            let maximum = lse.clone().max_pair(next_lse.clone());
            let [w, next_w] = [lse, next_lse].map(|lse| (lse - maximum.clone()).exp());
            let total = w.clone() + next_w.clone();
            let o = weighted(o, w / total.clone()) + weighted(next_o, next_w / total.clone());
            (o, maximum + total.log())
        })
        .expect("attention over at least one part")
        .0
}
