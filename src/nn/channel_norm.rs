//! Root-mean-square norm over the channels of each pixel, as video autoencoders use it.

use super::{WeightError, Weights};
use crate::kernels::channel_norm::channel_norm;
use burn::tensor::Tensor;

/// `act(x / max(‖x‖₂, 1e-12) · √channels · gamma)`, the norm over the channels of a pixel.
#[derive(Clone, Debug)]
pub struct ChannelNorm {
    /// `[channels]`.
    gamma: Tensor<1>,
    silu: bool,
}

impl ChannelNorm {
    /// The norm `name.gamma` of a checkpoint, stored as `[channels, 1, …]` with `ones` ones;
    /// `silu` tells whether that activation follows.
    ///
    /// # Errors
    ///
    /// If the tensor is missing or has another shape.
    pub fn load(
        weights: &Weights<'_>,
        name: &str,
        channels: usize,
        ones: usize,
        silu: bool,
    ) -> Result<Self, WeightError> {
        let mut shape = vec![1; ones + 1];
        shape[0] = channels;
        Ok(Self { gamma: weights.tensor_of(&format!("{name}.gamma"), &shape)?, silu })
    }

    /// The norm of `x [channels, frames, height, width]`, of the same shape.
    ///
    /// # Panics
    ///
    /// If the channels do not fit.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let shape = x.dims();
        let x = x.reshape([shape[0], shape[1] * shape[2] * shape[3]]);
        channel_norm(x, self.gamma.clone(), self.silu).reshape(shape)
    }
}
