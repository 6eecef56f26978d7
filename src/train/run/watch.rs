//! Looking at a student in training: its loss on clips held out, and videos, with and without Φ.

use super::{Event, TrainJob};
use crate::models::{Denoiser, Tiling};
use crate::nn::{AttentionPrecision, ConvPrecision, WeightSource, Weights};
use crate::pipeline::PipelineError;
use crate::pipeline::model::ComponentWeights;
use crate::pipeline::plan::Plan;
use crate::pipeline::sample::{Sampler, Stage};
use crate::pipeline::settings::{SampleSettings, TilingChoice};
use crate::pipeline::video;
use crate::train::dataset::Dataset;
use crate::train::export::PackedSource;
use crate::train::metrics::ValidationMetric;
use crate::train::open_dataset::Part;
use crate::train::random::{Purpose, key};
use crate::train::source::ParameterSource;
use crate::train::trainer::{Trainer, scalar};
use crate::train::{Pass, QuantizedLayers, TrainError};
use burn::tensor::Tensor;
use rayon::prelude::*;
use serde_json::json;
use std::path::Path;

/// A video to be made again and again.
struct Sample {
    settings: SampleSettings,
    embeds: Vec<Tensor<2>>,
    tiling: Option<Tiling>,
}

/// What is looked at.
pub(super) struct Watch<'a> {
    job: &'a TrainJob<'a>,
    held_out: Part<'a>,
    samples: Vec<Sample>,
}

impl<'a> Watch<'a> {
    /// Prepares the measurements: prompts are encoded now, so that the text encoder need not be
    /// loaded again.
    pub(super) fn new(
        job: &'a TrainJob<'a>,
        held_out: Part<'a>,
        weights: &ComponentWeights,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<Self, TrainError> {
        let mut samples = Vec::new();
        if job.config.log.sample_every > 0 {
            for settings in sample_settings(job)? {
                settings.check(job.model)?;
                let target = job.config.out.join("samples").join("step-000000.mp4");
                video::check_target(&target, settings.width, settings.height, settings.fps)
                    .map_err(PipelineError::from)?;
                let plan = Plan::new(job.model, &settings, weights, job.device, None);
                let prompts = [settings.prompt.as_str(), settings.negative_prompt.as_str()];
                let prompts = &prompts[..if settings.uses_guidance() { 2 } else { 1 }];
                let mut advance = |stage, done, total| observe(progress(stage, done, total));
                let embeds = job.sampler().encode(prompts, &mut advance)?;
                samples.push(Sample { settings, embeds, tiling: plan.tiling });
            }
        }
        Ok(Self { job, held_out, samples })
    }

    /// The mean loss on the clips held out, at noise levels and with noise that never change;
    /// `None` if there are no such clips.
    pub(super) fn validate(
        &self,
        trainer: &Trainer<'_>,
        step: usize,
    ) -> Result<Option<ValidationMetric>, TrainError> {
        let count = self.held_out.len();
        if count == 0 {
            return Ok(None);
        }
        let without = without_phi(trainer);
        let seed = self.job.config.training.seed;
        let one = |index: usize| -> Result<[f64; 2], TrainError> {
            let (latent, text) = self.held_out.clip(index)?;
            let sigma = trainer.settings.sigma((index as f64 + 0.5) / count as f64);
            let noise = key(seed, Purpose::Validation, 0, index);
            let example = trainer.noised(latent, text, sigma, noise);
            let loss = scalar(trainer.pass().loss(&example)?)?;
            let Some(without) = &without else { return Ok([loss, 0.0]) };
            let pass = Pass { layers: Some(without), ..trainer.pass() };
            Ok([loss, scalar(pass.loss(&example)?)?])
        };
        let losses: Vec<[f64; 2]> = if trainer.parallel {
            (0..count).into_par_iter().map(one).collect::<Result<_, _>>()?
        } else {
            (0..count).map(one).collect::<Result<_, _>>()?
        };
        let mean = |which: usize| losses.iter().map(|pair| pair[which]).sum::<f64>() / count as f64;
        let loss_without_phi = without.is_some().then(|| mean(1));
        Ok(Some(ValidationMetric { step, loss: mean(0), loss_without_phi }))
    }

    /// Writes the videos of `done` updates; with Φ as it is, and what remains of the student
    /// without it, packed. A video that shows nothing is reported, not an error: training may
    /// mend it.
    pub(super) fn sample(
        &self,
        trainer: &Trainer<'_>,
        done: usize,
        folder: &Path,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), TrainError> {
        let parameters = &trainer.parameters;
        let layers = trainer.layers.as_ref();
        let has_phi = without_phi(trainer).is_some();
        let plain = ParameterSource::plain(parameters, layers);
        let max_elements = self.job.device.max_elements();
        let packed = layers.map(|layers| PackedSource { parameters, layers, max_elements });
        let mut students: Vec<(&str, &dyn WeightSource)> = Vec::new();
        if has_phi || packed.is_none() {
            students.push(("", &plain));
        }
        if let Some(packed) = &packed {
            students.push((if has_phi { "-without-phi" } else { "" }, packed));
        }
        for (suffix, source) in students {
            let transformer = self.transformer(trainer, source)?;
            for (number, sample) in self.samples.iter().enumerate() {
                let number =
                    if self.samples.len() > 1 { format!("-{number}") } else { String::new() };
                let path = folder.join(format!("step-{done:06}{number}{suffix}.mp4"));
                match self.video(sample, &*transformer, &path, done, observe) {
                    Ok(()) => observe(Event::Sampled(&path)),
                    Err(problem @ (PipelineError::NotFinite { .. } | PipelineError::Video(_))) => {
                        observe(Event::Note(&format!("no sample video: {problem}")));
                    }
                    // The loop writes a checkpoint and stops.
                    Err(PipelineError::Cancelled) => return Ok(()),
                    Err(err) => return Err(err.into()),
                }
            }
        }
        Ok(())
    }

    fn transformer(
        &self,
        trainer: &Trainer<'_>,
        source: &dyn WeightSource,
    ) -> Result<Box<dyn Denoiser>, TrainError> {
        let weights = Weights::new(source, &trainer.device);
        Ok(trainer.config.load(&weights, trainer.limits)?)
    }

    fn video(
        &self,
        sample: &Sample,
        transformer: &dyn Denoiser,
        path: &Path,
        done: usize,
        observe: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), PipelineError> {
        let sampler = self.job.sampler();
        let mut advance = |stage, done, total| observe(progress(stage, done, total));
        let embeds = sample.embeds.clone();
        let latent = sampler.latent(&sample.settings, transformer, embeds, &mut advance)?;
        let frames = sampler.frames(&sample.settings, &latent, sample.tiling, &mut advance)?;
        let metadata = json!({
            "generator": concat!("qvgen ", env!("CARGO_PKG_VERSION")),
            "training_steps": done,
            "method": self.job.config.method_name(),
            "settings": sample.settings,
        });
        Ok(video::write(&frames, path, &metadata)?)
    }
}

impl TrainJob<'_> {
    fn sampler(&self) -> Sampler<'_> {
        Sampler { model: self.model, device: self.device, cancel: self.cancel.clone() }
    }
}

