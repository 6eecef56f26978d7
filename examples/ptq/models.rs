//! One run on the small model: observed, quantized, written, read back and measured.

use anyhow::Context;
use qvgen::evaluate::{Evaluation, EvaluationSettings, Evaluator, Statistic, balanced_cases};
use qvgen::kernels::device::OpenDevice;
use qvgen::method::ptq::auto::Choice;
use qvgen::method::ptq::{ActivationMode, Method};
use qvgen::method::{Rounding, Scope};
use qvgen::models::Denoiser;
use qvgen::pipeline::calibrate::CalibrationJob;
use qvgen::pipeline::cancel::Cancel;
use qvgen::pipeline::checkpoint::ComponentKind;
use qvgen::pipeline::embedded::{EmbeddedModel, EmbeddedName};
use qvgen::pipeline::model::VideoModel;
use qvgen::pipeline::quantize::{PostTraining, QuantizeJob, quantize};
use qvgen::pipeline::sample::Sampler;
use serde::{Deserialize, Serialize};
use std::cell::OnceCell;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What all runs have in common.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Precisions.
    pub(super) bits: Vec<String>,
    /// Methods.
    pub(super) methods: Vec<Method>,
    /// Methods that are also run with static ranges, and modes of these.
    pub(super) fixed: Vec<(Method, ActivationMode)>,
    /// Precisions at which `auto` chooses widths and methods of the weights, and the stored bits per
    /// weight that it may spend.
    pub(super) budgets: Vec<(String, f64)>,
    /// Calibrations and evaluations per method.
    pub(super) seeds: usize,
    /// Clips of an evaluation.
    pub(super) clips: usize,
    /// Denoising steps of an evaluation, and of a calibration.
    pub(super) steps: usize,
    /// Clips of a calibration.
    pub(super) calibration_clips: usize,
}

impl Default for Plan {
    fn default() -> Self {
        let methods = [Method::MinMax, Method::SmoothQuant, Method::SmoothQuantShift, Method::Qvd];
        Self {
            bits: ["w8a8", "w6a6", "w4a8", "w4a6", "w4a4", "w3a16"].map(str::to_owned).to_vec(),
            methods: Method::ALL.to_vec(),
            fixed: methods
                .map(|method| (method, ActivationMode::Static))
                .into_iter()
                .chain([(Method::Qvd, ActivationMode::PerFrame)])
                .collect(),
            budgets: [5.0, 6.0].map(|bits| ("w4a8".to_owned(), bits)).to_vec(),
            seeds: 3,
            clips: 24,
            steps: 12,
            calibration_clips: 16,
        }
    }
}

impl Plan {
    /// Enough to see that everything works.
    pub(super) fn quick() -> Self {
        Self {
            bits: vec!["w4a4".to_owned()],
            methods: vec![Method::MinMax, Method::SmoothQuant, Method::Qvd],
            fixed: vec![(Method::Qvd, ActivationMode::Static)],
            budgets: vec![("w4a4".to_owned(), 5.5)],
            seeds: 1,
            clips: 2,
            steps: 3,
            calibration_clips: 1,
        }
    }

    /// Every run, the first seed of everything first.
    pub(super) fn runs(&self) -> Vec<Run> {
        let mut runs = Vec::new();
        for seed in 0..self.seeds {
            let run = |bits: &str, kind| Run { bits: bits.to_owned(), kind, seed };
            runs.push(run("full", Kind::Full));
            for bits in &self.bits {
                let weight_only = bits.ends_with("a16");
                let dynamic = self.methods.iter().map(|&m| (m, ActivationMode::Dynamic));
                let fixed = self.fixed.iter().filter(|_| !weight_only).copied();
                runs.extend(dynamic.chain(fixed).map(|(method, mode)| {
                    run(bits, Kind::Method(method.name().to_owned(), mode.name().to_owned()))
                }));
            }
            let budgets = self.budgets.iter();
            runs.extend(budgets.map(|(bits, most)| run(bits, Kind::Budget(most.to_string()))));
            for (bits, name) in
                [("w4a4", EmbeddedName::PocketW4A4), ("w3a3", EmbeddedName::PocketW3A3)]
            {
                runs.push(run(bits, Kind::Student(name.name().to_owned())));
            }
        }
        runs
    }

