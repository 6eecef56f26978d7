//! A linear layer in host memory, in the form in which the device holds it.

use super::{FakeQuantLinear, FullLinear, Linear, PackedLinear};
use crate::kernels::PackedTensor;
use crate::quant::{Bits, TokenSpec};
use burn::tensor::{Device, Int, Tensor, TensorData};

/// A layer that can be uploaded again.
#[derive(Debug)]
pub(super) enum HostLinear {
    Full(HostFull),
    FakeQuant(HostFull, Option<TokenSpec>),
    Packed(Vec<HostPacked>, Option<TokenSpec>),
}

/// Parts `[out_features of the part, in_features]`, and the bias.
#[derive(Debug)]
pub(super) struct HostFull {
    parts: Vec<TensorData>,
    bias: Option<TensorData>,
}

/// One part of a packed layer.
#[derive(Debug)]
pub(super) struct HostPacked {
    layout: PackedLayout,
    codes: TensorData,
    grid: TensorData,
    bias: TensorData,
}

/// What a [`PackedTensor`] is beside its tensors.
#[derive(Clone, Copy, Debug)]
struct PackedLayout {
    bits: Bits,
    in_features: usize,
    group_size: usize,
}

impl HostLinear {
    /// A copy of `layer`.
    ///
    /// # Errors
    ///
    /// If the device fails, in its words.
    ///
    /// # Panics
    ///
    /// If the layer is in training: its values would be old at the next step.
    pub(super) fn download(layer: &Linear) -> Result<Self, String> {
        Ok(match layer {
            Linear::Full(full) => Self::Full(HostFull::download(full)?),
            Linear::FakeQuant(fake) => {
                Self::FakeQuant(HostFull::download(&fake.full)?, fake.activations)
            }
            Linear::Packed(packed) => {
                let parts = packed.parts.iter().map(HostPacked::download);
                Self::Packed(parts.collect::<Result<_, _>>()?, packed.activations)
            }
            Linear::QuantAware(_) => panic!("a layer in training was asked for a copy"),
        })
    }

    /// The layer on `device`.
    pub(super) fn upload(&self, device: &Device) -> Linear {
        match self {
            Self::Full(full) => Linear::Full(full.upload(device)),
            Self::FakeQuant(full, activations) => Linear::FakeQuant(FakeQuantLinear {
                full: full.upload(device),
                activations: *activations,
            }),
            Self::Packed(parts, activations) => Linear::Packed(PackedLinear {
                parts: parts.iter().map(|part| part.upload(device)).collect(),
                activations: *activations,
            }),
        }
    }

    /// Bytes of host memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Full(full) | Self::FakeQuant(full, _) => {
                full.parts.iter().chain(&full.bias).map(|data| data.bytes().len()).sum()
            }
            Self::Packed(parts, _) => parts.iter().map(HostPacked::bytes).sum(),
        }
    }
}

impl HostFull {
    fn download(full: &FullLinear) -> Result<Self, String> {
        // The device holds transposed views of what was uploaded; a copy of the view would be
        // multiplied by another kernel, and differ in its last bits.
        let parts = full.parts.iter().map(|part| float_data(part.clone().transpose()));
        Ok(Self {
            parts: parts.collect::<Result<_, _>>()?,
            bias: full.bias.clone().map(float_data).transpose()?,
        })
    }

    fn upload(&self, device: &Device) -> FullLinear {
        let upload = |data: &TensorData| Tensor::<2>::from_data(data.clone(), device);
        FullLinear {
            parts: self.parts.iter().map(|part| upload(part).transpose()).collect(),
            bias: self.bias.as_ref().map(upload),
        }
    }
}

impl HostPacked {
    fn download((weight, bias): &(PackedTensor, Tensor<1>)) -> Result<Self, String> {
        let PackedTensor { bits, in_features, group_size, .. } = *weight;
        Ok(Self {
            layout: PackedLayout { bits, in_features, group_size },
            codes: int_data(weight.codes.clone())?,
            grid: int_data(weight.grid.clone())?,
            bias: float_data(bias.clone())?,
        })
    }

    fn upload(&self, device: &Device) -> (PackedTensor, Tensor<1>) {
        let PackedLayout { bits, in_features, group_size } = self.layout;
        let weight = PackedTensor {
            bits,
            in_features,
            group_size,
            codes: Tensor::from_data(self.codes.clone(), device),
            grid: Tensor::from_data(self.grid.clone(), device),
        };
        (weight, Tensor::from_data(self.bias.clone(), device))
    }

    fn bytes(&self) -> usize {
        [&self.codes, &self.grid, &self.bias].iter().map(|data| data.bytes().len()).sum()
    }
}

/// A copy of the values: what the device hands out may be a view of its own staging memory, which
/// stays taken as long as the view lives.
fn float_data<const D: usize>(tensor: Tensor<D>) -> Result<TensorData, String> {
    let data = tensor.try_into_data().map_err(|err| format!("{err:?}"))?;
    let values: Vec<f32> = data.try_to_vec().map_err(|err| format!("{err:?}"))?;
    Ok(TensorData::new(values, data.shape().clone()))
}

fn int_data(tensor: Tensor<2, Int>) -> Result<TensorData, String> {
    let data = tensor.try_into_data().map_err(|err| format!("{err:?}"))?;
    let values: Vec<i32> = data.try_to_vec().map_err(|err| format!("{err:?}"))?;
    Ok(TensorData::new(values, data.shape().clone()))
}
