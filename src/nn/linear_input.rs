//! What linear layers read: tokens, and the element-wise step before the layers.
//!
//! The step is carried out when the first layer asks, in the form that the layer needs: as floats,
//! or straight to the codes of packed activations without storing the floats. Layers that read the
//! same input and agree on its transform and codes share them.

use super::fusion;
use super::norm::{LayerNorm, Modulation};
use super::transform::Transform;
use crate::kernels::{
    Activation, PackedTensor, Residual, TokenTransform, layer_norm_quantize, transform_quantize,
};
use crate::nn::gelu_tanh;
use crate::quant::{InputTransform, PerFrame, TokenSpec};
use burn::tensor::{Int, Tensor};
use std::cell::{OnceCell, RefCell};
use std::ops::Range;
use std::sync::Arc;

/// Tokens `[tokens, in_features]` as [`Linear`](super::Linear) layers take them.
#[derive(Clone, Debug)]
pub struct LinearInput {
    x: Tensor<2>,
    step: Step,
    frames: Option<FrameTokens>,
    values: OnceCell<Tensor<2>>,
    /// The transformed tokens asked for last.
    transformed: RefCell<Option<(Arc<InputTransform>, Tensor<2>)>>,
    /// The codes asked for last.
    codes: RefCell<Option<(CodesKey, PackedTensor)>>,
}

/// Which frames of a video tokens belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameTokens {
    /// Number of the first token, in the order of the video's tokens.
    pub first: usize,
    /// Tokens of a frame.
    pub per_frame: usize,
}

impl FrameTokens {
    /// The tokens from the `offset`-th of these on.
    #[must_use]
    pub fn skip(self, offset: usize) -> Self {
        Self { first: self.first + offset, ..self }
    }
}

/// Quantizers of neighbouring tokens: how many of them, and how.
pub(super) type CodeRuns = Vec<(usize, TokenSpec)>;

/// What codes depend on.
type CodesKey = (Option<Arc<InputTransform>>, CodeRuns);

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
        Self {
            x,
            step,
            frames: None,
            values: OnceCell::new(),
            transformed: RefCell::new(None),
            codes: RefCell::new(None),
        }
    }

    /// The same, its tokens being those `frames` of a video.
    #[must_use]
    pub fn of_frames(self, frames: Option<FrameTokens>) -> Self {
        Self { frames, ..self }
    }

    /// Which frames of a video the tokens belong to, if they do.
    pub fn frames(&self) -> Option<FrameTokens> {
        self.frames
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

    /// As floats that `transform` makes of them.
    pub(super) fn transformed(&self, transform: &Transform) -> Tensor<2> {
        let mut transformed = self.transformed.borrow_mut();
        match &*transformed {
            Some((known, x)) if is_same(known, &transform.host) => x.clone(),
            _ => {
                let x = transform.apply(self.values());
                *transformed = Some((transform.host.clone(), x.clone()));
                x
            }
        }
    }

    /// One quantizer for all tokens.
    pub(super) fn one_run(&self, spec: TokenSpec) -> CodeRuns {
        vec![(self.tokens(), spec)]
    }

    /// A quantizer per frame; of tokens that belong to no frame, that of all frames.
    pub(super) fn frame_runs(&self, frames: &PerFrame) -> CodeRuns {
        match self.frames {
            Some(FrameTokens { first, per_frame }) if self.tokens() > 0 => {
                frames.runs(first, self.tokens(), per_frame)
            }
            _ => self.one_run(frames.any_frame()),
        }
    }

    /// As codes, of transformed tokens if there is a `transform`.
    pub(super) fn codes(&self, transform: Option<&Transform>, runs: CodeRuns) -> PackedTensor {
        let mut codes = self.codes.borrow_mut();
        match &*codes {
            Some(((of, known), packed))
                if *known == runs && is_same_or_none(of.as_ref(), transform) =>
            {
                packed.clone()
            }
            _ => {
                let packed = self.quantize_runs(transform, &runs);
                let key = (transform.map(|transform| transform.host.clone()), runs);
                *codes = Some((key, packed.clone()));
                packed
            }
        }
    }

    fn quantize_runs(&self, transform: Option<&Transform>, runs: &CodeRuns) -> PackedTensor {
        if let Some(transform) = transform.filter(|transform| !transform.is_fused) {
            return Self::new(self.transformed(transform)).quantize_runs(None, runs);
        }
        if !matches!(self.step, Step::Nothing) && !fusion::pays_on(&self.x.device()) {
            return Self::new(self.values()).quantize_runs(transform, runs);
        }
        if let [(_, spec)] = runs[..] {
            return self.quantize(self.x.clone(), transform, spec);
        }
        // Runs of different ranges are dispatches of their own; their codes are copied together.
        let mut start = 0;
        let parts = runs.iter().map(|&(tokens, spec)| {
            let rows = start..start + tokens;
            start = rows.end;
            self.quantize(self.x.clone().slice([rows]), transform, spec)
        });
        joined(&parts.collect::<Vec<_>>())
    }

    fn quantize(
        &self,
        x: Tensor<2>,
        transform: Option<&Transform>,
        spec: TokenSpec,
    ) -> PackedTensor {
        let none = TokenTransform::default();
        let tensors = transform.map_or(&none, |transform| &transform.tensors);
        match &self.step {
            Step::Nothing => transform_quantize(x, Activation::Identity, tensors, spec),
            Step::GeluTanh => transform_quantize(x, Activation::GeluTanh, tensors, spec),
            Step::Norm(step) => {
                let (norm, modulation) = &**step;
                let modulation = match transform {
                    Some(transform) => transform.after(modulation),
                    None => modulation.clone(),
                };
                let Modulation { factor, offset } = modulation;
                let [factor, offset] = [factor, offset].map(|row| row.flatten(0, 1));
                layer_norm_quantize(x, factor, offset, norm.eps(), tensors.hadamard, spec)
            }
        }
    }
}

fn is_same(a: &Arc<InputTransform>, b: &Arc<InputTransform>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

fn is_same_or_none(known: Option<&Arc<InputTransform>>, transform: Option<&Transform>) -> bool {
    match (known, transform) {
        (None, None) => true,
        (Some(known), Some(transform)) => is_same(known, &transform.host),
        _ => false,
    }
}

/// Codes of neighbouring tokens in one tensor.
fn joined(parts: &[PackedTensor]) -> PackedTensor {
    let tensors = |of: fn(&PackedTensor) -> Tensor<2, Int>| {
        Tensor::cat(parts.iter().map(of).collect::<Vec<_>>(), 0)
    };
    let (codes, grid) = (tensors(|part| part.codes.clone()), tensors(|part| part.grid.clone()));
    PackedTensor { codes, grid, ..parts[0].clone() }
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
