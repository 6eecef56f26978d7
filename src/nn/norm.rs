//! Normalization over the last dimension, in f32.

use super::{Rotation, WeightError, Weights};
use crate::kernels::norm_rope::norm_rope;
use crate::kernels::{Element, layer_norm};
use burn::tensor::{DType, Tensor};

/// `(x − mean) / √(variance + eps) · weight + bias`, weight and bias where the layer has them.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    eps: f64,
    /// Weight and bias.
    affine: Option<Modulation>,
}

/// What is done to a normalized token: `x · factor + offset`, `[1, dim]` each.
#[derive(Clone, Debug)]
pub struct Modulation {
    /// Weight of a layer, or `1 + scale` of a timestep.
    pub factor: Tensor<2>,
    /// Bias of a layer, or `shift` of a timestep.
    pub offset: Tensor<2>,
}

impl Modulation {
    /// `x · factor + offset`, with gradients.
    pub fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        x * self.factor.clone() + self.offset.clone()
    }
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
        Ok(Self { eps, affine: Some(Modulation { factor: row("weight")?, offset: row("bias")? }) })
    }

    /// `[tokens, dim]` to the same shape.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let row = |value: f32| Tensor::full([1, x.dims()[1]], value, &x.device());
        let scaling = match &self.affine {
            Some(affine) => affine.clone(),
            None if x.is_autodiff() => return self.normalize(x),
            None => Modulation { factor: row(1.0), offset: row(0.0) },
        };
        self.scaled(x, &scaling)
    }

    /// What this layer's weight and bias and `modulation` after them do to a normalized token: with
    /// it, a [`LayerNorm::plain`] computes all three.
    pub fn modulated(&self, modulation: &Modulation) -> Modulation {
        match &self.affine {
            Some(affine) => Modulation {
                factor: affine.factor.clone() * modulation.factor.clone(),
                offset: modulation.apply(affine.offset.clone()),
            },
            None => modulation.clone(),
        }
    }

    /// What this layer and `modulation` after it do to a normalized token.
    pub(super) fn then(&self, modulation: Option<&Modulation>) -> Option<Modulation> {
        match modulation {
            Some(modulation) => Some(self.modulated(modulation)),
            None => self.affine.clone(),
        }
    }

    /// Normalized tokens without this layer's own weight and bias, times the factor of `scaling`,
    /// plus its offset: one pass where no gradients are asked for.
    pub(super) fn scaled(&self, x: Tensor<2>, scaling: &Modulation) -> Tensor<2> {
        if x.is_autodiff() || scaling.factor.is_autodiff() {
            return scaling.apply(self.normalize(x));
        }
        let Modulation { factor, offset } = scaling.clone();
        layer_norm(x, factor.flatten(0, 1), offset.flatten(0, 1), self.eps())
    }

    /// Weight and bias, `[1, dim]` each.
    pub(super) fn affine(&self) -> Option<&Modulation> {
        self.affine.as_ref()
    }

    /// What is added to the variance.
    pub(super) fn eps(&self) -> f32 {
        self.eps as f32
    }

    fn normalize(&self, x: Tensor<2>) -> Tensor<2> {
        let centered = x.clone() - x.mean_dim(1);
        let variance = (centered.clone() * centered.clone()).mean_dim(1);
        centered / (variance + self.eps).sqrt()
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

    /// `[tokens, dim]` to the same shape; one dispatch without gradients.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        // The kernel takes channels in pairs.
        let is_tracked = x.is_autodiff() || self.weight.is_autodiff();
        if !is_tracked && x.dims()[1].is_multiple_of(2) {
            return norm_rope(x, self.weight.clone(), self.eps as f32, None, Element::F32);
        }
        let mean_square = (x.clone() * x.clone()).mean_dim(1);
        x / (mean_square + self.eps).sqrt() * self.weight.clone()
    }

    /// [`Self::forward`], then `rotation` if there is one: queries and keys as attention takes them.
    ///
    /// One dispatch without gradients. The result is f32, or f16 on request where none are tracked
    /// and the device has it.
    ///
    /// # Panics
    ///
    /// If `rotation` is of other tokens or another head size.
    pub fn forward_rotated(
        &self,
        x: Tensor<2>,
        rotation: Option<&Rotation>,
        dtype: DType,
    ) -> Tensor<2> {
        if x.is_autodiff() || self.weight.is_autodiff() {
            let normed = self.forward(x);
            return rotation.map_or_else(|| normed.clone(), |r| r.apply(normed.clone()));
        }
        let rotation = rotation.map(|Rotation { cos, sin, .. }| [cos.clone(), sin.clone()]);
        let element = Element::of(dtype);
        norm_rope(x, self.weight.clone(), self.eps as f32, rotation, element)
    }
}
