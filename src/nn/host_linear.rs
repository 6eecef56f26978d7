//! A linear layer in host memory, in the form in which the device holds it.

use super::observed_linear::{Observed, ObservedLinear};
use super::token_path::{LowRank, TokenPath};
use super::{FakeQuantLinear, FullLinear, Linear, PackedLinear};
use crate::kernels::PackedTensor;
use crate::quant::{ActivationQuantizer, Bits, InputTransform};
use burn::tensor::{Device, Int, Tensor, TensorData};
use std::sync::Arc;

/// A layer that can be uploaded again.
#[derive(Debug)]
pub(super) enum HostLinear {
    Full(HostFull),
    FakeQuant(HostFull, HostPath),
    Packed(Vec<HostPacked>, HostPath),
    Observed(HostFull, Observed),
}

/// Parts `[out_features of the part, in_features]` with their biases.
#[derive(Debug)]
pub(super) struct HostFull {
    parts: Vec<(TensorData, TensorData)>,
}

/// One part of a packed layer.
#[derive(Debug)]
pub(super) struct HostPacked {
    layout: PackedLayout,
    codes: TensorData,
    grid: TensorData,
    bias: TensorData,
}

/// What happens to tokens, see [`TokenPath`].
#[derive(Debug)]
pub(super) struct HostPath {
    transform: Arc<InputTransform>,
    /// `[rank, in_features]`, and `[out_features, rank]` by part.
    low_rank: Option<[HostFull; 2]>,
    activations: Option<Arc<ActivationQuantizer>>,
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
                Self::FakeQuant(HostFull::download(&fake.full)?, HostPath::download(&fake.path)?)
            }
            Linear::Packed(packed) => {
                let parts = packed.parts.iter().map(HostPacked::download);
                Self::Packed(parts.collect::<Result<_, _>>()?, HostPath::download(&packed.path)?)
            }
            Linear::Observed(layer) => {
                Self::Observed(HostFull::download(&layer.full)?, layer.observed.clone())
            }
            Linear::QuantAware(_) => panic!("a layer in training was asked for a copy"),
        })
    }

    /// The layer on `device`.
    pub(super) fn upload(&self, device: &Device) -> Linear {
        match self {
            Self::Full(full) => Linear::Full(full.upload(device)),
            Self::FakeQuant(full, path) => Linear::FakeQuant(FakeQuantLinear {
                full: full.upload(device),
                path: path.upload(device),
            }),
            Self::Packed(parts, path) => Linear::Packed(PackedLinear {
                parts: parts.iter().map(|part| part.upload(device)).collect(),
                path: path.upload(device),
            }),
            Self::Observed(full, observed) => Linear::Observed(ObservedLinear {
                full: full.upload(device),
                observed: observed.clone(),
            }),
        }
    }

    /// Bytes of host memory.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Full(full) | Self::Observed(full, _) => full.bytes(),
            Self::FakeQuant(full, path) => full.bytes() + path.bytes(),
            Self::Packed(parts, path) => {
                parts.iter().map(HostPacked::bytes).sum::<usize>() + path.bytes()
            }
        }
    }
}

impl HostFull {
    fn download(full: &FullLinear) -> Result<Self, String> {
        let parts = full
            .parts
            .iter()
            .map(|(w, bias)| Ok::<_, String>((float_data(w.clone())?, float_data(bias.clone())?)));
        Ok(Self { parts: parts.collect::<Result<_, _>>()? })
    }

    fn upload(&self, device: &Device) -> FullLinear {
        let part = |(w, bias): &(TensorData, TensorData)| {
            (Tensor::from_data(w.clone(), device), Tensor::from_data(bias.clone(), device))
        };
        FullLinear { parts: self.parts.iter().map(part).collect() }
    }

    fn bytes(&self) -> usize {
        let bytes = |(w, bias): &(TensorData, TensorData)| w.bytes().len() + bias.bytes().len();
        self.parts.iter().map(bytes).sum()
    }
}

impl HostPath {
    fn download(path: &TokenPath) -> Result<Self, String> {
        let low_rank = match &path.low_rank {
            Some(LowRank { down, up, .. }) => {
                Some([HostFull::download(down)?, HostFull::download(up)?])
            }
            None => None,
        };
        Ok(Self {
            transform: path.host_transform(),
            low_rank,
            activations: path.activations.clone(),
        })
    }

    fn upload(&self, device: &Device) -> TokenPath {
        let upload = |[down, up]: &[HostFull; 2]| {
            LowRank::from_factors(down.upload(device), up.upload(device), device)
        };
        let low_rank = self.low_rank.as_ref().map(upload);
        // `Weights` sets the clock, as it did before.
        TokenPath::new(self.transform.clone(), low_rank, self.activations.clone(), device)
    }

    fn bytes(&self) -> usize {
        let rows = [&self.transform.shift, &self.transform.scale];
        let rows: usize = rows.iter().filter_map(|row| row.as_ref()).map(|row| 4 * row.len()).sum();
        rows + self.low_rank.iter().flatten().map(HostFull::bytes).sum::<usize>()
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