    /// One line about the whole.
    pub(super) fn describe(&self, device: &str) -> String {
        format!(
            "{} runs: {} seeds of {} clips, {} steps, calibrated on {} clips; {device}",
            self.runs().len(),
            self.seeds,
            self.clips,
            self.steps,
            self.calibration_clips
        )
    }
}

/// What becomes of the full-precision model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// Nothing.
    Full,
    /// A post-training method, and where its ranges come from.
    Method(String, String),
    /// What `auto` chose of all methods and widths within these bits per weight.
    Budget(String),
    /// A student inside the program.
    Student(String),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.pad("full precision"),
            Self::Method(method, mode) if mode == "dynamic" => f.pad(method),
            Self::Method(method, mode) => f.pad(&format!("{method}, {mode}")),
            Self::Budget(most) => f.pad(&format!("auto, {most} bits")),
            Self::Student(name) => f.pad(&format!("QVGen student {name}")),
        }
    }
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) bits: String,
    pub(super) kind: Kind,
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
    pub(super) run: Run,
    /// Shares of clips.
    pub(super) caption: f64,
    pub(super) shape: f64,
    pub(super) color: f64,
    pub(super) direction: f64,
    pub(super) background: f64,
    /// Agreement with the full-precision model's clips.
    pub(super) psnr: f64,
    pub(super) ssim: f64,
    /// Mean squared difference of the velocities to the full-precision model's.
    pub(super) velocity: f64,
    /// Stored bits per weight of the quantized layers.
    pub(super) stored_bits: f64,
    /// Mean relative error of the layers' outputs on tokens held out.
    pub(super) output_error: f64,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "caption {:.2}, PSNR {:.2}, SSIM {:.3}, velocity {:.5}, {:.2} bits, output {:.4}",
            self.caption, self.psnr, self.ssim, self.velocity, self.stored_bits, self.output_error
        )
    }
}

/// The model and everything that runs share.
pub(super) struct Study<'a> {
    model: &'a VideoModel,
    device: &'a OpenDevice,
    plan: &'a Plan,
    /// What was observed, for all methods of a seed.
    cache: tempfile::TempDir,
    /// One for each seed.
    evaluators: Vec<OnceCell<Evaluator<'a>>>,
}

impl<'a> Study<'a> {
    pub(super) fn new(
        model: &'a VideoModel,
        device: &'a OpenDevice,
        plan: &'a Plan,
    ) -> anyhow::Result<Self> {
        let evaluators = (0..plan.seeds).map(|_| OnceCell::new()).collect();
        Ok(Self { model, device, plan, cache: tempfile::tempdir()?, evaluators })
    }

    fn settings(&self, seed: usize) -> EvaluationSettings {
        let mut settings = EvaluationSettings::suggested(&self.model.defaults, 1);
        settings.sampling.steps = self.plan.steps;
        settings.seeds = vec![seed as u64];
        settings
    }

    /// Carries out `run`.
    pub(super) fn row(&self, run: &Run) -> anyhow::Result<Row> {
        let folder = tempfile::tempdir()?;
        let out = folder.path().join("packed");
        let (path, student, quantized): (PathBuf, Option<EmbeddedModel>, _) = match &run.kind {
            Kind::Full => (self.model.folder.path().to_owned(), None, None),
            Kind::Student(name) => {
                let name = EmbeddedName::of(Path::new(name)).context("a student")?;
                let student = EmbeddedModel::unpack(name)?;
                (student.path().to_owned(), Some(student), None)
            }
            Kind::Method(method, mode) => {
                let how = (method.parse()?, mode.as_str(), Choice::LeastError);
                let report = self.quantize(run, how, &out)?;
                (out, None, Some(report))
            }
            Kind::Budget(most) => {
                let how = (Method::Auto, "dynamic", Choice::BudgetBits(most.parse()?));
                let report = self.quantize(run, how, &out)?;
                (out, None, Some(report))
            }
        };
        let evaluation = self.evaluate(&path, run.seed)?;
        drop(student);
        let (stored_bits, output_error) = quantized.unwrap_or((f64::NAN, f64::NAN));
        row(run, &evaluation, stored_bits, output_error)
    }