/// The layers with Φ switched off; `None` if there is no Φ.
fn without_phi(trainer: &Trainer<'_>) -> Option<QuantizedLayers> {
    let layers = trainer.layers.as_ref()?;
    layers.phase().filter(|phase| phase.rank > 0)?;
    let mut without = layers.clone();
    without.set_phi(false);
    Some(without)
}

fn sample_settings(job: &TrainJob<'_>) -> Result<Vec<SampleSettings>, TrainError> {
    let defaults = &job.model.defaults;
    let (data, log) = (&job.config.data, &job.config.log);
    let prompts = match (log.sample_prompts.as_slice(), &defaults.prompt) {
        ([], Some(prompt)) => vec![prompt.clone()],
        ([], None) => {
            return Err(TrainError::Setting(
                "log.sample_every asks for videos: say what they show in log.sample_prompts".into(),
            ));
        }
        (prompts, _) => prompts.to_vec(),
    };
    let settings = |prompt| SampleSettings {
        prompt,
        negative_prompt: defaults.negative_prompt.clone(),
        frames: data.frames.unwrap_or(defaults.frames),
        width: data.width.unwrap_or(defaults.width),
        height: data.height.unwrap_or(defaults.height),
        steps: log.sample_steps.unwrap_or(defaults.steps),
        guidance_scale: defaults.guidance_scale,
        dynamic_guidance: false,
        late_guidance_drop: 0.0,
        flow_shift: None,
        scheduler: None,
        seed: job.config.training.seed,
        fps: defaults.fps,
        attention: AttentionPrecision::default(),
        vae_precision: ConvPrecision::default(),
        tiling: TilingChoice::Auto,
    };
    Ok(prompts.into_iter().map(settings).collect())
}

fn progress(stage: Stage, done: usize, total: usize) -> Event<'static> {
    let (what, unit) = match stage {
        Stage::Text => ("encoding prompts", "blocks"),
        Stage::Load => ("loading", "blocks"),
        Stage::Denoise => ("sampling", "steps"),
        Stage::Decode => ("decoding", "latent frames"),
    };
    Event::Working { what, unit, done, total }
}
