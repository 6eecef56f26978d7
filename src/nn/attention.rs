//! Multi-head attention over keys that may be held in several tensors.

use super::limits::{MAX_DISPATCH_OPS, dispatch_rows, map_token_chunks};
use crate::kernels::attention::{attention, attention_in, merge_attention};
use crate::kernels::attention_int8::attention_int8;
use crate::kernels::attention_patches::AttentionPatches;
use burn::tensor::{DType, Tensor};
use serde::Serialize;

pub use crate::kernels::attention::MAX_HEAD_DIM;

/// Queries of the shaders' largest tile: splitting at multiples of it wastes no invocation.
const TILE_QUERIES: usize = 64;

/// How precisely attention is computed; training is always exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionPrecision {
    /// In 32-bit floats.
    #[default]
    Exact,
    /// Queries, keys and values rounded to 16-bit floats: on matrix units where there are any.
    F16,
    /// Queries and centered keys rounded to 8-bit codes.
    Int8,
}

impl AttentionPrecision {
    /// The type in which queries, keys and values are handed to the attention.
    pub fn dtype(self) -> DType {
        match self {
            Self::F16 => DType::F16,
            Self::Exact | Self::Int8 => DType::F32,
        }
    }
}

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
    head_dim: usize,
    scale: f32,
    precision: AttentionPrecision,
}

impl MultiHeadAttention {
    /// Attention of `heads` heads, scaled by `1/√head_dim`.
    pub fn new(heads: usize, head_dim: usize) -> Self {
        let scale = (1.0 / (head_dim as f64).sqrt()) as f32;
        Self { heads, head_dim, scale, precision: AttentionPrecision::default() }
    }

    /// The same in another precision, where there is one for heads of this size: 16-bit floats are
    /// taken of at most 128 channels, a multiple of 4, and others stay exact.
    #[must_use]
    pub fn with_precision(self, precision: AttentionPrecision) -> Self {
        let is_exact =
            precision == AttentionPrecision::F16 && !AttentionPatches::takes(self.head_dim);
        let precision = if is_exact { AttentionPrecision::Exact } else { precision };
        Self { precision, ..self }
    }

    /// The type in which it takes queries, keys and values, where none tracks gradients.
    pub fn dtype(&self) -> DType {
        self.precision.dtype()
    }

    /// `q` `[queries, heads · head_dim]` attends to the tokens of all `parts` together.
    ///
    /// All are f32, or all f16 without gradients; the result is f32.
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
            let attend = |part: &KeysValues| self.attend(q.clone(), part.k.clone(), part.v.clone());
            merge_attention(parts.iter().map(attend))
        })
    }

    fn attend(&self, q: Tensor<2>, k: Tensor<2>, v: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let Self { heads, scale, precision, .. } = *self;
        if q.is_autodiff() || k.is_autodiff() || v.is_autodiff() {
            return attention(q, k, v, heads, scale);
        }
        match precision {
            AttentionPrecision::Int8 => attention_int8(q, k, v, heads, scale),
            _ if q.dtype() == DType::F16 => attention_in(None, q, k, v, heads, scale),
            _ => attention(q, k, v, heads, scale),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_that_no_shader_takes_in_16_bits_stay_exact() {
        let dtype = |head_dim| {
            let layer = MultiHeadAttention::new(2, head_dim);
            layer.with_precision(AttentionPrecision::F16).dtype()
        };
        assert_eq!([dtype(64), dtype(128)], [DType::F16; 2]);
        assert_eq!([dtype(10), dtype(132)], [DType::F32; 2]);
    }
}
