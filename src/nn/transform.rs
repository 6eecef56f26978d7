//! Transforms of tokens on a device.

use super::fusion;
use super::norm::Modulation;
use crate::kernels::{TokenTransform, hadamard};
use crate::quant::InputTransform;
use burn::tensor::{Device, Tensor, TensorData};
use std::sync::Arc;

/// An [`InputTransform`] on a device.
#[derive(Clone, Debug)]
pub(super) struct Transform {
    /// Its values: layers that read the same tokens share what they have in common.
    pub(super) host: Arc<InputTransform>,
    /// What kernels take.
    pub(super) tensors: TokenTransform,
    /// Whether quantizing can do it on the way.
    pub(super) is_fused: bool,
}

impl Transform {
    /// `transform` on `device`; `None` if it changes nothing.
    pub(super) fn new(transform: Arc<InputTransform>, device: &Device) -> Option<Self> {
        if transform.is_none() {
            return None;
        }
        let row = |values: Vec<f32>| {
            let len = values.len();
            Tensor::from_data(TensorData::new(values, [len]), device)
        };
        let affine = match (&transform.shift, transform.factor()) {
            (None, None) => None,
            (Some(shift), None) => Some([shift.clone(), vec![1.0; shift.len()]]),
            (None, Some(factor)) => Some([vec![0.0; factor.len()], factor]),
            (Some(shift), Some(factor)) => Some([shift.clone(), factor]),
        };
        let tensors = TokenTransform {
            affine: affine.map(|rows| rows.map(row)),
            hadamard: transform.hadamard,
        };
        let is_fused = tensors.hadamard.is_none() || fusion::pays_on(device);
        Some(Self { host: transform, tensors, is_fused })
    }

    /// `H · ((x − shift) / scale)` of tokens `[tokens, in_features]`.
    pub(super) fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        hadamard(x, &self.tensors)
    }

    /// `modulation`, and then this but for `H`: of a normalized token both are one step.
    pub(super) fn after(&self, Modulation { factor, offset }: &Modulation) -> Modulation {
        let Some([shift, scale]) = &self.tensors.affine else {
            return Modulation { factor: factor.clone(), offset: offset.clone() };
        };
        let [shift, scale] = [shift, scale].map(|row| row.clone().unsqueeze::<2>());
        Modulation {
            factor: factor.clone() * scale.clone(),
            offset: (offset.clone() - shift) * scale,
        }
    }

    /// Bytes on the device.
    pub(super) fn bytes(&self) -> usize {
        self.tensors.affine.iter().flatten().map(|row| 4 * row.shape().num_elements()).sum()
    }
}
