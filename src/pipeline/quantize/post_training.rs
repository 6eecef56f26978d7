//! Post-training quantization of a transformer: observe, choose, solve layer by layer.

use super::spool::Spool;
use super::{LayerReport, Stage};
use crate::kernels::device::OpenDevice;
use crate::method::Rounding;
use crate::method::ptq::auto::{self, Candidate, Choice, Options};
use crate::method::ptq::{
    ActivationGoal, ActivationMode, Goal, Measures, Method, Observed, Problem,
};
use crate::models::LinearShape;
use crate::nn::{WeightError, WeightSource};
use crate::pipeline::PipelineError;
use crate::pipeline::calibrate::{CalibrationJob, Observations, Sensitivities};
use crate::pipeline::cancel::Cancel;
use crate::pipeline::checkpoint::{Checkpoint, ComponentKind};
use crate::quant::{Bits, Grid, QuantizedLayer};
use serde::Serialize;
use std::borrow::Cow;

/// How layers are quantized after training.
#[derive(Clone, Debug)]
pub struct PostTraining {
    /// The method.
    pub method: Method,
    /// What [`Method::Auto`] chooses by.
    pub choice: Choice,
    /// Where ranges of activations come from.
    pub activations: ActivationMode,
    /// Most columns of a low-rank branch.
    pub rank: usize,
    /// What is observed first; `None` to do without: methods that look at inputs then see standard
    /// normal numbers.
    pub calibration: Option<CalibrationJob>,
    /// Whether the error of outputs is measured even of methods that do not look at inputs.
    pub measures: bool,
}

/// Tokens of the standard normal inputs that stand in for observed ones.
const DATA_FREE_TOKENS: usize = 256;

/// What a layer shall become.
#[derive(Clone, Debug)]
pub(super) struct Task<'a> {
    pub(super) linear: &'a LinearShape,
    pub(super) goal: Goal,
    pub(super) method: Method,
}

/// The choice of a method or width for one layer, and what it was chosen from.
#[derive(Clone, Debug, Serialize)]
pub struct ChoiceReport {
    /// Layer.
    pub name: String,
    /// What a relative square of its output's error becomes in the prediction; absent where that
    /// was not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sensitivity: Option<f64>,
    /// Number of the candidate that was taken.
    pub chosen: usize,
    /// What was measured.
    pub candidates: Vec<Candidate>,
}

/// Solves the layers of one component.
pub(super) struct Solver<'a> {
    pub(super) post_training: &'a PostTraining,
    pub(super) rounding: &'a Rounding,
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) observations: &'a Observations,
    /// Of the layers where they were measured.
    pub(super) sensitivities: &'a Sensitivities,
    pub(super) device: &'a OpenDevice,
    pub(super) cancel: &'a Cancel,
}

/// A layer's parameters, with what is known of its input.
struct Loaded<'a> {
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    observed: Cow<'a, Observed>,
}

impl<'a> Solver<'a> {
    /// The tasks of `linears`, those that stay in full precision left out.
    pub(super) fn tasks(&self, linears: &'a [LinearShape]) -> Vec<Task<'a>> {
        let task = |linear: &'a LinearShape| {
            let spec = self.rounding.layer(&linear.name)?;
            let activations = spec.activations.map(|tokens| ActivationGoal {
                bits: tokens.bits,
                scheme: tokens.scheme,
                mode: self.post_training.activations,
            });
            let goal = Goal { weights: spec.weights, activations, rank: self.post_training.rank };
            Some(Task { linear, goal, method: self.post_training.method })
        };
        linears.iter().filter_map(task).collect()
    }

