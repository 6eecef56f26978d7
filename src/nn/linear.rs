//! `y = x · Wᵀ + b` in every precision a model may be loaded in.

use super::full_linear::{bias_part, join, weight_parts};
use super::limits::{MAX_DISPATCH_OPS, dispatch_rows};
use super::linear_input::{Operand, residual_columns, residual_rows};
use super::token_path::{LowRank, TokenPath};
use super::{FullLinear, InputObserver, LinearInput, ObservedLinear, QuantAwareLinear, RunClock};
use crate::kernels::{
    Epilogue, GRID_WORDS, PackedTensor, Residual, dequantize_weight, qmatmul, qmatmul_float,
    qmatvec,
};
use crate::kernels::{qmatmul as many, qmatvec as few, quantize_weight};
use crate::quant::{PackedRows, QuantizedLayer, TokenSpec, WeightSpec, words_per_row};
use burn::tensor::{Device, Tensor};
use std::sync::Arc;

/// A linear layer; models hold this type and never mention bits.
///
/// The weight is `[out_features, in_features]`, as checkpoints store it (Burn's own `Linear` is
/// transposed). Layers larger than the device can bind are split along `out_features`.
#[derive(Clone, Debug)]
pub enum Linear {
    /// Full precision.
    Full(FullLinear),
    /// Quantized values carried in floats: what the packed form must equal.
    FakeQuant(FakeQuantLinear),
    /// Packed codes, multiplied by the quantized kernels.
    Packed(PackedLinear),
    /// Rounded in floats, with gradients.
    QuantAware(QuantAwareLinear),
    /// Full precision, showing what it reads.
    Observed(ObservedLinear),
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
            Self::Full(linear) => linear.forward(x.values(), None),
            Self::FakeQuant(linear) => linear.forward(x, None),
            Self::Packed(linear) => linear.forward_within(x, None, MAX_DISPATCH_OPS),
            Self::QuantAware(linear) => linear.forward(x.values()),
            Self::Observed(linear) => linear.forward(x),
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
        let residual = Residual { value: residual, gate: gate.cloned() };
        match self {
            Self::Packed(linear) => linear.forward_within(x, Some(residual), MAX_DISPATCH_OPS),
            Self::Full(linear) => linear.forward(x.values(), Some(&residual)),
            Self::FakeQuant(linear) => linear.forward(x, Some(&residual)),
            Self::QuantAware(linear) => residual.add_to(linear.forward(x.values())),
            Self::Observed(linear) => residual.add_to(linear.forward(x)),
        }
    }

    /// The same, asking `clock` where in a run it is, if its quantizer depends on that.
    #[must_use]
    pub(super) fn with_clock(mut self, clock: &RunClock) -> Self {
        if self.depends_on_step() || matches!(self, Self::Observed(_)) {
            clock.mark_read();
        }
        match &mut self {
            Self::Full(_) | Self::QuantAware(_) => {}
            Self::Observed(linear) => linear.observed.clock = clock.clone(),
            Self::FakeQuant(FakeQuantLinear { path, .. })
            | Self::Packed(PackedLinear { path, .. }) => path.clock = clock.clone(),
        }
        self
    }

    /// Whether the same input may have another result at another step of a run.
    pub fn depends_on_step(&self) -> bool {
        match self {
            Self::Full(_) | Self::QuantAware(_) | Self::Observed(_) => false,
            Self::FakeQuant(FakeQuantLinear { path, .. })
            | Self::Packed(PackedLinear { path, .. }) => {
                path.activations.as_ref().is_some_and(|quantizer| quantizer.depends_on_step())
            }
        }
    }

    /// Bytes of the parameters on the device.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Full(linear) => linear.bytes(),
            Self::FakeQuant(linear) => linear.full.bytes() + linear.path.bytes(),
            Self::Packed(linear) => linear.bytes(),
            Self::QuantAware(linear) => linear.bytes(),
            Self::Observed(linear) => linear.full.bytes(),
        }
    }

    /// The same, showing `observer` what it reads under `name`, if it is in full precision; others
    /// have nothing to be calibrated.
    #[must_use]
    pub fn observed(self, name: &str, observer: Arc<dyn InputObserver>) -> Self {
        match self {
            Self::Full(full) => Self::Observed(ObservedLinear::new(full, name, observer)),
            other => other,
        }
    }
}

