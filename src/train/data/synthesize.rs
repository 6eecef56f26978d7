//! Prompts to latents that the model itself makes: a student can learn from its teacher alone.

use super::captions::for_each_line;
use super::digest::transformer_digest;
use super::encode::finish;
use super::store::{Part, Store};
use super::texts::{cache_texts, check_finite, text_key};
use super::{
    CacheJob, CacheProgress, CacheReport, CacheStage, Entry, Index, Key, ModelFacts, SourceKind,
    data_error,
};
use crate::models::{Denoiser, TextContext};
use crate::nn::Trace;
use crate::pipeline::PipelineError;
use crate::pipeline::checkpoint::ComponentKind;
use crate::pipeline::sample::Sampler;
use crate::pipeline::settings::SampleSettings;
use crate::train::TrainError;
use burn::tensor::{Tensor, TensorData};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::Path;

/// How latents of prompts are made.
#[derive(Clone, Debug)]
pub struct PromptSettings {
    /// Size, steps, guidance and seed; its prompt is not used.
    pub sampling: SampleSettings,
    /// Latents per prompt, each from its own noise.
    pub samples: usize,
}

/// The prompts of the text file at `path`, one a line; blank lines do not count.
///
/// # Errors
///
/// If the file cannot be read or has no prompts.
pub fn read_prompts(path: &Path) -> Result<Vec<String>, TrainError> {
    let mut prompts = Vec::new();
    for_each_line(path, |_, text| {
        prompts.push(text.to_owned());
        Ok(())
    })?;
    if prompts.is_empty() {
        return Err(data_error("the list has no prompts; write one a line", path));
    }
    Ok(prompts)
}

/// The seed of the noise for sample number `sample` of `prompt`: it depends on nothing else, so
/// that prompts can be added anywhere in a list.
pub fn prompt_seed(seed: u64, prompt: &str, sample: usize) -> u64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update((sample as u64).to_le_bytes());
    hash.update(prompt);
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hash.finalize());
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// A latent that is to be made.
struct Pending<'a> {
    prompt: &'a str,
    seed: u64,
    key: Key,
}

/// Makes latents of `prompts` with the model; what was cached before with the same settings stays.
///
/// # Errors
///
/// If a setting does not fit the model, a file of the model is missing, the device fails or the
/// folder cannot be written. If the work was stopped, what was cached stays and the index lists it.
pub fn cache_prompts(
    job: &CacheJob<'_>,
    prompts: &[String],
    settings: &PromptSettings,
    progress: &mut CacheProgress<'_>,
) -> Result<CacheReport, TrainError> {
    let sampling = &settings.sampling;
    sampling.check(job.model)?;
    if settings.samples == 0 {
        return Err(TrainError::Setting(
            "0 samples per prompt make no cache; use 1 or more".into(),
        ));
    }
    let facts = ModelFacts::of(job.model)?;
    let fingerprint = fingerprint(job, sampling, &facts)?;
    let store = Store::create(&job.out, job.dtype, SourceKind::Prompts)?;
    let others = ["", sampling.negative_prompt.as_str()];
    let texts = prompts.iter().map(String::as_str).chain(others);
    let texts = cache_texts(job, &store, &facts, texts, progress)?;

    let mut report = CacheReport { texts, ..CacheReport::default() };
    let mut index = Index::new(SourceKind::Prompts, facts.clone(), text_key("", job.model, &facts));
    let shape = sampling.latent_shape(job.model);
    let (mut pending, mut entries) = (Vec::new(), Vec::new());
    // The same prompt twice would give the same latents.
    let mut seen = BTreeSet::new();
    for prompt in prompts.iter().filter(|prompt| seen.insert(prompt.as_str())) {
        for sample in 0..settings.samples {
            let seed = prompt_seed(sampling.seed, prompt, sample);
            let key = Key::of(&["prompt", prompt, &seed.to_string()]);
            let is_there = store.find(Part::Latent, &key, &fingerprint).is_some();
            report.reused += usize::from(is_there);
            entries.push((is_there, prompt, seed, key.clone()));
            if !is_there {
                pending.push(Pending { prompt, seed, key });
            }
        }
    }
    let synthesis = Synthesis { job, settings, facts: &facts, store: &store, fingerprint };
    let outcome = synthesis.make(&pending, &mut report.made, progress);
    index.is_complete = match &outcome {
        Ok(()) => true,
        Err(TrainError::Pipeline(PipelineError::Cancelled)) => false,
        Err(_) => return outcome.map(|()| report),
    };
    let mut left = report.made;
    for (is_there, prompt, seed, latent) in entries {
        // Those that were missing were made in order.
        if !is_there {
            if left == 0 {
                continue;
            }
            left -= 1;
        }
        let (source, caption) = (String::new(), prompt.clone());
        let text = text_key(prompt, job.model, &facts);
        index.entries.push(Entry { latent, text, shape, source, caption, seed: Some(seed) });
    }
    finish(job, &index, &mut report)?;
    outcome.map(|()| report)
}

