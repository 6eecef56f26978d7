//! One run: a student is made, trained, packed and measured.

use super::Study;
use anyhow::Context;
use qvgen::evaluate::{Evaluation, Statistic};
use qvgen::method::Rounding;
use qvgen::method::qvgen::{Loss, Method, Recipe};
use qvgen::models::Denoiser;
use qvgen::nn::{Limits, WeightSource, Weights};
use qvgen::pipeline::checkpoint::ComponentKind;
use qvgen::pipeline::packed::Arithmetic;
use qvgen::quant::Calibration;
use qvgen::train::{
    LoopSettings, OptimizerSettings, PackedSource, ParameterSource, Parameters, QuantizedLayers,
    Trainer,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

/// What all runs have in common.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Precisions.
    pub(super) bits: Vec<String>,
    /// Trained methods.
    pub(super) methods: Vec<Method>,
    /// Seeds per method.
    pub(super) seeds: usize,
    /// Updates.
    pub(super) steps: usize,
    /// Clips per update.
    pub(super) batch: usize,
    /// Highest learning rate of weights and Φ.
    pub(super) learning_rate: f64,
    /// Denoising steps of an evaluation.
    pub(super) sampling_steps: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            bits: vec!["w4a4".to_owned(), "w3a3".to_owned()],
            methods: Method::ALL.to_vec(),
            seeds: 3,
            steps: 600,
            batch: 8,
            learning_rate: 3e-4,
            sampling_steps: 12,
        }
    }
}

impl Plan {
    /// Enough to see that everything works.
    pub(super) fn quick() -> Self {
        Self {
            bits: vec!["w3a3".to_owned()],
            methods: vec![Method::QDm, Method::Qvgen],
            seeds: 1,
            steps: 12,
            batch: 2,
            sampling_steps: 4,
            ..Self::default()
        }
    }

    /// Every run, the first seed of everything first.
    pub(super) fn runs(&self) -> Vec<Run> {
        let mut runs = vec![Run { bits: "full".to_owned(), kind: Kind::Full, seed: 0 }];
        for seed in 0..self.seeds {
            for bits in &self.bits {
                let run = |kind| Run { bits: bits.clone(), kind, seed };
                if seed == 0 {
                    runs.extend([Kind::MinMax, Kind::Mse].map(run));
                }
                runs.extend(self.methods.iter().map(|&method| run(Kind::Trained(method))));
            }
        }
        runs
    }
}

/// What becomes of the full-precision model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// Nothing.
    Full,
    /// Rounding to the range.
    MinMax,
    /// Rounding to the range of least error.
    Mse,
    /// Training.
    Trained(Method),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.pad("full precision"),
            Self::MinMax => f.pad("rounding, min-max"),
            Self::Mse => f.pad("rounding, MSE"),
            Self::Trained(method) => f.pad(method.name()),
        }
    }
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    /// Precision.
    pub(super) bits: String,
    /// What is done.
    pub(super) kind: Kind,
    /// Start of its random numbers.
    pub(super) seed: usize,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}, seed {}", self.bits, self.kind, self.seed)
    }
}

/// What a run gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    /// The run.
    pub(super) run: Run,
    /// Share of clips that show what the caption says, speed aside.
    pub(super) caption: f64,
    /// Share of clips with the right shape.
    pub(super) shape: f64,
    /// Share of clips with the right color.
    pub(super) color: f64,
    /// Share of clips with the right direction.
    pub(super) direction: f64,
    /// Share of clips with the right background.
    pub(super) background: f64,
    /// Way of moving objects by the way asked for.
    pub(super) dynamic: f64,
    /// Smoothness of the way.
    pub(super) smoothness: f64,
    /// How far the object stays itself.
    pub(super) subject: f64,
    /// Agreement with the full-precision model's clips, decibels.
    pub(super) psnr: f64,
    /// Agreement with the full-precision model's clips.
    pub(super) ssim: f64,
    /// Mean squared difference of the velocities to the full-precision model's.
    pub(super) velocity: f64,
    /// Mean norm of the gradient over the first twentieth of the steps.
    pub(super) first_gradients: f64,
    /// Mean loss over the last tenth of the steps.
    pub(super) last_loss: f64,
    /// Loss, step by step.
    pub(super) losses: Vec<f32>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "caption {:.2}, shape {:.2}, direction {:.2}, PSNR {:.2}, velocity {:.5}",
            self.caption, self.shape, self.direction, self.psnr, self.velocity
        )
    }
}

/// Loads the transformer of `source`.
fn load(study: &Study<'_>, source: &dyn WeightSource) -> anyhow::Result<Box<dyn Denoiser>> {
    let limits = Limits { max_elements: study.device.max_elements() };
    let weights = Weights::new(source, &study.device.device);
    Ok(study.model.transformer.load(&weights, limits)?)
}

/// Carries out `run`.
pub(super) fn carry_out(study: &Study<'_>, run: &Run, plan: &Plan) -> anyhow::Result<Row> {
    let (transformer, trace) = match run.kind {
        Kind::Trained(method) => train(study, run, method, plan)?,
        _ => (rounded(study, run)?, Trace::default()),
    };
    let evaluated = study.evaluator.evaluate(&*transformer, &mut |_, _, _| ())?;
    row(run, &evaluated.evaluation, trace)
}

