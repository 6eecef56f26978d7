//! From a prompt to frames: text encoder, denoising, VAE, one after the other on the device.

use super::PipelineError;
use super::cancel::Cancel;
use super::checkpoint::ComponentKind;
pub use super::guidance::Guidance;
use super::model::{ComponentWeights, VideoModel};
use super::noise::standard_normal;
use super::padding::last_frames;
use super::plan::{Plan, peak_host_bytes};
use super::scheduler::Scheduler;
use super::settings::SampleSettings;
use super::video::Frames;
use crate::kernels::MemoryWatch;
use crate::kernels::device::OpenDevice;
use crate::models::t5::{self, EncodeError};
use crate::models::{Decoder, Denoiser, Encoder, TextContext, Tiling};
use crate::nn::{ConvPrecision, Limits, Trace, WeightSource, Weights};
use burn::tensor::{Tensor, TensorData};
use serde::Serialize;
use std::ops::ControlFlow;
use std::time::Instant;

/// The stages of a run, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Text encoder blocks.
    Text,
    /// Transformer blocks being loaded.
    Load,
    /// Denoising steps.
    Denoise,
    /// Latent frames being decoded.
    Decode,
}

/// Told of progress: `done` of `total` units of a stage.
pub type Progress<'a> = dyn FnMut(Stage, usize, usize) + 'a;

/// Frames and how they came about.
#[derive(Debug)]
pub struct Sampled {
    /// The video.
    pub frames: Frames,
    /// Figures of the run.
    pub report: Report,
}

/// Figures of a run, measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Seconds by stage.
    pub seconds: Vec<(Stage, f64)>,
    /// Seconds per denoising step.
    pub seconds_per_step: f64,
    /// Tera-operations per second while denoising.
    pub denoise_tops: f64,
    /// Most bytes in use on the device, where it tells; see [`MemoryWatch`].
    pub peak_device_bytes: Option<u64>,
    /// Most bytes that the runtime reserved there.
    pub reserved_device_bytes: Option<u64>,
    /// Most bytes of host memory, where the system tells.
    pub peak_host_bytes: Option<u64>,
}

/// What the stages share.
#[derive(Debug)]
pub struct Sampler<'a> {
    /// The model.
    pub model: &'a VideoModel,
    /// Where it runs.
    pub device: &'a OpenDevice,
    /// Stops the run between units of work.
    pub cancel: Cancel,
}

