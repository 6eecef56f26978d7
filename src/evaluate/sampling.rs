//! Many clips in one process.
//!
//! Nothing is loaded per clip: tokenizer and text encoder run once for all prompts, the decoder
//! stays on the device, and the transformer is the caller's, who may be training it. On the CPU a
//! small model leaves most threads idle, so there clips are computed side by side, one thread
//! each; a GPU gets one after the other. A clip depends on its text and its seed alone, not on
//! what is computed beside it.

use super::EvaluateError;
use crate::kernels::device::OpenDevice;
use crate::models::{Decoder, Denoiser, TextContext, Tiling};
use crate::nn::Trace;
use crate::pipeline::cancel::Cancel;
use crate::pipeline::model::VideoModel;
use crate::pipeline::noisy_latent::NoisyLatent;
use crate::pipeline::plan::tiling;
use crate::pipeline::sample::{Sampler, read};
use crate::pipeline::settings::SampleSettings;
use crate::pipeline::video::Frames;
use crate::world::Clip;
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

/// A sampled clip.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The denoised latent, `[channels, frames, height, width]`.
    pub latent: Vec<f32>,
    /// What it decodes to.
    pub clip: Clip,
}

/// Samples, decodes and encodes clips of one size with one model's text encoder and autoencoder.
#[derive(Debug)]
pub struct ClipSampler<'a> {
    sampler: Sampler<'a>,
    decoder: Box<dyn Decoder>,
    settings: SampleSettings,
    shape: [usize; 4],
    tiling: Option<Tiling>,
}

impl<'a> ClipSampler<'a> {
    /// Loads the decoder. `settings` decide everything about a run but prompt and seed; they have
    /// to be checked before.
    ///
    /// # Errors
    ///
    /// If a parameter is missing or unusable.
    pub fn new(
        model: &'a VideoModel,
        device: &'a OpenDevice,
        cancel: Cancel,
        settings: SampleSettings,
    ) -> Result<Self, EvaluateError> {
        let sampler = Sampler { model, device, cancel };
        let shape = settings.latent_shape(model);
        Ok(Self {
            decoder: sampler.load_decoder(settings.vae_precision)?,
            tiling: tiling(model, &settings, [shape[2], shape[3]], device, None),
            sampler,
            settings,
            shape,
        })
    }

    /// `[channels, frames, height, width]` of a latent.
    pub fn latent_shape(&self) -> [usize; 4] {
        self.shape
    }

    /// The settings of every run.
    pub fn settings(&self) -> &SampleSettings {
        &self.settings
    }

