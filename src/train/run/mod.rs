//! A whole training: from a configuration to a model folder, with everything on the way.

mod folder;
mod prepare;
mod watch;

pub use folder::{Mode, RunFolder};
pub use prepare::{OpenedModel, check_layers};

use super::TrainError;
use super::config::Config;
use super::export::{Export, averaged};
use super::figures::write_run_figures;
use super::metrics::{Metric, MetricsFile, StepMetric, ValidationMetric};
use super::open_dataset::{Part, open_dataset};
use super::state::Checkpoints;
use super::trainer::{StepReport, Trainer};
use crate::kernels::device::OpenDevice;
use crate::pipeline::PipelineError;
use crate::pipeline::cancel::Cancel;
use crate::pipeline::model::VideoModel;
use prepare::{full_weights, identity, trainer};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;
use watch::Watch;

/// Largest weight file of the model in the end.
const MAX_SHARD_BYTES: u64 = 4 << 30;

/// What to do.
#[derive(Debug)]
pub struct TrainJob<'a> {
    /// What is trained, how and on what.
    pub config: &'a Config,
    /// The model that it names.
    pub model: &'a VideoModel,
    /// Where it runs.
    pub device: &'a OpenDevice,
    /// What to do with a training that is in the folder already.
    pub mode: Mode,
    /// Whether settings may have changed since it was started.
    pub allow_changes: bool,
    /// Stops the training after the update at hand, with a checkpoint.
    pub cancel: Cancel,
}