fn rounded(study: &Study<'_>, run: &Run) -> anyhow::Result<Box<dyn Denoiser>> {
    let rounding = match run.kind {
        Kind::Full => None,
        kind => {
            let mut rounding = Rounding::new(study.model.recommended_scope(run.bits.parse()?));
            if kind == Kind::MinMax {
                rounding.calibration = Calibration::MinMax;
            }
            Some(rounding)
        }
    };
    let rounding = rounding.as_ref().map(|rounding| (rounding, Arithmetic::Packed));
    let most = study.device.max_elements();
    let weights = study.model.weights(ComponentKind::Transformer, rounding, most)?;
    load(study, weights.source())
}

/// Norms and losses of a training.
#[derive(Default)]
struct Trace {
    norms: Vec<f64>,
    losses: Vec<f64>,
}

fn train(
    study: &Study<'_>,
    run: &Run,
    method: Method,
    plan: &Plan,
) -> anyhow::Result<(Box<dyn Denoiser>, Trace)> {
    let recipe = method.recipe(RANK, 0.5);
    let mut trainer = trainer(study, run, &recipe, plan)?;
    let mut trace = Trace::default();
    for _ in 0..plan.steps {
        let report = trainer.update()?;
        trace.norms.push(report.gradient_norm);
        trace.losses.push(report.loss);
    }
    let layers = trainer.layers.as_ref().context("a quantized student")?;
    let transformer = if method == Method::QvgenKept {
        // Φ stays, so this student cannot be packed: it is measured in floats.
        let mut layers = layers.clone();
        layers.begin_step(&mut trainer.parameters, 1, true);
        load(study, &ParameterSource::plain(&trainer.parameters, Some(&layers)))?
    } else {
        let max_elements = study.device.max_elements();
        load(study, &PackedSource { parameters: &trainer.parameters, layers, max_elements })?
    };
    Ok((transformer, trace))
}

/// Directions of Φ at the start, a sixth of the width of the small model.
const RANK: usize = 16;

fn trainer<'a>(
    study: &'a Study<'_>,
    run: &Run,
    recipe: &Recipe,
    plan: &Plan,
) -> anyhow::Result<Trainer<'a>> {
    let mut parameters: Parameters = study.full.clone();
    let scope = study.model.recommended_scope(run.bits.parse()?);
    let config = study.model.transformer.clone();
    let seed = run.seed as u64;
    let linears = config.linears();
    let layers =
        QuantizedLayers::prepare(&mut parameters, &linears, &scope, recipe, plan.steps, seed)?;
    let teacher = match recipe.loss {
        Loss::GroundTruth => None,
        _ => Some(load(study, &ParameterSource::plain(&study.full, None))?),
    };
    Ok(Trainer {
        parameters,
        config,
        layers: Some(layers),
        teacher,
        noising: study.model.noising()?,
        loss: recipe.loss,
        optimizer: OptimizerSettings {
            learning_rate: plan.learning_rate,
            scale_learning_rate: plan.learning_rate,
            low_rank_learning_rate: plan.learning_rate,
            ..OptimizerSettings::default()
        },
        settings: LoopSettings {
            steps: plan.steps,
            batch: plan.batch,
            seed,
            ..LoopSettings::default()
        },
        data: &study.data,
        device: study.device.device.clone(),
        parallel: study.device.adapter.is_none(),
        limits: Limits { max_elements: study.device.max_elements() },
        step: 0,
    })
}

fn row(run: &Run, evaluation: &Evaluation, trace: Trace) -> anyhow::Result<Row> {
    let captions = &evaluation.captions.as_ref().context("a model of the world")?.all;
    let agreement = evaluation.agreement.as_ref().context("a reference")?;
    let of = |value: &Option<Statistic>| value.as_ref().map_or(f64::NAN, |value| value.mean);
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let steps = trace.losses.len();
    Ok(Row {
        run: run.clone(),
        caption: of(&captions.caption_accuracy),
        shape: of(&captions.shape_accuracy),
        color: of(&captions.color_accuracy),
        direction: of(&captions.direction_accuracy),
        background: of(&captions.background_accuracy),
        dynamic: finite(of(&captions.dynamic_degree)),
        smoothness: finite(of(&captions.motion_smoothness)),
        subject: finite(of(&captions.subject_consistency)),
        psnr: of(&agreement.psnr),
        ssim: of(&agreement.ssim),
        velocity: of(&agreement.velocity_mse),
        first_gradients: mean(&trace.norms[..steps / 20]),
        last_loss: mean(&trace.losses[steps - steps / 10..]),
        losses: trace.losses.iter().map(|&loss| loss as f32).collect(),
    })
}

/// JSON knows no NaN; a value that no clip has is counted as 0.
fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}

/// The rows of earlier calls.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<Row>> {
    match std::fs::read_to_string(path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(err) => Err(err).with_context(|| path.display().to_string()),
        Ok(text) => text
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| path.display().to_string()))
            .collect(),
    }
}

/// Adds a row.
pub(super) fn append(path: &Path, row: &Row) -> anyhow::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    writeln!(file, "{}", serde_json::to_string(row)?)?;
    Ok(())
}
