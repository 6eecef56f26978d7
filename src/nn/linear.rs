//! `y = x · Wᵀ + b` in every precision a model may be loaded in.

use super::full_linear::{join, weight_parts};
use super::limits::{MAX_DISPATCH_OPS, dispatch_rows};
use super::linear_input::{Operand, residual_columns, residual_rows};
use super::{FullLinear, LinearInput, QuantAwareLinear};
use crate::kernels::{
    Epilogue, GRID_WORDS, PackedTensor, Residual, dequantize_weight, qmatmul, qmatmul_float,
    qmatvec,
};
use crate::kernels::{qmatmul as many, qmatvec as few, quantize_weight};
use crate::quant::{PackedRows, TokenSpec, WeightSpec, words_per_row};
use burn::tensor::{Device, Tensor, TensorData};

/// A linear layer; models hold this type and never mention bits.
///
/// The weight is `[out_features, in_features]`, as checkpoints store it (Burn's own `Linear` is
/// transposed). Layers larger than the device can bind are split along `out_features`.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one value per layer; tensors are handles")]
pub enum Linear {
    /// Full precision.
    Full(FullLinear),
    /// Quantized values carried in floats: what the packed form must equal.
    FakeQuant(FakeQuantLinear),
    /// Packed codes, multiplied by the quantized kernels.
    Packed(PackedLinear),
    /// Rounded in floats, with gradients.
    QuantAware(QuantAwareLinear),
}

impl Linear {
    /// `[tokens, in_features]` to `[tokens, out_features]`.
    ///
    /// # Panics
    ///
    /// If `x` has not `in_features` columns.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.forward_input(&LinearInput::new(x))
    }

    /// [`Linear::forward`] of an input that other layers may read, too.
    ///
    /// # Panics
    ///
    /// As [`Linear::forward`].
    pub fn forward_input(&self, x: &LinearInput) -> Tensor<2> {
        match self {
            Self::Full(linear) => linear.forward(x.values()),
            Self::FakeQuant(linear) => linear.forward(x),
            Self::Packed(linear) => linear.forward_within(x, None, MAX_DISPATCH_OPS),
            Self::QuantAware(linear) => linear.forward(x.values()),
        }
    }

    /// `residual + gate · forward_input(x)`, in one pass over the result where the layer can.
    ///
    /// `residual` is `[tokens, out_features]`, `gate` `[1, out_features]`; without it, one.
    ///
    /// # Panics
    ///
    /// As [`Linear::forward`], or if `residual` or `gate` has another shape.
    pub fn forward_add(
        &self,
        x: &LinearInput,
        residual: Tensor<2>,
        gate: Option<&Tensor<2>>,
    ) -> Tensor<2> {
        if let Self::Packed(linear) = self {
            let residual = Residual { value: residual, gate: gate.cloned() };
            return linear.forward_within(x, Some(residual), MAX_DISPATCH_OPS);
        }
        let y = self.forward_input(x);
        residual + if let Some(gate) = gate { y * gate.clone() } else { y }
    }

    /// Most tokens that are computed in one go: the results of more are copied together.
    pub fn dispatch_tokens(&self) -> usize {
        match self {
            Self::Packed(linear) => linear.dispatch_tokens(MAX_DISPATCH_OPS),
            Self::Full(_) | Self::FakeQuant(_) | Self::QuantAware(_) => usize::MAX,
        }
    }

    /// Bytes of weight and bias on the device.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Full(linear) => linear.bytes(),
            Self::FakeQuant(linear) => linear.full.bytes(),
            Self::Packed(linear) => linear.bytes(),
            Self::QuantAware(linear) => linear.bytes(),
        }
    }
}

/// A packed layer.
#[derive(Clone, Debug)]
pub struct PackedLinear {
    /// Rows of the weight and their biases, in order.
    pub(super) parts: Vec<(PackedTensor, Tensor<1>)>,
    /// How `x` is quantized; `None` for weight-only.
    pub(super) activations: Option<TokenSpec>,
}

impl PackedLinear {
    /// A layer of stored codes. A missing bias is zero.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit.
    pub fn new(
        rows: &PackedRows,
        bias: Option<Vec<f32>>,
        activations: Option<TokenSpec>,
        max_elements: usize,
        device: &Device,
    ) -> Self {
        let words = words_per_row(rows.bits, rows.in_features).max(GRID_WORDS * rows.groups());
        let part_rows = (max_elements / words.max(1)).max(1);
        let parts = (0..rows.rows()).step_by(part_rows).map(|start| {
            let part = rows.slice(start..(start + part_rows).min(rows.rows()));
            let packed = PackedTensor::from_rows(&part, device);
            (packed, bias_part(bias.as_deref(), start, part.rows(), device))
        });
        Self { parts: parts.collect(), activations }
    }

