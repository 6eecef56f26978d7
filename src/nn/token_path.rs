//! What happens to the tokens of a quantized layer besides its product: a transform, the quantizer,
//! and a branch of low rank around both.

use super::linear_input::{CodeRuns, LinearInput};
use super::transform::Transform;
use super::{FullLinear, RunClock, fusion, linear_input::Operand};
use crate::kernels::{
    Branch, Epilogue, LogTable, Residual, dequantize_weight, log_quantize, matmul,
};
use crate::quant::{ActivationQuantizer, InputTransform, LowRankBranch, TokenSpec};
use burn::tensor::{Device, Tensor};
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
    /// `[rank, in_features]`, the rank filled up to a multiple of four.
    pub(super) down: FullLinear,
    /// `[out_features, rank]`, in the parts of the weight.
    pub(super) up: FullLinear,
    /// Whether its second product is part of the packed one.
    is_fused: bool,
}

impl LowRank {
    /// `branch`, for parts of the weight of up to `part_rows` rows.
    pub(super) fn new(branch: &LowRankBranch, part_rows: usize, device: &Device) -> Self {
        let LowRankBranch { rank, down, up } = branch;
        let (padded, k) = (rank.next_multiple_of(4), down.len() / rank);
        let mut rows = down.clone();
        rows.resize(padded * k, 0.0);
        let mut columns = vec![0.0; up.len() / rank * padded];
        for (padded, row) in columns.chunks_exact_mut(padded).zip(up.chunks_exact(*rank)) {
            padded[..*rank].copy_from_slice(row);
        }
        let whole = |values: &[f32], k| FullLinear::new(values, None, k, values.len(), device);
        let up = FullLinear::new(&columns, None, padded, part_rows * padded, device);
        Self::from_factors(whole(&rows, k), up, device)
    }

    /// The branch of these factors on `device`.
    pub(super) fn from_factors(down: FullLinear, up: FullLinear, device: &Device) -> Self {
        Self { down, up, is_fused: fusion::pays_on(device) }
    }

    /// The tokens times the first factor, `[tokens, rank]`.
    pub(super) fn small(&self, x: Tensor<2>) -> Tensor<2> {
        self.down.forward(x, None)
    }

    /// `small` times the second factor, `[tokens, out_features]`.
    pub(super) fn product(&self, small: Tensor<2>) -> Tensor<2> {
        self.up.forward(small, None)
    }

    /// What follows the product of part `part` of the weight: the branch of `small` tokens, too.
    fn epilogue(&self, small: &Tensor<2>, part: usize, epilogue: Epilogue) -> Epilogue {
        let (up, zeros) = self.up.parts[part].clone();
        let Epilogue { bias, residual, .. } = epilogue;
        if self.is_fused {
            let branch = Some(Branch { small: small.clone(), up });
            return Epilogue { bias, branch, residual };
        }
        // The branch takes the place of the residual, which is added to it first.
        let gate = residual.as_ref().and_then(|residual| residual.gate.clone());
        let branch = Epilogue { bias: zeros, branch: None, residual };
        let value = matmul(small.clone(), up, branch);
        Epilogue { bias, branch: None, residual: Some(Residual { value, gate }) }
    }

    fn bytes(&self) -> usize {
        self.down.bytes() + self.up.bytes()
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

    /// What follows the product of part `part` of the weight and `small` tokens.
    pub(super) fn epilogue(
        &self,
        small: Option<&Tensor<2>>,
        part: usize,
        epilogue: Epilogue,
    ) -> Epilogue {
        match (&self.low_rank, small) {
            (Some(low_rank), Some(small)) => low_rank.epilogue(small, part, epilogue),
            _ => epilogue,
        }
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
