//! What linear layers read: tokens, and the element-wise step before the layers.
//!
//! The step is carried out when the first layer asks, in the form that the layer needs: as floats,
//! or straight to the codes of packed activations without storing the floats. Layers that read the
//! same input and agree on its codes share them.

use super::norm::{LayerNorm, Modulation};
use crate::kernels::{Activation, PackedTensor, Residual, activate_quantize, layer_norm_quantize};
use crate::nn::gelu_tanh;
use crate::quant::TokenSpec;
use burn::tensor::Tensor;
use std::cell::{OnceCell, RefCell};
use std::ops::Range;

/// Tokens `[tokens, in_features]` as [`Linear`](super::Linear) layers take them.
#[derive(Clone, Debug)]
pub struct LinearInput {
    x: Tensor<2>,
    step: Step,
    values: OnceCell<Tensor<2>>,
    /// The codes asked for last.
    codes: RefCell<Option<(TokenSpec, PackedTensor)>>,
}

/// What is done to tokens before they are multiplied.
#[derive(Clone, Debug)]
enum Step {
    Nothing,
    GeluTanh,
    /// The layer without its own weight and bias, which are in the modulation.
    Norm(Box<(LayerNorm, Modulation)>),
}

impl LinearInput {
    /// The tokens as they are.
    pub fn new(x: Tensor<2>) -> Self {
        Self::after(x, Step::Nothing)
    }

    /// [`gelu_tanh`] of the tokens.
    pub fn gelu_tanh(x: Tensor<2>) -> Self {
        Self::after(x, Step::GeluTanh)
    }

    /// The tokens normalized by `norm`, and then modulated.
    pub fn normed(x: Tensor<2>, norm: &LayerNorm, modulation: Option<&Modulation>) -> Self {
        match norm.then(modulation) {
            Some(scaling) => Self::after(x, Step::Norm(Box::new((norm.clone(), scaling)))),
            None => Self::new(norm.forward(x)),
        }
    }

    fn after(x: Tensor<2>, step: Step) -> Self {
        Self { x, step, values: OnceCell::new(), codes: RefCell::new(None) }
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.x.dims()[0]
    }

    /// As floats.
    pub fn values(&self) -> Tensor<2> {
        let values = || match &self.step {
            Step::Nothing => self.x.clone(),
            Step::GeluTanh => gelu_tanh(self.x.clone()),
            Step::Norm(step) => step.0.scaled(self.x.clone(), &step.1),
        };
        self.values.get_or_init(values).clone()
    }

    /// As codes of `spec`.
    pub(super) fn codes(&self, spec: TokenSpec) -> PackedTensor {
        let mut codes = self.codes.borrow_mut();
        match &*codes {
            Some((known, packed)) if *known == spec => packed.clone(),
            _ => {
                let packed = self.quantize(spec);
                *codes = Some((spec, packed.clone()));
                packed
            }
        }
    }

    fn quantize(&self, spec: TokenSpec) -> PackedTensor {
        let x = self.x.clone();
        match &self.step {
            Step::Nothing => activate_quantize(x, Activation::Identity, spec),
            Step::GeluTanh => activate_quantize(x, Activation::GeluTanh, spec),
            Step::Norm(step) => {
                let (norm, Modulation { factor, offset }) = &**step;
                let [factor, offset] = [factor, offset].map(|row| row.clone().flatten(0, 1));
                layer_norm_quantize(x, factor, offset, norm.eps(), spec)
            }
        }
    }
}

/// Tokens in the form that a packed layer multiplies.
#[expect(clippy::large_enum_variant, reason = "one value per call; tensors are handles")]
pub(super) enum Operand {
    /// Packed codes.
    Codes(PackedTensor),
    /// Floats, and whether they are few.
    Values(Tensor<2>, bool),
}

impl Operand {
    /// Some of the tokens.
    pub(super) fn slice(&self, tokens: Range<usize>) -> Self {
        match self {
            Self::Codes(x) => {
                let codes = x.codes.clone().slice([tokens.clone()]);
                let grid = x.grid.clone().slice([tokens]);
                Self::Codes(PackedTensor { codes, grid, ..x.clone() })
            }
            Self::Values(x, is_short) => Self::Values(x.clone().slice([tokens]), *is_short),
        }
    }
}

/// The part of some rows of a result.
pub(super) fn residual_rows(residual: &Residual, rows: Range<usize>) -> Residual {
    Residual { value: residual.value.clone().slice([rows]), gate: residual.gate.clone() }
}

/// The part of some columns of a result.
pub(super) fn residual_columns(
    Residual { value, gate }: &Residual,
    columns: Range<usize>,
) -> Residual {
    if value.dims()[1] == columns.len() {
        return Residual { value: value.clone(), gate: gate.clone() };
    }
    let narrow = |x: &Tensor<2>| x.clone().narrow(1, columns.start, columns.len());
    Residual { value: narrow(value), gate: gate.as_ref().map(narrow) }
}
