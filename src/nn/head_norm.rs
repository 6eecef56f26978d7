//! Normalization of each head of queries and keys, of two streams of tokens into one.

use super::{LayerNorm, Rotation, WeightError, Weights};
use crate::kernels::Element;
use crate::kernels::head_norm_rope::head_norm_rope;
use burn::tensor::{DType, Tensor};

/// `(x − mean) / √(variance + eps) · weight + bias` per head, weight and bias shared by the heads.
#[derive(Clone, Debug)]
pub struct HeadNorm {
    eps: f64,
    /// For tensors with gradients.
    norm: LayerNorm,
    /// Weight and bias, `[2, head_dim]`.
    affine: Tensor<2>,
}

impl HeadNorm {
    /// The layer with the `weight` and `bias` found at `weights`, `[head_dim]` each.
    ///
    /// # Errors
    ///
    /// If one of them is missing or unusable.
    pub fn load(weights: &Weights<'_>, head_dim: usize, eps: f64) -> Result<Self, WeightError> {
        let norm = LayerNorm::load(weights, head_dim, eps)?;
        let affine = norm.affine().expect("the layer was loaded with weight and bias");
        let affine = Tensor::cat(vec![affine.factor.clone(), affine.offset.clone()], 0);
        Ok(Self { eps, norm, affine })
    }

    /// Queries or keys as attention takes them: the tokens of `text`, if there are any, then those
    /// of `video`, which are rotated if there is a `rotation`; `[_, heads · head_dim]` each.
    ///
    /// One dispatch without gradients. The result is f32, or f16 on request where none are tracked
    /// and the device has it.
    ///
    /// # Panics
    ///
    /// If `rotation` is of other tokens or another head size, or widths differ.
    pub fn forward_rotated(
        &self,
        text: Option<Tensor<2>>,
        video: Tensor<2>,
        rotation: Option<&Rotation>,
        dtype: DType,
    ) -> Tensor<2> {
        if video.is_autodiff() || self.affine.is_autodiff() {
            let video = self.forward(video);
            let video = rotation.map_or_else(|| video.clone(), |r| r.apply(video.clone()));
            return match text {
                Some(text) => Tensor::cat(vec![self.forward(text), video], 0),
                None => video,
            };
        }
        let rotation = rotation.map(|Rotation { cos, sin, .. }| [cos.clone(), sin.clone()]);
        let (affine, element) = (self.affine.clone(), Element::of(dtype));
        head_norm_rope(text, video, affine, self.eps as f32, rotation, element)
    }

    /// The heads of `x` `[tokens, heads · head_dim]`, normalized.
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let (shape, [_, head_dim]) = (x.dims(), self.affine.dims());
        let heads = x.reshape([shape[0] * shape[1] / head_dim, head_dim]);
        self.norm.forward(heads).reshape(shape)
    }
}
