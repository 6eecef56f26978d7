//! Multi-head attention over keys that may be held in several tensors.

use super::limits::{MAX_DISPATCH_OPS, dispatch_rows, map_token_chunks};
use crate::kernels::attention::{attention, merge_attention};
use burn::tensor::Tensor;

pub use crate::kernels::attention::MAX_HEAD_DIM;

/// Queries of the shader's larger tile: splitting at multiples of it wastes no invocation.
const TILE_QUERIES: usize = 32;

/// Keys and values of some tokens, `[tokens, heads · head_dim]` each.
#[derive(Clone, Debug)]
pub struct KeysValues {
    /// Keys.
    pub k: Tensor<2>,
    /// Values.
    pub v: Tensor<2>,
}

/// Scaled dot-product attention, `softmax(scale · q kᵀ) v` per head.
#[derive(Clone, Copy, Debug)]
pub struct MultiHeadAttention {
    heads: usize,
    scale: f32,
}

impl MultiHeadAttention {
    /// Attention of `heads` heads, scaled by `1/√head_dim`.
    pub fn new(heads: usize, head_dim: usize) -> Self {
        Self { heads, scale: (1.0 / (head_dim as f64).sqrt()) as f32 }
    }

    /// `q` `[queries, heads · head_dim]` attends to the tokens of all `parts` together.
    ///
    /// Many queries are computed in several dispatches, so that none keeps a device busy for long.
    ///
    /// # Panics
    ///
    /// If `parts` is empty or widths differ.
    pub fn forward(&self, q: Tensor<2>, parts: &[KeysValues]) -> Tensor<2> {
        self.forward_within(q, parts, MAX_DISPATCH_OPS)
    }

    /// [`Self::forward`] with at most `max_ops` operations per dispatch, but one tile: for tests.
    #[doc(hidden)]
    pub fn forward_within(&self, q: Tensor<2>, parts: &[KeysValues], max_ops: u64) -> Tensor<2> {
        let keys = parts.iter().map(|part| part.k.dims()[0]).max().unwrap_or(0);
        let query_ops = 4 * keys as u64 * q.dims()[1] as u64;
        map_token_chunks(q, dispatch_rows(max_ops, query_ops, TILE_QUERIES), |q| {
            let attend = |part: &KeysValues| {
                attention(q.clone(), part.k.clone(), part.v.clone(), self.heads, self.scale)
            };
            merge_attention(parts.iter().map(attend))
        })
    }
}