/// What happens in a training.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// `done` of `total` `unit`s of something that is no update.
    Working {
        /// What is done.
        what: &'static str,
        /// What is counted.
        unit: &'static str,
        /// So many are done.
        done: usize,
        /// Out of so many.
        total: usize,
    },
    /// The training goes on from a checkpoint.
    Resumed {
        /// Updates that were done before.
        step: usize,
        /// The checkpoint.
        path: &'a Path,
    },
    /// An update is done.
    Step {
        /// What it did.
        metric: &'a StepMetric,
        /// Updates in all.
        steps: usize,
        /// Mean duration of the last updates.
        seconds_per_step: f64,
    },
    /// The loss on the clips held out.
    Validated(&'a ValidationMetric),
    /// A checkpoint was written.
    Saved(&'a Path),
    /// A sample video was written.
    Sampled(&'a Path),
    /// Something worth knowing.
    Note(&'a str),
}

/// How a training ended.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Updates done, those before a resumption included.
    pub done: usize,
    /// Updates asked for.
    pub steps: usize,
    /// Loss of the last update, if one was done.
    pub loss: Option<f64>,
    /// The last measurement on the clips held out.
    pub validation: Option<ValidationMetric>,
    /// The newest checkpoint.
    pub checkpoint: Option<PathBuf>,
    /// The trained model; `None` if the training was stopped before.
    pub model: Option<PathBuf>,
}

/// Trains as `job` says and exports the model; `observe` is told of everything.
///
/// # Errors
///
/// See [`TrainError`]; the checkpoints written so far stay.
pub fn train(
    job: &TrainJob<'_>,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, TrainError> {
    let config = job.config;
    let recipe = config.recipe()?;
    check_layers(config, recipe.as_ref(), job.model)?;
    let weights = full_weights(job.model, job.device)?;
    let folder = RunFolder::claim(&config.out, job.mode)?;
    let seed = config.training.seed;
    let mut encoded = |done, total| {
        observe(Event::Working { what: "encoding the clips", unit: "clips", done, total });
    };
    let data = open_dataset(&config.data, job.model, job.device, &job.cancel, seed, &mut encoded)?;
    if data.is_empty() {
        return Err(TrainError::Setting("there are no clips to train on".into()));
    }
    let [training, held_out] = Part::split(&*data, config.data.hold_out);
    let checkpoints = Checkpoints {
        folder: folder.checkpoints(),
        identity: identity(config, &weights, data.len())?,
        method: config.method_name().to_owned(),
        allow_changes: job.allow_changes,
    };
    let restored = match job.mode {
        Mode::Resume => checkpoints.newest(&job.device.device)?,
        Mode::New | Mode::Restart => None,
    };
    if let Some(restored) = &restored {
        observe(Event::Resumed { step: restored.step, path: &restored.path });
        for change in &restored.changes {
            observe(Event::Note(&format!("changed since the checkpoint: {change}")));
        }
    }
    folder.write_config(&config.to_toml())?;
    let watch = Watch::new(job, held_out, &weights, observe)?;
    let checkpoint = restored.as_ref().map(|restored| restored.path.clone());
    let trainer = trainer(job, recipe, &weights, &training, restored, observe)?;
    let metrics = MetricsFile::open(&folder.metrics(), trainer.step)?;
    let mut run = Run {
        job,
        folder: &folder,
        checkpoints,
        watch,
        metrics,
        seconds: Vec::new(),
        saved: None,
        outcome: Outcome {
            done: trainer.step,
            steps: config.training.steps,
            loss: None,
            validation: None,
            checkpoint,
            model: None,
        },
        trainer,
    };
    run.finish_updates(observe)?;
    Ok(run.outcome)
}

/// A training under way.
struct Run<'a> {
    job: &'a TrainJob<'a>,
    folder: &'a RunFolder,
    checkpoints: Checkpoints,
    watch: Watch<'a>,
    metrics: MetricsFile,
    trainer: Trainer<'a>,
    /// Durations of the last updates.
    seconds: Vec<f64>,
    /// Updates in the newest checkpoint of this process.
    saved: Option<usize>,
    outcome: Outcome,
}

/// Updates over which the duration is averaged.
const RECENT: usize = 20;

impl Run<'_> {
    fn finish_updates(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<(), TrainError> {
        let steps = self.outcome.steps;
        while self.trainer.step < steps {
            if self.job.cancel.is_cancelled() {
                return self.stop(observe);
            }
            self.update(observe)?;
            let (done, log) = (self.trainer.step, &self.job.config.log);
            let is_due = |every: usize| every > 0 && (done.is_multiple_of(every) || done == steps);
            if is_due(log.validation_every) {
                self.validate(observe)?;
            }
            if is_due(log.sample_every) {
                self.watch.sample(&self.trainer, done, &self.folder.samples(), observe)?;
            }
            if is_due(self.job.config.checkpoint.every) {
                self.save(observe)?;
            }
        }
        self.export(observe)
    }

    fn update(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<(), TrainError> {
        let start = Instant::now();
        let report = self.trainer.update()?;
        let seconds = start.elapsed().as_secs_f64();
        if self.seconds.len() == RECENT {
            self.seconds.remove(0);
        }
        self.seconds.push(seconds);
        let StepReport { step, loss, gradient_norm, phase, spectra } = report;
        if let (Some(singular_values), Some(phase)) = (spectra, phase) {
            self.metrics.write(&Metric::Spectrum { step, rank: phase.rank, singular_values })?;
        }
        let optimizer = &self.trainer.optimizer;
        let metric = StepMetric {
            step,
            loss,
            gradient_norm,
            learning_rate: optimizer.learning_rate * optimizer.rate_share(step, self.outcome.steps),
            rank: phase.map(|phase| phase.rank),
            u: phase.map(|phase| phase.u),
            seconds,
        };
        self.metrics.write(&Metric::Step(metric.clone()))?;
        self.outcome.done = self.trainer.step;
        self.outcome.loss = Some(loss);
        let seconds_per_step = self.seconds.iter().sum::<f64>() / self.seconds.len() as f64;
        observe(Event::Step { metric: &metric, steps: self.outcome.steps, seconds_per_step });
        Ok(())
    }

    fn validate(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<(), TrainError> {
        // The update after which it is measured is the last one done.
        let step = self.trainer.step - 1;
        if let Some(metric) = self.watch.validate(&self.trainer, step)? {
            self.metrics.write(&Metric::Validation(metric))?;
            observe(Event::Validated(&metric));
            self.outcome.validation = Some(metric);
        }
        Ok(())
    }

    fn save(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<(), TrainError> {
        let step = self.trainer.step;
        let path = self.checkpoints.save(step, &self.trainer.parameters)?;
        self.checkpoints.prune(self.job.config.checkpoint.keep, step)?;
        write_run_figures(&self.folder.metrics(), &self.folder.figures())?;
        observe(Event::Saved(&path));
        self.outcome.checkpoint = Some(path);
        self.saved = Some(step);
        Ok(())
    }

    /// Stops on request; what was done since the last checkpoint is saved.
    fn stop(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<(), TrainError> {
        if self.saved == Some(self.trainer.step) || self.outcome.loss.is_none() {
            return Ok(());
        }
        self.save(observe)
    }

    fn export(&mut self, observe: &mut dyn FnMut(Event<'_>)) -> Result<(), TrainError> {
        let out = self.folder.model();
        observe(Event::Working { what: "exporting", unit: "models", done: 0, total: 1 });
        let parameters = averaged(&self.trainer.parameters);
        let export = Export {
            model: self.job.model,
            parameters: &parameters,
            layers: self.trainer.layers.as_ref(),
            method: self.job.config.method_name(),
            late_guidance_drop: self
                .job
                .config
                .recipe()?
                .map_or(0.0, |recipe| recipe.late_guidance_drop),
            max_shard_bytes: MAX_SHARD_BYTES,
        };
        match export.write(&out, true, &self.job.cancel) {
            // Everything is in the checkpoint; resuming exports it.
            Err(TrainError::Pipeline(PipelineError::Cancelled)) => return Ok(()),
            other => other?,
        }
        observe(Event::Working { what: "exporting", unit: "models", done: 1, total: 1 });
        self.outcome.model = Some(out);
        Ok(())
    }
}