/// What a latent depends on beside its prompt and seed.
fn fingerprint(
    job: &CacheJob<'_>,
    sampling: &SampleSettings,
    facts: &ModelFacts,
) -> Result<Key, TrainError> {
    let SampleSettings { negative_prompt, frames, width, height, steps, .. } = sampling;
    let dynamic = if sampling.dynamic_guidance { " dynamic" } else { "" };
    let numbers = format!(
        "{frames} {width} {height} {steps} {} {:?} {:?} {:?} {:?}{dynamic}",
        sampling.guidance_scale,
        sampling.flow_shift,
        sampling.scheduler,
        job.model.scheduler,
        job.dtype
    );
    let transformer = transformer_digest(job.model)?;
    let parts =
        [negative_prompt, &numbers, transformer.as_str(), facts.text.as_str(), facts.vae.as_str()];
    Ok(Key::of(&parts))
}

struct Synthesis<'a> {
    job: &'a CacheJob<'a>,
    settings: &'a PromptSettings,
    facts: &'a ModelFacts,
    store: &'a Store,
    fingerprint: Key,
}

impl Synthesis<'_> {
    /// Makes all of `pending`, counting them in `made`.
    fn make(
        &self,
        pending: &[Pending<'_>],
        made: &mut usize,
        progress: &mut CacheProgress<'_>,
    ) -> Result<(), TrainError> {
        if pending.is_empty() {
            return Ok(());
        }
        let CacheJob { model, device, cancel, .. } = self.job;
        let sampler = Sampler { model, device, cancel: cancel.clone() };
        let weights = model.weights(ComponentKind::Transformer, None, device.max_elements())?;
        let transformer = sampler.load_transformer(&weights, &mut |_, done, total| {
            progress(CacheStage::Load, done, total);
        })?;
        let sampling = &self.settings.sampling;
        let negative = if sampling.uses_guidance() {
            Some(self.context(&*transformer, &sampling.negative_prompt)?)
        } else {
            None
        };
        let steps = pending.len() * sampling.steps;
        for pending in pending {
            let mut contexts = vec![self.context(&*transformer, pending.prompt)?];
            contexts.extend(negative.clone());
            let before = *made * sampling.steps;
            let mut advance = |_, step, _| progress(CacheStage::Sample, before + step, steps);
            let latent =
                sampler.denoised(sampling, &*transformer, &contexts, pending.seed, &mut advance)?;
            let shape = sampling.latent_shape(model);
            check_finite(&latent, "the latent of a prompt")?;
            let seed = pending.seed.to_string();
            let facts =
                [("caption", pending.prompt), ("seed", &seed), ("model", self.facts.vae.as_str())];
            let names = (&pending.key, &self.fingerprint);
            self.store.write(Part::Latent, names, (&latent, &shape), &facts)?;
            *made += 1;
        }
        Ok(())
    }

    /// What the transformer needs of a prompt whose embedding is cached.
    fn context(&self, transformer: &dyn Denoiser, prompt: &str) -> Result<TextContext, TrainError> {
        let key = text_key(prompt, self.job.model, self.facts);
        let (values, shape) = self.store.read_text(&key, self.facts)?;
        let device = &self.job.device.device;
        let embeds = Tensor::<2>::from_data(TensorData::new(values, shape), device);
        Ok(transformer.text_context(embeds, &mut Trace::off()))
    }
}
