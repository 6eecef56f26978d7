//! What happens to the tokens of a quantized layer besides its product: a transform, the quantizer,
//! and a branch of low rank around both.

use super::linear_input::{CodeRuns, LinearInput};
use super::transform::Transform;
use super::{RunClock, linear_input::Operand};
use crate::kernels::{Branch, LogTable, dequantize_weight, log_quantize};
use crate::quant::{ActivationQuantizer, InputTransform, LowRankBranch, TokenSpec};
use burn::tensor::{Device, Tensor, TensorData};
use std::sync::Arc;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct TokenPath {
    pub(super) transform: Option<Transform>,
    pub(super) low_rank: Option<LowRank>,
    /// `None` for weight-only.
    pub(super) activations: Option<Arc<ActivationQuantizer>>,
    /// Of an [`ActivationQuantizer::Log`].
    log: Option<LogTable>,
    /// What quantizers that depend on the step ask for it.
    pub(super) clock: RunClock,
}

/// A [`LowRankBranch`] on a device, of tokens as they come: what a transform makes of them is part of
/// it, so that transformed tokens need not be stored for it.
#[derive(Clone, Debug)]
pub(super) struct LowRank {
    /// `[in_features, rank]`, the rank filled up to a multiple of four.
    pub(super) down: Tensor<2>,
    /// `[out_features of the part, rank]`, for each part of the weight.
    pub(super) up: Vec<Tensor<2>>,
}

impl LowRank {
    /// `branch`, for parts of the weight of up to `part_rows` rows.
    pub(super) fn new(branch: &LowRankBranch, part_rows: usize, device: &Device) -> Self {
        let LowRankBranch { rank, down, up } = branch;
        let (padded, k) = (rank.next_multiple_of(4), down.len() / rank);
        let mut rows = down.clone();
        rows.resize(padded * k, 0.0);
        let down = Tensor::from_data(TensorData::new(rows, [padded, k]), device);
        let part = |rows: &[f32]| {
            let mut part = vec![0.0; rows.len() / rank * padded];
            for (part, row) in part.chunks_exact_mut(padded).zip(rows.chunks_exact(*rank)) {
                part[..*rank].copy_from_slice(row);
            }
            Tensor::from_data(TensorData::new(part, [rows.len() / rank, padded]), device)
        };
        Self { down: down.transpose(), up: up.chunks(part_rows * rank).map(part).collect() }
    }

    /// The tokens times the first factor, `[tokens, rank]`.
    pub(super) fn small(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.down.clone())
    }

    fn bytes(&self) -> usize {
        self.up.iter().chain([&self.down]).map(|part| 4 * part.shape().num_elements()).sum()
    }
}

impl From<Option<TokenSpec>> for TokenPath {
    fn from(spec: Option<TokenSpec>) -> Self {
        let activations = spec.map(|spec| Arc::new(ActivationQuantizer::Uniform(spec)));
        Self { activations, ..Self::default() }
    }
}

impl TokenPath {
    /// A path on `device`, with a clock of its own.
    pub(super) fn new(
        transform: Arc<InputTransform>,
        low_rank: Option<LowRank>,
        activations: Option<Arc<ActivationQuantizer>>,
        device: &Device,
    ) -> Self {
        let log = match activations.as_deref() {
            Some(ActivationQuantizer::Log(log)) => Some(LogTable::new(*log, device)),
            _ => None,
        };
        let transform = Transform::new(transform, device);
        Self { transform, low_rank, activations, log, clock: RunClock::default() }
    }

    /// The tokens as the product takes them; `is_few` of the values, where it takes values.
    pub(super) fn operand(&self, x: &LinearInput, is_few: bool) -> Operand {
        match self.quantizer(x) {
            Quantizer::Codes(runs) => Operand::Codes(x.codes(self.transform.as_ref(), runs)),
            Quantizer::Log(log) => Operand::Values(log_quantize(self.values(x), log).1, is_few),
            Quantizer::Nothing => Operand::Values(self.values(x), is_few),
        }
    }

    /// The tokens as their codes stand for them.
    pub(super) fn rounded(&self, x: &LinearInput) -> Tensor<2> {
        match self.quantizer(x) {
            Quantizer::Codes(runs) => dequantize_weight(&x.codes(self.transform.as_ref(), runs)),
            Quantizer::Log(log) => log_quantize(self.values(x), log).1,
            Quantizer::Nothing => self.values(x),
        }
    }

    /// The tokens times the first factor of the branch; `None` without one.
    pub(super) fn small(&self, x: &LinearInput) -> Option<Tensor<2>> {
        self.low_rank.as_ref().map(|low_rank| low_rank.small(x.values()))
    }

    /// The branch beside part `part` of the weight, of `small` tokens.
    pub(super) fn branch(&self, small: &Tensor<2>, part: usize) -> Option<Branch> {
        let up = &self.low_rank.as_ref()?.up;
        Some(Branch { small: small.clone(), up: up[part].clone() })
    }

    fn values(&self, x: &LinearInput) -> Tensor<2> {
        match &self.transform {
            Some(transform) => x.transformed(transform),
            None => x.values(),
        }
    }

    fn quantizer(&self, x: &LinearInput) -> Quantizer<'_> {
        if let Some(log) = &self.log {
            return Quantizer::Log(log);
        }
        match self.activations.as_deref() {
            None | Some(ActivationQuantizer::Log(_)) => Quantizer::Nothing,
            Some(ActivationQuantizer::Uniform(spec)) => Quantizer::Codes(x.one_run(*spec)),
            Some(ActivationQuantizer::ByStep(steps)) => {
                Quantizer::Codes(x.one_run(steps.spec(self.clock.now())))
            }
            Some(ActivationQuantizer::PerFrame(frames)) => Quantizer::Codes(x.frame_runs(frames)),
        }
    }

    /// Bytes on the device.
    pub(super) fn bytes(&self) -> usize {
        self.transform.as_ref().map_or(0, Transform::bytes)
            + self.low_rank.as_ref().map_or(0, LowRank::bytes)
    }

    /// Values of the transform, none if there is none.
    pub(super) fn host_transform(&self) -> Arc<InputTransform> {
        self.transform.as_ref().map(|transform| transform.host.clone()).unwrap_or_default()
    }
}

/// What the path does at this step.
enum Quantizer<'a> {
    Nothing,
    Codes(CodeRuns),
    Log(&'a LogTable),
}
