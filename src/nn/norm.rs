//! Normalization over the last dimension, in f32.

use super::{WeightError, Weights};
use burn::tensor::Tensor;

/// `(x − mean) / √(variance + eps) · weight + bias`, weight and bias where the layer has them.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    eps: f64,
    /// Weight and bias, `[1, dim]` each.
    affine: Option<(Tensor<2>, Tensor<2>)>,
}

impl LayerNorm {
    /// A layer without parameters.
    pub fn plain(eps: f64) -> Self {
        Self { eps, affine: None }
    }

    /// A layer with the `weight` and `bias` found at `weights`, `[dim]` each.
    ///
    /// # Errors
    ///
    /// If one of them is missing or unusable.
    pub fn load(weights: &Weights<'_>, dim: usize, eps: f64) -> Result<Self, WeightError> {
        let row = |name| Ok(weights.tensor(name, [dim])?.reshape([1, dim]));
        Ok(Self { eps, affine: Some((row("weight")?, row("bias")?)) })
    }

    /// `[tokens, dim]` to the same shape.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let centered = x.clone() - x.mean_dim(1);
        let variance = (centered.clone() * centered.clone()).mean_dim(1);
        let y = centered / (variance + self.eps).sqrt();
        match &self.affine {
            Some((weight, bias)) => y * weight.clone() + bias.clone(),
            None => y,
        }
    }
}

/// `x / √(mean(x²) + eps) · weight`.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    eps: f64,
    /// `[1, dim]`.
    weight: Tensor<2>,
}

impl RmsNorm {
    /// The layer whose `weight` `[dim]` is found at `weights`.
    ///
    /// # Errors
    ///
    /// If it is missing or unusable.
    pub fn load(weights: &Weights<'_>, dim: usize, eps: f64) -> Result<Self, WeightError> {
        Ok(Self { eps, weight: weights.tensor("weight", [dim])?.reshape([1, dim]) })
    }

    /// `[tokens, dim]` to the same shape.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let mean_square = (x.clone() * x.clone()).mean_dim(1);
        x / (mean_square + self.eps).sqrt() * self.weight.clone()
    }
}