    /// Decides methods and widths of `tasks` by measuring, if that is what the method asks for.
    pub(super) fn choose(
        &self,
        tasks: &mut [Task<'_>],
        progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<Vec<ChoiceReport>, PipelineError> {
        if self.post_training.method != Method::Auto {
            return Ok(Vec::new());
        }
        let choice = self.post_training.choice;
        let mut options = Vec::new();
        for (done, task) in tasks.iter().enumerate() {
            progress(Stage::Measuring, done, tasks.len());
            options.push(self.options(task, choice.mixes_widths())?);
        }
        progress(Stage::Measuring, tasks.len(), tasks.len());
        let chosen = auto::choose(&options, choice)
            .map_err(|err| PipelineError::Setting(err.to_string()))?;
        let mut reports = Vec::new();
        for ((task, options), chosen) in tasks.iter_mut().zip(options).zip(chosen) {
            let Candidate { method, bits, .. } = options.candidates[chosen];
            (task.method, task.goal) = (method, auto::with_width(task.goal, bits));
            let (name, candidates) = (task.linear.name.clone(), options.candidates);
            let sensitivity = self.sensitivities.get(&name).copied();
            reports.push(ChoiceReport { name, sensitivity, chosen, candidates });
        }
        Ok(reports)
    }

    fn options(&self, task: &Task<'_>, mixes_widths: bool) -> Result<Options, PipelineError> {
        let loaded = self.load(task)?;
        let widths: &[Bits] = if mixes_widths { &auto::WIDTHS } else { &[task.goal.weights.bits] };
        let mut candidates = Vec::new();
        for &bits in widths {
            let problem = self.problem(&loaded, auto::with_width(task.goal, bits));
            for method in auto::OPTIONS {
                self.cancel.check()?;
                candidates.push(Candidate::measure(&problem, method));
            }
        }
        let sensitivity = self.sensitivities.get(&task.linear.name).copied().unwrap_or(1.0);
        Ok(Options { weights: loaded.weight.len() as u64, sensitivity, candidates })
    }

    /// Solves `tasks` into `spool`.
    pub(super) fn solve(
        &self,
        tasks: &[Task<'_>],
        spool: &mut Spool,
        progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<Vec<LayerReport>, PipelineError> {
        let mut reports = Vec::new();
        for (done, task) in tasks.iter().enumerate() {
            self.cancel.check()?;
            progress(Stage::Quantizing, done, tasks.len());
            reports.push(self.solve_one(task, spool)?);
        }
        progress(Stage::Quantizing, tasks.len(), tasks.len());
        Ok(reports)
    }

    fn solve_one(&self, task: &Task<'_>, spool: &mut Spool) -> Result<LayerReport, PipelineError> {
        let LinearShape { name, out_features, in_features } = task.linear;
        let loaded = self.load(task)?;
        let problem = self.problem(&loaded, task.goal);
        let layer = task.method.solve(&problem);
        self.check(name, &layer)?;
        let has_measures = self.post_training.measures || self.post_training.calibration.is_some();
        let measures = has_measures.then(|| Measures::of(&problem, &layer));
        let relative_error = relative_error(&loaded.weight, &layer);
        let spooled = spool.add(name, &layer, task.method.name())?;
        let weights = (out_features * in_features) as f64;
        let weight = format!("{name}.weight");
        let stored = self.checkpoint.tensors().info(&weight).map_or(0, |info| info.byte_len());
        Ok(LayerReport {
            name: format!("{}.{name}", ComponentKind::Transformer.name()),
            precision: spooled.precision.to_string(),
            shape: [*out_features, *in_features],
            relative_error,
            bits_per_weight: spooled.bytes as f64 * 8.0 / weights,
            bytes_before: stored,
            bytes_after: spooled.bytes,
            method: Some(task.method),
            measures,
        })
    }

    fn load(&self, task: &Task<'_>) -> Result<Loaded<'a>, PipelineError> {
        let LinearShape { name, out_features, in_features } = task.linear;
        let weight =
            self.checkpoint.values(&format!("{name}.weight"), &[*out_features, *in_features])?;
        let bias_name = format!("{name}.bias");
        let bias = self
            .checkpoint
            .has(&bias_name)
            .then(|| self.checkpoint.values(&bias_name, &[*out_features]));
        let observed = match self.observations.get(name) {
            Some(observed) if !observed.places.is_empty() => Cow::Borrowed(observed),
            _ => {
                let seed =
                    name.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31) + u64::from(byte));
                Cow::Owned(Observed::data_free(*in_features, DATA_FREE_TOKENS, seed))
            }
        };
        Ok(Loaded { weight, bias: bias.transpose()?, observed })
    }

    fn problem<'b>(&'b self, loaded: &'b Loaded<'_>, goal: Goal) -> Problem<'b> {
        let place = (&self.device.device, self.device.max_elements());
        Problem::new(&loaded.weight, loaded.bias.as_deref(), goal, &loaded.observed, place)
    }

    /// Refuses grids and factors that nothing can be computed with.
    fn check(&self, name: &str, layer: &QuantizedLayer) -> Result<(), PipelineError> {
        let is_finite = |grid: &Grid| grid.scale.is_finite() && grid.zero_point.is_finite();
        let mut factors =
            layer.low_rank.iter().flat_map(|branch| branch.down.iter().chain(&branch.up));
        if layer.rows.grids.iter().all(is_finite) && factors.all(|value| value.is_finite()) {
            return Ok(());
        }
        let tensor = format!("{name}.weight");
        Err(WeightError::Unusable {
            message: format!("its values are too large to quantize; use --layer {name}=full"),
            path: self.checkpoint.tensors().path_of(&tensor).to_owned(),
            tensor,
        }
        .into())
    }
}

/// `‖W − Ŵ‖ / ‖W‖` of the weight that the layer was given after its transform, branch included.
fn relative_error(weight: &[f32], layer: &QuantizedLayer) -> f64 {
    let k = layer.rows.in_features;
    let mut exact = weight.to_vec();
    layer.transform.fold_weight(&mut exact, k);
    let mut values = layer.rows.values();
    if let Some(branch) = &layer.low_rank {
        for (row, up) in values.chunks_exact_mut(k).zip(branch.up.chunks_exact(branch.rank)) {
            for (factor, down) in up.iter().zip(branch.down.chunks_exact(k)) {
                row.iter_mut().zip(down).for_each(|(value, down)| *value += factor * down);
            }
        }
    }
    let square = |value: f32| f64::from(value) * f64::from(value);
    let error: f64 = exact.iter().zip(&values).map(|(w, value)| square(w - value)).sum();
    let norm: f64 = exact.iter().map(|&w| square(w)).sum();
    if norm > 0.0 { (error / norm).sqrt() } else { 0.0 }
}