/// A packed layer.
#[derive(Clone, Debug)]
pub struct PackedLinear {
    /// Rows of the weight and their biases, in order.
    pub(super) parts: Vec<(PackedTensor, Tensor<1>)>,
    /// What happens to the tokens.
    pub(super) path: TokenPath,
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
        Self::with_path(rows, bias, activations.into(), max_elements, device)
    }

    /// What a post-training method made of a layer.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit.
    pub fn from_layer(layer: &QuantizedLayer, max_elements: usize, device: &Device) -> Self {
        let QuantizedLayer { rows, bias, transform, low_rank, activations, .. } = layer;
        let (mut bias, mut branch) = (bias.clone(), None);
        if let Some(low_rank) = low_rank {
            // Of tokens as they come, so that transformed ones need not be stored for it.
            let (before, shifted) = low_rank.before(transform);
            if let Some(shifted) = shifted {
                let sum = |bias: Vec<f32>| bias.iter().zip(&shifted).map(|(b, s)| b + s).collect();
                bias = Some(bias.map_or_else(|| shifted.clone(), sum));
            }
            branch = Some(LowRank::new(&before, part_rows(rows, max_elements), device));
        }
        let (transform, activations) = (transform.clone(), activations.clone());
        let path = TokenPath::new(Arc::new(transform), branch, activations.map(Arc::new), device);
        Self::with_path(rows, bias, path, max_elements, device)
    }

    fn with_path(
        rows: &PackedRows,
        bias: Option<Vec<f32>>,
        path: TokenPath,
        max_elements: usize,
        device: &Device,
    ) -> Self {
        let part_rows = part_rows(rows, max_elements);
        let parts = (0..rows.rows()).step_by(part_rows).map(|start| {
            let part = rows.slice(start..(start + part_rows).min(rows.rows()));
            let packed = PackedTensor::from_rows(&part, device);
            (packed, bias_part(bias.as_deref(), start, part.rows(), device))
        });
        Self { parts: parts.collect(), path }
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
        Self { parts: parts.collect(), path: activations.into() }
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
        let small = self.path.small(x);
        // Few or not of all tokens, so that a short rest is computed by the same kernel.
        let x = self.path.operand(x, tokens <= few::MAX_TOKENS);
        if tokens <= rows {
            return self.multiply(&x, small.as_ref(), residual.as_ref());
        }
        let chunk = |start: usize| {
            let tokens = start..(start + rows).min(tokens);
            let residual =
                residual.as_ref().map(|residual| residual_rows(residual, tokens.clone()));
            let small = small.as_ref().map(|small| small.clone().slice([tokens.clone()]));
            self.multiply(&x.slice(tokens), small.as_ref(), residual.as_ref())
        };
        Tensor::cat((0..tokens).step_by(rows).map(chunk).collect(), 0)
    }

    /// Most tokens of a dispatch of `max_ops` operations.
    fn dispatch_tokens(&self, max_ops: u64) -> usize {
        let shapes = self.parts.iter().map(|(w, _)| 2 * w.rows() as u64 * w.in_features as u64);
        dispatch_rows(max_ops, shapes.max().unwrap_or(0), many::TILE)
    }

    fn multiply(
        &self,
        x: &Operand,
        small: Option<&Tensor<2>>,
        residual: Option<&Residual>,
    ) -> Tensor<2> {
        let mut start = 0;
        join(self.parts.iter().enumerate().map(|(part, (w, bias))| {
            let columns = start..start + w.rows();
            start = columns.end;
            let residual = residual.map(|residual| residual_columns(residual, columns));
            let epilogue = Epilogue { bias: bias.clone(), branch: None, residual };
            let epilogue = self.path.epilogue(small, part, epilogue);
            match x {
                Operand::Codes(x) => qmatmul(x, w, epilogue),
                Operand::Values(x, true) => qmatvec(x.clone(), w, epilogue),
                Operand::Values(x, false) => qmatmul_float(x.clone(), w, epilogue),
            }
        }))
    }

    fn bytes(&self) -> usize {
        let part =
            |(w, bias): &(PackedTensor, Tensor<1>)| w.bytes() + 4 * bias.shape().num_elements();
        self.parts.iter().map(part).sum::<usize>() + self.path.bytes()
    }
}

/// A layer whose weight and activations are rounded to codes but multiplied as floats.
#[derive(Clone, Debug)]
pub struct FakeQuantLinear {
    pub(super) full: FullLinear,
    pub(super) path: TokenPath,
}

impl FakeQuantLinear {
    /// The float form of the packed codes of `packed`.
    pub fn from_packed(packed: &PackedLinear) -> Self {
        let parts = packed.parts.iter().map(|(w, bias)| (dequantize_weight(w), bias.clone()));
        Self { full: FullLinear { parts: parts.collect() }, path: packed.path.clone() }
    }

    fn forward(&self, x: &LinearInput, residual: Option<&Residual>) -> Tensor<2> {
        let rounded = self.path.rounded(x);
        let (Some(low_rank), Some(small)) = (&self.path.low_rank, self.path.small(x)) else {
            return self.full.forward(rounded, residual);
        };
        let y = self.full.forward(rounded, None) + low_rank.product(small);
        match residual {
            Some(residual) => residual.clone().add_to(y),
            None => y,
        }
    }
}

/// Rows of a part of `rows` of which no tensor has more than `max_elements`.
fn part_rows(rows: &PackedRows, max_elements: usize) -> usize {
    let words = words_per_row(rows.bits, rows.in_features).max(GRID_WORDS * rows.groups());
    (max_elements / words.max(1)).max(1)
}