impl Sampler<'_> {
    /// All stages; `transformer` are the parameters that the plan was made with.
    ///
    /// # Errors
    ///
    /// See [`PipelineError`].
    pub fn run(
        &self,
        settings: &SampleSettings,
        plan: &Plan,
        transformer: &ComponentWeights,
        progress: &mut Progress<'_>,
    ) -> Result<Sampled, PipelineError> {
        settings.check_device(self.device)?;
        let mut clock = Clock::new(self.device);
        let prompts = [settings.prompt.as_str(), settings.negative_prompt.as_str()];
        let prompts = &prompts[..if settings.uses_guidance() { 2 } else { 1 }];
        let embeds = self.encode(prompts, progress)?;
        clock.lap(Stage::Text);

        let transformer =
            self.load_streamed_transformer(transformer, plan.resident_blocks, progress)?;
        let transformer = transformer.with_attention(settings.attention);
        clock.lap(Stage::Load);

        let latent = self.latent(settings, &*transformer, embeds, progress)?;
        clock.lap(Stage::Denoise);
        drop(transformer);
        self.device.device.memory_cleanup();

        let frames = self.frames(settings, &latent, plan.tiling, progress)?;
        clock.lap(Stage::Decode);
        Ok(Sampled { frames, report: clock.report(plan, settings.steps) })
    }

    /// The denoised latent of a run with a `transformer` that is at hand, such as one in training;
    /// `embeds` are the prompt's and, with guidance, the negative prompt's.
    ///
    /// # Errors
    ///
    /// As [`Sampler::denoise`], or if the scheduler cannot be had.
    pub fn latent(
        &self,
        settings: &SampleSettings,
        transformer: &dyn Denoiser,
        embeds: Vec<Tensor<2>>,
        progress: &mut Progress<'_>,
    ) -> Result<Vec<f32>, PipelineError> {
        transformer.begin_run();
        let contexts: Vec<TextContext> = embeds
            .into_iter()
            .map(|embeds| transformer.text_context(embeds, &mut Trace::off()))
            .collect();
        self.denoised(settings, transformer, &contexts, settings.seed, progress)
    }

    /// [`Sampler::latent`] with the noise of `seed`, given the prompt's context and, with guidance,
    /// the negative prompt's.
    ///
    /// # Errors
    ///
    /// As [`Sampler::latent`].
    pub fn denoised(
        &self,
        settings: &SampleSettings,
        transformer: &dyn Denoiser,
        contexts: &[TextContext],
        seed: u64,
        progress: &mut Progress<'_>,
    ) -> Result<Vec<f32>, PipelineError> {
        let shape = settings.sampled_shape(self.model);
        let mut latent = standard_normal(seed, 0, shape.iter().product());
        let mut scheduler = settings.build_scheduler(self.model, seed)?;
        let guidance = settings.guidance(contexts);
        self.denoise(transformer, &guidance, scheduler.as_mut(), (&mut latent, shape), progress)?;
        Ok(last_frames(latent, shape, settings.latent_shape(self.model)[1]))
    }

    /// The video of a latent that was made with `settings`.
    ///
    /// # Errors
    ///
    /// As [`Sampler::decode`], or if a value is not finite.
    pub fn frames(
        &self,
        settings: &SampleSettings,
        latent: &[f32],
        tiling: Option<Tiling>,
        progress: &mut Progress<'_>,
    ) -> Result<Frames, PipelineError> {
        let decoder = self.load_decoder(settings.vae_precision)?;
        let latent = (latent, settings.latent_shape(self.model));
        let values = self.decode(&*decoder, latent, tiling, progress)?;
        let size = [settings.video_frames(self.model), settings.height, settings.width];
        Ok(Frames::from_unit_values(&values, size, settings.fps)?)
    }

    /// Prompts to embeddings `[text_tokens, text_dim]`; what is behind a prompt's end, the family's
    /// rules say.
    ///
    /// # Errors
    ///
    /// If tokenizer or encoder fail.
    pub fn encode(
        &self,
        prompts: &[&str],
        progress: &mut Progress<'_>,
    ) -> Result<Vec<Tensor<2>>, PipelineError> {
        let tokenizer = self.model.tokenizer()?;
        let tokens = prompts
            .iter()
            .map(|text| self.model.tokenize(&tokenizer, text))
            .collect::<Result<Vec<_>, _>>()?;
        let weights = self.weights(ComponentKind::TextEncoder)?;
        let mut advance = |done, total| {
            progress(Stage::Text, done, total);
            if self.cancel.is_cancelled() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let weights = Weights::new(weights.source(), &self.device.device);
        let config = &self.model.text_encoder;
        t5::encode(&weights, config, &tokens, &mut advance).map_err(|err| match err {
            EncodeError::Canceled => PipelineError::Cancelled,
            other => other.into(),
        })
    }

    /// The transformer on the device.
    ///
    /// # Errors
    ///
    /// If a parameter is missing or unusable.
    pub fn load_transformer(
        &self,
        weights: &ComponentWeights,
        progress: &mut Progress<'_>,
    ) -> Result<Box<dyn Denoiser>, PipelineError> {
        self.load_streamed_transformer(weights, usize::MAX, progress)
    }

    /// The transformer with only `resident_blocks` blocks on the device, the others in host memory.
    ///
    /// # Errors
    ///
    /// As [`Sampler::load_transformer`].
    pub fn load_streamed_transformer(
        &self,
        weights: &ComponentWeights,
        resident_blocks: usize,
        progress: &mut Progress<'_>,
    ) -> Result<Box<dyn Denoiser>, PipelineError> {
        self.load_from(weights.source(), resident_blocks, progress)
    }

    /// [`Sampler::load_streamed_transformer`] of any source of parameters.
    ///
    /// # Errors
    ///
    /// As [`Sampler::load_transformer`].
    pub fn load_from(
        &self,
        source: &dyn WeightSource,
        resident_blocks: usize,
        progress: &mut Progress<'_>,
    ) -> Result<Box<dyn Denoiser>, PipelineError> {
        let weights = Weights::new(source, &self.device.device);
        let mut loaded = |done, total| progress(Stage::Load, done, total);
        let (config, limits) = (&self.model.transformer, self.limits());
        let transformer = config.load_streamed(&weights, limits, resident_blocks, &mut loaded)?;
        self.cancel.check()?;
        Ok(transformer)
    }

    /// Runs all steps of `scheduler` on `latent` `[channels, frames, height, width]`.
    ///
    /// # Errors
    ///
    /// If the device fails, a value is not finite, or the run is canceled.
    pub fn denoise(
        &self,
        transformer: &dyn Denoiser,
        guidance: &Guidance<'_>,
        scheduler: &mut dyn Scheduler,
        (latent, shape): (&mut [f32], [usize; 4]),
        progress: &mut Progress<'_>,
    ) -> Result<(), PipelineError> {
        let timesteps = scheduler.timesteps().to_vec();
        transformer.begin_run();
        progress(Stage::Denoise, 0, timesteps.len());
        // All steps take the same memory, looking takes time, and the first one compiles shaders.
        let watched = usize::from(timesteps.len() > 1);
        for (step, &timestep) in timesteps.iter().enumerate() {
            self.cancel.check()?;
            let _pause = (step != watched).then(MemoryWatch::pause);
            let data = TensorData::new(latent.to_vec(), shape);
            let x = Tensor::<4>::from_data(data, &self.device.device);
            let scale = guidance.scale_at(step, timesteps.len(), timestep);
            let velocity = guidance.velocity(transformer, x, timestep, scale)?;
            if velocity.iter().any(|value| !value.is_finite()) {
                let what = format!("the velocity of step {} of {}", step + 1, timesteps.len());
                return Err(PipelineError::NotFinite { what });
            }
            scheduler.step(&velocity, latent);
            progress(Stage::Denoise, step + 1, timesteps.len());
        }
        Ok(())
    }

    /// The decoding half of the autoencoder on the device, in a precision that this has; see
    /// [`SampleSettings::check_device`].
    ///
    /// # Errors
    ///
    /// If a parameter is missing or unusable.
    pub fn load_decoder(
        &self,
        precision: ConvPrecision,
    ) -> Result<Box<dyn Decoder>, PipelineError> {
        let weights = self.weights(ComponentKind::Vae)?;
        let weights = Weights::new(weights.source(), &self.device.device);
        let weights = weights.with_conv_precision(precision);
        Ok(self.model.vae.load_decoder(&weights)?)
    }

    /// The encoding half of the autoencoder on the device; sampling does not need it.
    ///
    /// # Errors
    ///
    /// If a parameter is missing or unusable.
    pub fn load_encoder(&self) -> Result<Box<dyn Encoder>, PipelineError> {
        let weights = self.weights(ComponentKind::Vae)?;
        let weights = Weights::new(weights.source(), &self.device.device);
        Ok(self.model.vae.load_encoder(&weights)?)
    }

    /// The video of `latent` `[channels, frames, height, width]` in 0..1,
    /// `[frames, height, width, 3]`.
    ///
    /// # Errors
    ///
    /// If the device fails or the run is canceled.
    pub fn decode(
        &self,
        decoder: &dyn Decoder,
        (latent, shape): (&[f32], [usize; 4]),
        tiling: Option<Tiling>,
        progress: &mut Progress<'_>,
    ) -> Result<Vec<f32>, PipelineError> {
        let data = TensorData::new(latent.to_vec(), shape);
        let latent = Tensor::<4>::from_data(data, &self.device.device);
        let (mut values, mut done) = (Vec::new(), 0);
        progress(Stage::Decode, 0, shape[1]);
        let mut take = |chunk: Tensor<4>| {
            self.cancel.check()?;
            values.extend(unit_pixels(chunk)?);
            done += 1;
            progress(Stage::Decode, done.min(shape[1]), shape[1]);
            Ok(())
        };
        let mut outcome = Ok(());
        decoder.decode(latent, tiling, &mut |chunk| {
            outcome = take(chunk);
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        outcome.map(|()| values)
    }

    fn weights(&self, kind: ComponentKind) -> Result<ComponentWeights, PipelineError> {
        self.model.weights(kind, None, self.device.max_elements())
    }

    fn limits(&self) -> Limits {
        Limits { max_elements: self.device.max_elements() }
    }
}

/// A chunk `[3, frames, height, width]` in −1..1 as `[frames, height, width, 3]` in 0..1.
fn unit_pixels(chunk: Tensor<4>) -> Result<Vec<f32>, PipelineError> {
    let [channels, frames, height, width] = chunk.dims();
    let values = read(chunk)?;
    let pixels = frames * height * width;
    let value = |i: usize| values[i % channels * pixels + i / channels];
    // What is infinite must not pass for white.
    let unit = |v: f32| if v.is_finite() { (v / 2.0 + 0.5).clamp(0.0, 1.0) } else { f32::NAN };
    Ok((0..values.len()).map(|i| unit(value(i))).collect())
}

/// The values of a tensor on the host.
///
/// # Errors
///
/// If the device fails.
pub fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, PipelineError> {
    let data = tensor.try_into_data().map_err(|err| PipelineError::device(&err))?;
    data.try_to_vec().map_err(|err| PipelineError::device(&err))
}

/// Laps of a run.
struct Clock<'a> {
    device: &'a OpenDevice,
    last: Instant,
    seconds: Vec<(Stage, f64)>,
    watch: MemoryWatch,
    reserved_bytes: Option<u64>,
}

impl<'a> Clock<'a> {
    fn new(device: &'a OpenDevice) -> Self {
        Self {
            device,
            last: Instant::now(),
            seconds: Vec::new(),
            watch: MemoryWatch::start(),
            reserved_bytes: None,
        }
    }

    fn lap(&mut self, stage: Stage) {
        let now = Instant::now();
        self.seconds.push((stage, (now - self.last).as_secs_f64()));
        self.last = now;
        let reserved = self.device.device.memory_pool_usage().map(|usage| usage.bytes_reserved);
        self.reserved_bytes = self.reserved_bytes.max(reserved);
    }

    fn report(self, plan: &Plan, steps: usize) -> Report {
        let of = |wanted| self.seconds.iter().find(|(stage, _)| *stage == wanted);
        let denoise = of(Stage::Denoise).map_or(0.0, |(_, seconds)| *seconds);
        Report {
            seconds_per_step: denoise / steps as f64,
            denoise_tops: plan.denoise_ops / denoise.max(1e-9) / 1e12,
            peak_device_bytes: self.watch.stop(),
            reserved_device_bytes: self.reserved_bytes,
            peak_host_bytes: peak_host_bytes(),
            seconds: self.seconds,
        }
    }
}
