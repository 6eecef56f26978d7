//! Normalizations that a timestep takes part in (adaptive layer norm, initialized to nothing).

use super::CogVideoXConfig;
use crate::nn::{LayerNorm, Linear, LinearInput, Modulation, WeightError, Weights};
use burn::tensor::Tensor;

/// What a timestep does to tokens of one kind, text or video, around one step of a block.
#[derive(Clone, Debug)]
pub struct TokenTimestep {
    /// Before the step, the weight and bias of the normalization included.
    pub(super) modulation: Modulation,
    /// Factor of what the step adds, `[1, dim]`.
    pub(super) gate: Tensor<2>,
}

/// `norm(x) · (1 + scale) + shift`, shift and scale linear in the embedded timestep.
#[derive(Debug)]
pub(super) struct AdaptiveNorm {
    dim: usize,
    /// Without the weight and bias of `norm`, which become part of the modulation.
    plain: LayerNorm,
    norm: LayerNorm,
    linear: Linear,
}

impl AdaptiveNorm {
    /// The layers `norm` and `linear` at `weights`, which makes `rows` rows of a timestep.
    pub(super) fn load(
        weights: &Weights<'_>,
        config: &CogVideoXConfig,
        rows: usize,
    ) -> Result<Self, WeightError> {
        let (dim, eps) = (config.dim(), config.norm_eps);
        Ok(Self {
            dim,
            plain: LayerNorm::plain(eps),
            norm: LayerNorm::load(&weights.at("norm"), dim, eps)?,
            linear: weights.linear("linear", rows * dim, config.time_embed_dim)?,
        })
    }

    /// The rows that an embedded timestep `[1, time_embed_dim]` makes, `[rows, dim]`.
    pub(super) fn rows(&self, conditioning: &Tensor<2>) -> Tensor<2> {
        let rows = self.linear.forward(conditioning.clone());
        let len = rows.dims()[1] / self.dim;
        rows.reshape([len, self.dim])
    }

    /// The modulation of `shift` in row `first` and `scale` in the next.
    pub(super) fn modulation(&self, rows: &Tensor<2>, first: usize) -> Modulation {
        let modulation =
            Modulation { offset: row(rows, first), factor: row(rows, first + 1) + 1.0 };
        self.norm.modulated(&modulation)
    }

    /// The modulation and the gate of three rows from `first` on: shift, scale, gate.
    pub(super) fn token_timestep(&self, rows: &Tensor<2>, first: usize) -> TokenTimestep {
        TokenTimestep { modulation: self.modulation(rows, first), gate: row(rows, first + 2) }
    }

    /// `x` `[tokens, dim]`, normalized and modulated.
    pub(super) fn normed(&self, x: Tensor<2>, modulation: &Modulation) -> LinearInput {
        LinearInput::normed(x, &self.plain, Some(modulation))
    }
}

fn row(rows: &Tensor<2>, index: usize) -> Tensor<2> {
    rows.clone().narrow(0, index, 1)
}
