//! What the layers of a full-precision model read while it samples: the data of post-training
//! quantization.
//!
//! A few prompts go through the real sampler, at its real timesteps and with its guidance. Every
//! layer that shall be quantized shows its input to an observer, which keeps statistics of all
//! tokens on the device ([`crate::kernels::channel_statistics()`]) and a bounded number of tokens in
//! host memory; nothing else is read back. After every clip the state is written to a file of the
//! user's cache, so that work that was stopped goes on where it was and other methods
//! need not observe again.

mod cache;
mod observer;
mod prompts;
mod sensitivity;
mod source;

pub use cache::{CacheKey, cache_folder};
pub use prompts::read_prompts;
pub use sensitivity::{Sensitivities, sensitivities};

use super::PipelineError;
use super::cancel::Cancel;
use super::checkpoint::ComponentKind;
use super::model::VideoModel;
use super::plan::Plan;
use super::sample::{Sampler, Stage};
use super::settings::SampleSettings;
use crate::kernels::device::OpenDevice;
use crate::method::ptq::Observed;
use cache::Cache;
use observer::TokenObserver;
use serde::Serialize;
use source::ObservingSource;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// What is observed, and how.
#[derive(Clone, Debug)]
pub struct CalibrationJob {
    /// One clip is sampled for each.
    pub prompts: Vec<String>,
    /// How; prompt and seed are each clip's own.
    pub sampling: SampleSettings,
    /// Tokens of each layer's input that are kept.
    pub samples: usize,
    /// Layers of the transformer that are observed.
    pub layers: BTreeSet<String>,
    /// Most bytes on the device: blocks beyond wait in host memory.
    pub max_memory: Option<u64>,
    /// Folder of the files that work can go on from; `None` to keep none.
    pub cache: Option<PathBuf>,
}

/// What was done, for reports.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CalibrationReport {
    /// Clips that were observed; 0 if nothing was.
    pub clips: usize,
    /// Of these, clips that an earlier call has observed.
    pub resumed_clips: usize,
    /// Denoising steps of a clip.
    pub steps: usize,
    /// `[frames, height, width]` of a clip.
    pub size: [usize; 3],
    /// Forward passes of the transformer, guidance included.
    pub forwards: usize,
    /// Tokens of each layer's input that were kept at most.
    pub samples: usize,
}

/// The inputs of layers by their names.
pub type Observations = BTreeMap<String, Observed>;

/// Told of progress: `done` of `total` denoising steps of all clips.
pub type Progress<'a> = dyn FnMut(usize, usize) + 'a;

/// Samples the clips of `job` and returns what its layers have read.
///
/// # Errors
///
/// If the model cannot be run, a value is not finite, or the work is canceled; what was observed of
/// whole clips stays in the cache.
pub fn calibrate(
    model: &VideoModel,
    job: &CalibrationJob,
    device: &OpenDevice,
    cancel: &Cancel,
    progress: &mut Progress<'_>,
) -> Result<(Observations, CalibrationReport), PipelineError> {
    job.sampling.check(model)?;
    let cache = job.open_cache(model, cancel)?;
    let observer = Arc::new(TokenObserver::new(job, &device.device));
    let resumed_clips = match &cache {
        Some(cache) => cache.load(&observer),
        None => 0,
    };
    if resumed_clips < job.prompts.len() {
        let rest = resumed_clips..job.prompts.len();
        Run { model, job, device, cancel }.observe(&observer, rest, cache.as_ref(), progress)?;
    }
    let report = job.report(resumed_clips);
    Ok((observer.observations()?, report))
}

impl CalibrationJob {
    fn open_cache(
        &self,
        model: &VideoModel,
        cancel: &Cancel,
    ) -> Result<Option<Cache>, PipelineError> {
        let Some(folder) = &self.cache else { return Ok(None) };
        let key = CacheKey::of(model, self, cancel)?;
        Ok(Some(Cache::new(folder, &key)))
    }

    /// Forward passes of all clips.
    fn forwards(&self) -> usize {
        self.sampling.forwards() * self.prompts.len()
    }

    fn report(&self, resumed_clips: usize) -> CalibrationReport {
        let SampleSettings { frames, height, width, steps, .. } = self.sampling;
        CalibrationReport {
            clips: self.prompts.len(),
            resumed_clips,
            steps,
            size: [frames, height, width],
            forwards: self.forwards(),
            samples: self.samples,
        }
    }

    /// The settings of clip `index`.
    fn clip(&self, index: usize) -> SampleSettings {
        let prompt = self.prompts[index].clone();
        SampleSettings { prompt, seed: index as u64, ..self.sampling.clone() }
    }
}

/// One call at work.
struct Run<'a> {
    model: &'a VideoModel,
    job: &'a CalibrationJob,
    device: &'a OpenDevice,
    cancel: &'a Cancel,
}

impl Run<'_> {
    fn observe(
        &self,
        observer: &Arc<TokenObserver>,
        clips: std::ops::Range<usize>,
        cache: Option<&Cache>,
        progress: &mut Progress<'_>,
    ) -> Result<(), PipelineError> {
        let Self { model, job, device, cancel } = *self;
        let sampler = Sampler { model, device, cancel: cancel.clone() };
        let guided = job.sampling.uses_guidance();
        let mut texts: Vec<&str> = clips.clone().map(|clip| job.prompts[clip].as_str()).collect();
        texts.extend(guided.then_some(job.sampling.negative_prompt.as_str()));
        let mut embeds = sampler.encode(&texts, &mut |_, _, _| {})?;
        let negative = if guided { embeds.pop() } else { None };
        let weights = model.weights(ComponentKind::Transformer, None, device.max_elements())?;
        let plan = Plan::new(model, &job.sampling, &weights, device, job.max_memory);
        plan.check(job.max_memory)?;
        let source = ObservingSource::new(weights.source(), &job.layers, observer.clone());
        let transformer = sampler.load_from(&source, plan.resident_blocks, &mut |_, _, _| {})?;
        let (first, steps) = (clips.start, job.sampling.steps);
        progress(0, clips.len() * steps);
        for (clip, embeds) in clips.clone().zip(embeds) {
            observer.begin_clip(clip);
            let contexts = std::iter::once(embeds).chain(negative.clone()).collect();
            let mut advance = |stage, done: usize, _: usize| {
                if stage == Stage::Denoise {
                    observer.end_step();
                    progress((clip - first) * steps + done, clips.len() * steps);
                }
            };
            sampler.latent(&job.clip(clip), &*transformer, contexts, &mut advance)?;
            observer.check()?;
            if let Some(cache) = cache {
                cache.store(observer, clip + 1);
            }
        }
        Ok(())
    }
}