    /// Quantizes `weight` `[out_features, in_features]` on the device.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit the shape.
    pub fn quantize(
        weight: &[f32],
        bias: Option<Vec<f32>>,
        in_features: usize,
        spec: WeightSpec,
        activations: Option<TokenSpec>,
        max_elements: usize,
        device: &Device,
    ) -> Self {
        let mut start = 0;
        let parts = weight_parts(weight, in_features, max_elements, device).map(|part| {
            let packed = quantize_weight(part, spec);
            let bias = bias_part(bias.as_deref(), start, packed.rows(), device);
            start += packed.rows();
            (packed, bias)
        });
        Self { parts: parts.collect(), activations }
    }

    /// The packed rows and their biases.
    pub fn parts(&self) -> &[(PackedTensor, Tensor<1>)] {
        &self.parts
    }

    /// [`Linear::forward_input`], or with a `residual` [`Linear::forward_add`], with at most
    /// `max_ops` operations per dispatch, but one tile, so that none keeps a device busy for long;
    /// public for tests.
    #[doc(hidden)]
    pub fn forward_within(
        &self,
        x: &LinearInput,
        residual: Option<Residual>,
        max_ops: u64,
    ) -> Tensor<2> {
        let (tokens, rows) = (x.tokens(), self.dispatch_tokens(max_ops));
        let x = match self.activations {
            Some(spec) => Operand::Codes(x.codes(spec)),
            // Of all tokens, so that a short rest is computed by the same kernel.
            None => Operand::Values(x.values(), tokens <= few::MAX_TOKENS),
        };
        if tokens <= rows {
            return self.multiply(&x, residual.as_ref());
        }
        let chunk = |start: usize| {
            let tokens = start..(start + rows).min(tokens);
            let residual =
                residual.as_ref().map(|residual| residual_rows(residual, tokens.clone()));
            self.multiply(&x.slice(tokens), residual.as_ref())
        };
        Tensor::cat((0..tokens).step_by(rows).map(chunk).collect(), 0)
    }

    /// Most tokens of a dispatch of `max_ops` operations.
    fn dispatch_tokens(&self, max_ops: u64) -> usize {
        let shapes = self.parts.iter().map(|(w, _)| 2 * w.rows() as u64 * w.in_features as u64);
        dispatch_rows(max_ops, shapes.max().unwrap_or(0), many::TILE)
    }

    fn multiply(&self, x: &Operand, residual: Option<&Residual>) -> Tensor<2> {
        let mut start = 0;
        join(self.parts.iter().map(|(w, bias)| {
            let columns = start..start + w.rows();
            start = columns.end;
            let residual = residual.map(|residual| residual_columns(residual, columns));
            let epilogue = Epilogue { bias: bias.clone(), residual };
            match x {
                Operand::Codes(x) => qmatmul(x, w, epilogue),
                Operand::Values(x, true) => qmatvec(x.clone(), w, epilogue),
                Operand::Values(x, false) => qmatmul_float(x.clone(), w, epilogue),
            }
        }))
    }

    fn bytes(&self) -> usize {
        self.parts.iter().map(|(w, bias)| w.bytes() + 4 * bias.shape().num_elements()).sum()
    }
}

/// A layer whose weight and activations are rounded to codes but multiplied as floats.
#[derive(Clone, Debug)]
pub struct FakeQuantLinear {
    pub(super) full: FullLinear,
    pub(super) activations: Option<TokenSpec>,
}

impl FakeQuantLinear {
    /// The float form of the packed codes of `packed`.
    pub fn from_packed(packed: &PackedLinear) -> Self {
        let parts = packed.parts.iter().map(|(w, _)| dequantize_weight(w).transpose()).collect();
        let biases = packed.parts.iter().map(|(_, bias)| bias.clone()).collect();
        let bias = Some(Tensor::cat(biases, 0).unsqueeze::<2>());
        Self { full: FullLinear { parts, bias }, activations: packed.activations }
    }

    fn forward(&self, x: &LinearInput) -> Tensor<2> {
        self.full.forward(match self.activations {
            Some(spec) => dequantize_weight(&x.codes(spec)),
            None => x.values(),
        })
    }
}

/// `rows` values of `bias` from `start` on; zeros where there is none.
fn bias_part(bias: Option<&[f32]>, start: usize, rows: usize, device: &Device) -> Tensor<1> {
    let values = bias.map_or_else(|| vec![0.0; rows], |bias| bias[start..start + rows].to_vec());
    Tensor::from_data(TensorData::new(values, [rows]), device)
}