    /// Prompts to embeddings `[text_tokens, text_dim]`; `progress(done, total)` counts blocks of
    /// the text encoder.
    ///
    /// # Errors
    ///
    /// If tokenizer or encoder fail.
    pub fn embed(
        &self,
        prompts: &[&str],
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<Tensor<2>>, EvaluateError> {
        Ok(self.sampler.encode(prompts, &mut |_, done, total| progress(done, total))?)
    }

    /// Samples one clip for each of `jobs`: a prompt's embedding and the seed of the noise, the
    /// same as of `qvgen sample`. `negative` embeds the negative prompt; without it, or with a
    /// guidance scale up to 1, there is no guidance.
    ///
    /// `progress(done)` counts clips.
    ///
    /// # Errors
    ///
    /// If the device fails, a value is not finite, or the run is canceled.
    pub fn samples(
        &self,
        transformer: &dyn Denoiser,
        negative: Option<&Tensor<2>>,
        jobs: &[(&Tensor<2>, u64)],
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<Sample>, EvaluateError> {
        let context =
            |embeds: &Tensor<2>| transformer.text_context(embeds.clone(), &mut Trace::off());
        let negative = negative.filter(|_| self.settings.uses_guidance()).map(context);
        let one = |index: usize| {
            let (embeds, seed) = jobs[index];
            let contexts: Vec<TextContext> =
                std::iter::once(context(embeds)).chain(negative.clone()).collect();
            let latent = self.sampler.denoised(
                &self.settings,
                transformer,
                &contexts,
                seed,
                &mut |_, _, _| {},
            )?;
            let clip = self.decode(&latent)?;
            Ok(Sample { latent, clip })
        };
        self.map(jobs.len(), !transformer.depends_on_step(), one, progress)
    }

    /// The clip of a latent.
    ///
    /// # Errors
    ///
    /// If the device fails, a value is not finite, or the run is canceled.
    pub fn decode(&self, latent: &[f32]) -> Result<Clip, EvaluateError> {
        let place = (latent, self.shape);
        let values = self.sampler.decode(&*self.decoder, place, self.tiling, &mut |_, _, _| {})?;
        let SampleSettings { height, width, fps, .. } = self.settings;
        let frames = self.settings.video_frames(self.sampler.model);
        let pictures = Frames::from_unit_values(&values, [frames, height, width], fps);
        let pictures = pictures.map_err(crate::pipeline::PipelineError::from)?;
        Ok(Clip::new(frames, height, width, pictures.data().to_vec())?)
    }

    /// The normalized latents of `clips`, as training sees them.
    ///
    /// # Errors
    ///
    /// If the model has no encoder or the device fails.
    ///
    /// # Panics
    ///
    /// If a clip is not of the size of the settings.
    pub fn encode(&self, clips: &[Clip]) -> Result<Vec<Vec<f32>>, EvaluateError> {
        let encoder = self.sampler.load_encoder()?;
        let one = |index: usize| {
            let clip = &clips[index];
            let [frames, height, width] = clip.shape();
            let data = TensorData::new(clip.to_planes(), [3, frames, height, width]);
            let video = Tensor::<4>::from_data(data, &self.sampler.device.device);
            let latent = encoder.encode_normalized(video)?;
            assert_eq!(latent.dims(), self.shape, "shape of an encoded clip");
            Ok(read(latent)?)
        };
        self.map(clips.len(), true, one, &mut |_| {})
    }

    /// What the transformer predicts of `latent` under the noise of `seed`, for each of `levels`.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub(super) fn velocities(
        &self,
        transformer: &dyn Denoiser,
        embeds: &Tensor<2>,
        latent: &[f32],
        (seed, levels): (u64, &[f64]),
    ) -> Result<Vec<Vec<f32>>, EvaluateError> {
        let noisy = self.noisy(latent, seed)?;
        Ok(noisy.predictions(transformer, embeds, levels, &self.sampler.cancel)?)
    }

    /// What it should predict there.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub(super) fn true_velocities(
        &self,
        latent: &[f32],
        (seed, levels): (u64, &[f64]),
    ) -> Result<Vec<Vec<f32>>, EvaluateError> {
        Ok(self.noisy(latent, seed)?.targets(levels)?)
    }

    fn noisy(&self, latent: &[f32], seed: u64) -> Result<NoisyLatent, EvaluateError> {
        let Sampler { model, device, .. } = self.sampler;
        Ok(NoisyLatent::new(model, latent.to_vec(), self.shape, seed, &device.device)?)
    }

    /// `one(0)` to `one(count − 1)`: side by side on the CPU, if they may be, otherwise in turn.
    ///
    /// As many at a time as there are threads, which bounds the memory and lets the first error
    /// end the work.
    pub(super) fn map<T: Send>(
        &self,
        count: usize,
        may_be_parallel: bool,
        one: impl Fn(usize) -> Result<T, EvaluateError> + Sync,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Vec<T>, EvaluateError> {
        let is_parallel = may_be_parallel && self.sampler.device.adapter.is_none();
        let width = if is_parallel { rayon::current_num_threads().max(1) } else { 1 };
        let mut results = Vec::with_capacity(count);
        for start in (0..count).step_by(width) {
            let range = start..(start + width).min(count);
            if is_parallel {
                let chunk: Result<Vec<T>, _> = range.into_par_iter().map(&one).collect();
                results.extend(chunk?);
            } else {
                results.push(one(start)?);
            }
            progress(results.len());
        }
        Ok(results)
    }
}
