//! One linear layer in training: its quantizer and what is beside or inside it.
//!
//! ```text
//! W_eff = Q(W; s, z) + (γ ⊙ L) R        with Φ (QVGen)
//! W_eff = Q(W + B A; s, z)              with a mergeable LoRA (EfficientDM)
//! ```
//!
//! The paper writes Φ as a parallel branch `Φ(Q(X))`; merged into the weight it is the same sum
//! and one product instead of three. All micro-batches of a step share one `W_eff`, so it is
//! computed once, and the gradient `G` of the step goes through [`TrainedLayer::backward`] once:
//! both are exact because the passes are linear in `G`.

use crate::kernels::fake_quantize_weight::fake_quantize_weight;
use crate::kernels::fake_quantize_weight_backward::fake_quantize_weight_backward;
use crate::kernels::matmul_nt;
use crate::quant::{Bits, Scheme};
use burn::tensor::Tensor;

/// How the weight of a layer is quantized in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightQuantizer {
    /// Width of a code.
    pub bits: Bits,
    /// [`Scheme::AsymmetricReal`] or [`Scheme::Symmetric`].
    pub scheme: Scheme,
}

/// A low-rank addition, as factors `[out, rank]` and `[rank, in]`.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one value per layer; tensors are handles")]
pub enum Addition {
    /// Outside the quantizer; `gamma [rank]` scales the columns of `l`.
    Phi {
        /// Left factor.
        l: Tensor<2>,
        /// Right factor.
        r: Tensor<2>,
        /// Factor of each direction.
        gamma: Tensor<1>,
    },
    /// Inside the quantizer.
    Lora {
        /// Left factor, zero at first.
        b: Tensor<2>,
        /// Right factor.
        a: Tensor<2>,
    },
}

/// The tensors of a layer at one step.
#[derive(Clone, Debug)]
pub struct TrainedLayer {
    /// How the weight is quantized.
    pub quantizer: WeightQuantizer,
    /// `[out, in]`.
    pub weight: Tensor<2>,
    /// `[out]`.
    pub scale: Tensor<1>,
    /// `[out]`.
    pub zero_point: Tensor<1>,
    /// What is trained besides.
    pub addition: Option<Addition>,
}

/// Gradients of a layer, in the shapes of its tensors.
#[derive(Clone, Debug)]
pub struct LayerGradients {
    /// Of the weight.
    pub weight: Tensor<2>,
    /// Of the scale.
    pub scale: Tensor<1>,
    /// Of the zero point.
    pub zero_point: Tensor<1>,
    /// Of the left and right factor.
    pub addition: Option<(Tensor<2>, Tensor<2>)>,
}

impl TrainedLayer {
    /// What the quantizer sees.
    pub fn latent_weight(&self) -> Tensor<2> {
        match &self.addition {
            Some(Addition::Lora { b, a }) => {
                self.weight.clone() + matmul_nt(b.clone(), a.clone().transpose())
            }
            _ => self.weight.clone(),
        }
    }

    /// `Q(W)`, without Φ: what remains after training.
    pub fn quantized_weight(&self) -> Tensor<2> {
        let WeightQuantizer { bits, scheme } = self.quantizer;
        let (scale, zero_point) = (self.scale.clone(), self.zero_point.clone());
        fake_quantize_weight(self.latent_weight(), scale, zero_point, bits, scheme)
    }

    /// `W_eff [out, in]`, the weight of this step's forward passes.
    pub fn effective_weight(&self) -> Tensor<2> {
        let quantized = self.quantized_weight();
        match &self.addition {
            Some(Addition::Phi { l, r, gamma }) => {
                let l = l.clone() * gamma.clone().unsqueeze::<2>();
                quantized + matmul_nt(l, r.clone().transpose())
            }
            _ => quantized,
        }
    }

    /// Gradients from `gradient [out, in]`, that of [`Self::effective_weight`].
    ///
    /// Scale and zero point follow LSQ+ with gradients scaled by `1/√(in · P)`;
    /// `∂L = γ ⊙ (G Rᵀ)` and `∂R = (γ ⊙ L)ᵀ G`.
    pub fn backward(&self, gradient: Tensor<2>) -> LayerGradients {
        let WeightQuantizer { bits, scheme } = self.quantizer;
        let quantizer = fake_quantize_weight_backward(
            self.latent_weight(),
            self.scale.clone(),
            self.zero_point.clone(),
            gradient.clone(),
            bits,
            scheme,
            true,
        );
        let addition = self.addition.as_ref().map(|addition| match addition {
            Addition::Phi { l, r, gamma } => {
                let gamma = gamma.clone().unsqueeze::<2>();
                let dl = matmul_nt(gradient.clone(), r.clone()) * gamma.clone();
                let dr = matmul_nt((l.clone() * gamma).transpose(), gradient.transpose());
                (dl, dr)
            }
            Addition::Lora { b, a } => {
                let inside = quantizer.weight.clone();
                let db = matmul_nt(inside.clone(), a.clone());
                let da = matmul_nt(b.clone().transpose(), inside.transpose());
                (db, da)
            }
        });
        LayerGradients {
            weight: quantizer.weight,
            scale: quantizer.scale,
            zero_point: quantizer.zero_point,
            addition,
        }
    }
}
