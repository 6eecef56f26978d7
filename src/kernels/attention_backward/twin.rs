//! The plain-Rust twin of both dispatches; one pass, because it keeps a block of scores.

use super::super::attention::{Attention, PARALLEL_OPS, Params, REFERENCE_BLOCK};
use super::super::vectorized::{LeftPanels, Panels, RightPanels, View, Write, exp, product};
use rayon::prelude::*;

/// What a backward pass reads; matrices are row-major.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Queries, `[queries, heads · head_dim]`.
    pub q: &'a [f32],
    /// Keys, `[keys, heads · head_dim]`.
    pub k: &'a [f32],
    /// Values, `[keys, heads · head_dim]`.
    pub v: &'a [f32],
    /// Gradient of the result, `[queries, heads · head_dim]`.
    pub d_o: &'a [f32],
    /// Log-sum-exp of the forward pass, `[queries, heads]`.
    pub lse: &'a [f32],
    /// `Σ d_o · o − d_lse`, the sum over the channels of a head, `[queries, heads]`.
    pub delta: &'a [f32],
}

/// Plain-Rust twin of the shader: gradients of queries, keys and values.
pub fn reference(kernel: Attention, inputs: Inputs<'_>, params: Params) -> [Vec<f32>; 3] {
    let (head_dim, heads) = (kernel.head_dim as usize, params.heads as usize);
    let ops = 10 * params.queries as usize * params.keys as usize * heads * head_dim;
    let gradients = |head| Head::new(kernel, inputs, params, head).gradients();
    let parts: Vec<[Vec<f32>; 3]> = if ops < PARALLEL_OPS {
        (0..heads).map(gradients).collect()
    } else {
        (0..heads).into_par_iter().map(gradients).collect()
    };
    [0, 1, 2].map(|which| {
        let tokens = parts[0][which].len() / head_dim;
        let mut side_by_side = Vec::with_capacity(tokens * heads * head_dim);
        for token in 0..tokens {
            for part in &parts {
                side_by_side.extend_from_slice(&part[which][token * head_dim..][..head_dim]);
            }
        }
        side_by_side
    })
}

/// One head, with the factors that all blocks of queries share.
struct Head<'a> {
    inputs: Inputs<'a>,
    params: Params,
    head: usize,
    head_dim: usize,
    k: RightPanels,
    k_transposed: RightPanels,
    v_transposed: RightPanels,
}

impl<'a> Head<'a> {
    fn new(kernel: Attention, inputs: Inputs<'a>, params: Params, head: usize) -> Self {
        let head_dim = kernel.head_dim as usize;
        let part = |x| View::new(x, params.heads as usize * head_dim, head * head_dim, head_dim);
        Self {
            inputs,
            params,
            head,
            head_dim,
            k: Panels::copied(part(inputs.k)),
            k_transposed: Panels::transposed(part(inputs.k)),
            v_transposed: Panels::transposed(part(inputs.v)),
        }
    }

    /// Gradients of the head's queries, keys and values, `[tokens, head_dim]` each.
    fn gradients(&self) -> [Vec<f32>; 3] {
        let (heads, head_dim) = (self.params.heads as usize, self.head_dim);
        let (queries, keys) = (self.params.queries as usize, self.params.keys as usize);
        let mut d_q = vec![0.0; queries * head_dim];
        let [mut d_k, mut d_v] = [vec![0.0; keys * head_dim], vec![0.0; keys * head_dim]];
        let scores = REFERENCE_BLOCK.min(queries) * keys;
        let [mut p, mut ds] = [vec![0.0; scores], vec![0.0; scores]];
        let (mut left, mut right) = (LeftPanels::default(), RightPanels::default());
        let rows = |x: &'a [f32], first: usize, count: usize| {
            let width = heads * head_dim;
            let block = &x[first * width..][..count * width];
            View::new(block, width, self.head * head_dim, head_dim)
        };
        for (block, d_q) in d_q.chunks_mut(REFERENCE_BLOCK * head_dim).enumerate() {
            let (first, count) = (block * REFERENCE_BLOCK, d_q.len() / head_dim);
            let q = rows(self.inputs.q, first, count);
            let d_o = rows(self.inputs.d_o, first, count);
            let (p, ds) = (&mut p[..count * keys], &mut ds[..count * keys]);
            left.transpose(q);
            product(&left, &self.k_transposed, p, keys, Write::Assign);
            left.transpose(d_o);
            product(&left, &self.v_transposed, ds, keys, Write::Assign);
            self.differentiate(first, p, ds);

            let (p, ds) = (View::new(p, keys, 0, keys), View::new(ds, keys, 0, keys));
            left.transpose(ds);
            product(&left, &self.k, d_q, head_dim, Write::Assign);
            for (weight, from, gradient) in [(ds, q, &mut d_k), (p, d_o, &mut d_v)] {
                left.copy(weight);
                right.copy(from);
                product(&left, &right, gradient, head_dim, Write::Add);
            }
        }
        [d_q, d_k, d_v]
    }

    /// From products to probabilities and gradients of scores, for queries from `first` on.
    fn differentiate(&self, first: usize, p: &mut [f32], ds: &mut [f32]) {
        let (heads, keys) = (self.params.heads as usize, self.params.keys as usize);
        let scale = self.params.scale;
        for (row, (p, ds)) in p.chunks_mut(keys).zip(ds.chunks_mut(keys)).enumerate() {
            let at = (first + row) * heads + self.head;
            let (lse, delta) = (self.inputs.lse[at], self.inputs.delta[at]);
            for (p, ds) in p.iter_mut().zip(ds) {
                *p = exp(scale * *p - lse);
                *ds = scale * *p * (*ds - delta);
            }
        }
    }
}
