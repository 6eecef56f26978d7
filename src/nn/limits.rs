//! How large a tensor may become, and token-wise work in pieces below that.

use crate::kernels::AdapterFacts;
use burn::tensor::{Device, Tensor};

use super::linear::Linear;
pub(super) use crate::kernels::MAX_DISPATCH_OPS;
use crate::kernels::{concatenate, qmatmul};

/// What a device can bind at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most elements that a tensor of activations should have.
    pub max_elements: usize,
}

impl Default for Limits {
    /// 128 MiB of f32: the storage binding that WebGPU guarantees.
    fn default() -> Self {
        Self { max_elements: 32 << 20 }
    }
}

impl Limits {
    /// What `device` can bind: the default for one that does not tell, such as the CPU.
    pub fn of(device: &Device) -> Self {
        match AdapterFacts::of(device).max_elements {
            0 => Self::default(),
            max_elements => Self { max_elements },
        }
    }

    /// Most tokens of a `[tokens, dim]` tensor, at least one.
    pub fn tokens(self, dim: usize) -> usize {
        (self.max_elements / dim.max(1)).max(1)
    }

    /// Most tokens that two layers, from `dim` to `wide` features and back, take at once, so that what
    /// is between them stays small: no tensor exceeds the limit, and no product a dispatch.
    pub fn wide_tokens(self, dim: usize, wide: usize) -> usize {
        let product_ops = 2 * dim as u64 * wide as u64;
        self.tokens(wide).min(dispatch_rows(MAX_DISPATCH_OPS, product_ops, qmatmul::TILE))
    }

    /// [`wide_tokens`](Self::wide_tokens) of the layers `up` and back. Of layers in training it is what
    /// can be bound: every chunk would keep quantized weights of its own for the backward pass.
    pub fn feed_forward_tokens(self, up: &Linear, dim: usize, wide: usize) -> usize {
        match up {
            Linear::QuantAware(_) => self.tokens(wide),
            _ => self.wide_tokens(dim, wide),
        }
    }

    /// How many of `tokens` each of the tensors `[_, dim]` has that they are kept in.
    pub fn parts(self, tokens: usize, dim: usize) -> impl Iterator<Item = usize> {
        let most = self.tokens(dim);
        (0..tokens).step_by(most).map(move |first| most.min(tokens - first))
    }
}

/// `f` of `x` `[tokens, _]`, applied to at most `max_tokens` tokens at a time.
///
/// For token-wise functions whose intermediate values are wider than input and result.
///
/// # Panics
///
/// If `max_tokens` is 0.
pub fn map_token_chunks(
    x: Tensor<2>,
    max_tokens: usize,
    mut f: impl FnMut(Tensor<2>) -> Tensor<2>,
) -> Tensor<2> {
    if x.dims()[0] <= max_tokens {
        return f(x);
    }
    concatenate(x.split(max_tokens, 0).into_iter().map(f).collect(), 0)
}

/// Most rows of `row_ops` operations each in a dispatch of `max_ops`: whole tiles, at least one.
pub(super) fn dispatch_rows(max_ops: u64, row_ops: u64, tile: usize) -> usize {
    let rows = usize::try_from(max_ops / row_ops.max(1)).unwrap_or(usize::MAX);
    (rows / tile * tile).max(tile)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};
    use std::cell::RefCell;

    #[test]
    fn map_token_chunks_keeps_the_order_and_the_bound() {
        let values: Vec<f32> = (0..14_u8).map(f32::from).collect();
        let x = Tensor::from_data(TensorData::new(values.clone(), [7, 2]), &Device::flex());
        for (max_tokens, expected) in [(3, vec![3, 3, 1]), (7, vec![7]), (100, vec![7])] {
            let seen = RefCell::new(Vec::new());
            let y = map_token_chunks(x.clone(), max_tokens, |x| {
                seen.borrow_mut().push(x.dims()[0]);
                x * 2.0
            });
            assert_eq!(seen.into_inner(), expected);
            let doubled: Vec<f32> = values.iter().map(|v| v * 2.0).collect();
            assert_eq!(y.into_data().try_to_vec::<f32>().expect("f32 values"), doubled);
        }
    }

    #[test]
    fn dispatches_are_whole_tiles_within_the_budget() {
        assert_eq!(dispatch_rows(1000, 10, 32), 96);
        assert_eq!(dispatch_rows(1000, 100, 32), 32);
        // A 14 B transformer at its largest: 6 553 keys a part, then a square layer.
        assert_eq!(dispatch_rows(MAX_DISPATCH_OPS, 4 * 6553 * 5120, 32), 512);
        assert_eq!(dispatch_rows(MAX_DISPATCH_OPS, 2 * 5120 * 5120, 64), 1280);
    }

    #[test]
    fn tokens_is_at_least_one_however_wide_the_rows() {
        assert_eq!(Limits { max_elements: 10 }.tokens(4), 2);
        assert_eq!(Limits { max_elements: 10 }.tokens(11), 1);
        assert_eq!(Limits { max_elements: 10 }.parts(5, 4).collect::<Vec<_>>(), [2, 2, 1]);
    }
}