    /// Stored bits per weight and mean error of the outputs.
    fn quantize(
        &self,
        run: &Run,
        (method, mode, choice): (Method, &str, Choice),
        out: &Path,
    ) -> anyhow::Result<(f64, f64)> {
        let mode = ActivationMode::ALL.into_iter().find(|known| known.name() == mode);
        let model = self.model;
        let scope = Scope::recommended(run.bits.parse()?, model.transformer.sensitive_layers());
        let rounding = Rounding::new(match method {
            Method::Qvd => scope.including(model.transformer.timestep_projections()),
            _ => scope,
        });
        let clips = self.plan.calibration_clips;
        // Other prompts for every seed, and none of them a clip of the evaluation's noise.
        let prompts = balanced_cases(clips * (run.seed + 1))?;
        let prompts = prompts.into_iter().skip(clips * run.seed).map(|case| case.prompt);
        let layers = model.transformer.linears().into_iter().map(|layer| layer.name);
        let calibration = CalibrationJob {
            prompts: prompts.collect(),
            sampling: self.settings(run.seed).sampling,
            samples: Method::Auto.samples(),
            layers: layers.filter(|name| rounding.layer(name).is_some()).collect(),
            max_memory: None,
            cache: Some(self.cache.path().to_owned()),
        };
        let job = QuantizeJob {
            out: out.to_owned(),
            transformer: rounding,
            post_training: Some(PostTraining {
                method,
                choice,
                activations: mode.context("a mode")?,
                rank: 32,
                calibration: Some(calibration),
                measures: true,
            }),
            text_encoder: None,
            refer: true,
            overwrite: false,
            max_shard_bytes: u64::MAX,
        };
        let report = quantize(model, &job, self.device, &Cancel::new(), &mut |_, _, _| ())?;
        Ok((report.mean_bits(), report.mean_output_error().unwrap_or(f64::NAN)))
    }

    fn evaluate(&self, path: &Path, seed: usize) -> anyhow::Result<Evaluation> {
        let transformer = self.load(&VideoModel::open(path)?)?;
        let evaluated = self.evaluator(seed)?.evaluate(&*transformer, &mut |_, _, _| ())?;
        Ok(evaluated.evaluation)
    }

    fn load(&self, model: &VideoModel) -> anyhow::Result<Box<dyn Denoiser>> {
        let most = self.device.max_elements();
        let weights = model.weights(ComponentKind::Transformer, None, most)?;
        let sampler = Sampler { model, device: self.device, cancel: Cancel::new() };
        Ok(sampler.load_transformer(&weights, &mut |_, _, _| ())?)
    }

    /// The evaluator of a seed, which has sampled the full-precision model.
    fn evaluator(&self, seed: usize) -> anyhow::Result<&Evaluator<'a>> {
        let cell = &self.evaluators[seed];
        if cell.get().is_none() {
            let progress = &mut |_, _, _| ();
            let (settings, cases) = (self.settings(seed), balanced_cases(self.plan.clips)?);
            let cancel = Cancel::new();
            let mut evaluator =
                Evaluator::new(self.model, self.device, cancel, settings, cases, progress)?;
            evaluator.set_reference("full precision", &*self.load(self.model)?, progress)?;
            let _ = cell.set(evaluator);
        }
        cell.get().context("the evaluator was made above")
    }
}

fn row(
    run: &Run,
    evaluation: &Evaluation,
    stored_bits: f64,
    output_error: f64,
) -> anyhow::Result<Row> {
    let captions = &evaluation.captions.as_ref().context("a model of the world")?.all;
    let agreement = evaluation.agreement.as_ref().context("a reference")?;
    let of = |value: &Option<Statistic>| value.as_ref().map_or(0.0, |value| value.mean);
    // JSON knows no NaN.
    let finite = |value: f64| if value.is_finite() { value } else { 0.0 };
    Ok(Row {
        run: run.clone(),
        caption: of(&captions.caption_accuracy),
        shape: of(&captions.shape_accuracy),
        color: of(&captions.color_accuracy),
        direction: of(&captions.direction_accuracy),
        background: of(&captions.background_accuracy),
        psnr: of(&agreement.psnr),
        ssim: of(&agreement.ssim),
        velocity: of(&agreement.velocity_mse),
        stored_bits: finite(stored_bits),
        output_error: finite(output_error),
    })
}

/// Whether `run` is among `rows`.
pub(super) fn has(rows: &[Row], run: &Run) -> bool {
    rows.iter().any(|row| row.run == *run)
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
