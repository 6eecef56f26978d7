//! What a sampling run is asked to do, checked before any work.

use super::PipelineError;
use super::guidance::{Guidance, guided_steps};
use super::model::VideoModel;
use super::noise::StepNoise;
use super::scheduler::{Scheduler, SchedulerError, SchedulerKind};
use crate::kernels::device::OpenDevice;
use crate::models::{TextContext, Tiling};
use crate::nn::{AttentionPrecision, ConvPrecision};
use serde::Serialize;

/// Settings of a run, as they are embedded in the video.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SampleSettings {
    /// What the video shows.
    pub prompt: String,
    /// What it should not show.
    pub negative_prompt: String,
    /// Frames, a multiple of the VAE's temporal factor plus one.
    pub frames: usize,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Denoising steps.
    pub steps: usize,
    /// Strength of classifier-free guidance; up to 1 there is none.
    pub guidance_scale: f32,
    /// Whether the strength changes from step to step, as CogVideoX's pipeline can do.
    pub dynamic_guidance: bool,
    /// Share of the steps, at the end of the run, that are not guided: 0 to 1; see
    /// [`guided_steps`].
    pub late_guidance_drop: f64,
    /// Shift of the noise levels; `None` for the model's own.
    pub flow_shift: Option<f64>,
    /// Scheduler; `None` for the model's own.
    #[serde(serialize_with = "scheduler_name")]
    pub scheduler: Option<SchedulerKind>,
    /// Seed of the initial noise.
    pub seed: u64,
    /// Frames per second of the video.
    pub fps: f64,
    /// How precisely attention is computed.
    pub attention: AttentionPrecision,
    /// How precisely the VAE's convolutions are computed.
    pub vae_precision: ConvPrecision,
    /// How the VAE splits frames.
    #[serde(skip)]
    pub tiling: TilingChoice,
}

/// How the VAE splits frames into tiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TilingChoice {
    /// Only if a tensor would exceed what the device can bind, or decoding `--max-memory`.
    #[default]
    Auto,
    /// Never.
    Off,
    /// Always, with these tiles.
    Tiles(Tiling),
}

fn scheduler_name<S: serde::Serializer>(
    kind: &Option<SchedulerKind>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    kind.map(SchedulerKind::name).serialize(serializer)
}

impl SampleSettings {
    /// Refuses precisions that `device` does not have.
    ///
    /// # Errors
    ///
    /// Names the flag and the adapter.
    pub fn check_device(&self, device: &OpenDevice) -> Result<(), PipelineError> {
        let types = [
            ("--attention f16", self.attention.dtype(), "exact or int8"),
            ("--vae-precision f16", self.vae_precision.dtype(), "exact"),
        ];
        let missing = types.iter().find(|(_, dtype, _)| !device.device.supports_dtype(*dtype));
        let Some((flag, _, instead)) = missing else { return Ok(()) };
        let device = device.describe();
        Err(setting(format!("{flag}: {device} has no 16-bit floats; use {instead}")))
    }

    /// Checks sizes against the model, and that every number is one.
    ///
    /// # Errors
    ///
    /// Names the flag, what is wrong and the nearest values that work.
    pub fn check(&self, model: &VideoModel) -> Result<(), PipelineError> {
        check_size([self.width, self.height], model)
            .map_err(|problem| setting(format!("--size: {problem}")))?;
        check_frames(self.frames, model)
            .map_err(|problem| setting(format!("--frames: {problem}")))?;
        if !(0.0..=100.0).contains(&self.guidance_scale) {
            let value = self.guidance_scale;
            return Err(setting(format!("--guidance: {value} is no number from 0 to 100")));
        }
        if !(0.0..=1.0).contains(&self.late_guidance_drop) {
            let value = self.late_guidance_drop;
            return Err(setting(format!("--late-guidance-drop: {value} is no share from 0 to 1")));
        }
        if self.dynamic_guidance && model.scheduler.diffusion().is_none() {
            return Err(setting(
                "--dynamic-guidance: it is made for the noise levels of CogVideoX, which this model \
                 has not"
                    .to_owned(),
            ));
        }
        match self.build_scheduler(model, self.seed) {
            Err(PipelineError::Scheduler(err)) => {
                let flag = match &err {
                    SchedulerError::Steps { .. } => "--steps",
                    SchedulerError::Unsupported { key, .. } if key == "scheduler" => "--scheduler",
                    _ => "--flow-shift",
                };
                Err(setting(format!("{flag}: {err}")))
            }
            other => other.map(drop),
        }
    }

    /// The scheduler of a run with this `seed`.
    ///
    /// # Errors
    ///
    /// If the scheduler, the number of steps or the shift is impossible.
    pub fn build_scheduler(
        &self,
        model: &VideoModel,
        seed: u64,
    ) -> Result<Box<dyn Scheduler>, PipelineError> {
        let mut config = model.scheduler.clone();
        if let Some(kind) = self.scheduler {
            config = config.with_kind(kind)?;
        }
        if let Some(shift) = self.flow_shift {
            config = config.with_flow_shift(shift)?;
        }
        Ok(config.build(self.steps, StepNoise::Seeded(seed))?)
    }

    /// `[channels, frames, height, width]` of the video's latent.
    pub fn latent_shape(&self, model: &VideoModel) -> [usize; 4] {
        model.latent_shape([self.frames, self.height, self.width])
    }

    /// The shape of the latent that is sampled, which can have some frames more.
    pub fn sampled_shape(&self, model: &VideoModel) -> [usize; 4] {
        model.padded_shape(self.latent_shape(model))
    }

    /// Frames of the video, which can be some more than were asked for: what the autoencoder makes
    /// of the latent.
    pub fn video_frames(&self, model: &VideoModel) -> usize {
        model.vae.frames(model.latent_frames(self.frames))
    }

    /// The guidance of the run, given the prompt's context and, if there is guidance, the negative
    /// prompt's.
    pub fn guidance<'a>(&self, contexts: &'a [TextContext]) -> Guidance<'a> {
        Guidance {
            contexts,
            scale: self.guidance_scale,
            is_dynamic: self.dynamic_guidance,
            late_drop: self.late_guidance_drop,
        }
    }

    /// Forward passes of the transformer.
    pub fn forwards(&self) -> usize {
        let guided = guided_steps(self.steps, self.late_guidance_drop);
        self.steps + if self.uses_guidance() { guided } else { 0 }
    }

    /// Whether a second, unconditional branch runs.
    pub fn uses_guidance(&self) -> bool {
        self.guidance_scale > 1.0
    }
}

/// Checks that the model can make frames of `[width, height]` pixels.
///
/// # Errors
///
/// In words: what is wrong and the nearest values that work.
pub fn check_size(size: [usize; 2], model: &VideoModel) -> Result<(), String> {
    let ([_, rows, columns], [_, patch_rows, patch_columns]) =
        (model.transformer.max_grid(), model.transformer.patch());
    let factor = model.vae.spatial_factor();
    let axes = [("width", patch_columns * factor, columns), ("height", patch_rows * factor, rows)];
    for ((name, multiple, most), size) in axes.into_iter().zip(size) {
        if size / multiple > most {
            let limit = most.saturating_mul(multiple);
            return Err(format!("a {name} of {size} exceeds the model's limit of {limit}"));
        }
        if size == 0 || size % multiple != 0 {
            let near = neighbors(size, 0, multiple);
            return Err(format!("a {name} of {size} is no multiple of {multiple}; use {near}"));
        }
    }
    Ok(())
}

/// Checks that the model can make a video of `frames`.
///
/// # Errors
///
/// As [`check_size`].
pub fn check_frames(frames: usize, model: &VideoModel) -> Result<(), String> {
    let (factor, most) = (model.vae.temporal_factor(), model.most_latent_frames());
    let limit = (most - 1).saturating_mul(factor).saturating_add(1);
    if frames > limit {
        return Err(format!("{frames} exceeds the model's limit of {limit}"));
    }
    if frames == 0 || !(frames - 1).is_multiple_of(factor) {
        let near = neighbors(frames, 1, factor);
        return Err(format!("{frames} is no multiple of {factor} plus one; use {near}"));
    }
    Ok(())
}

fn setting(message: String) -> PipelineError {
    PipelineError::Setting(message)
}

/// The admissible values around `value`: `offset` plus multiples of `step`.
fn neighbors(value: usize, offset: usize, step: usize) -> String {
    let below = value.saturating_sub(offset) / step * step + offset;
    let above = below.saturating_add(step);
    if below == 0 { above.to_string() } else { format!("{below} or {above}") }
}

#[cfg(test)]
mod tests {
    use super::neighbors;

    #[test]
    fn neighbors_are_the_nearest_admissible_values() {
        assert_eq!(neighbors(100, 0, 16), "96 or 112");
        assert_eq!(neighbors(7, 0, 16), "16");
        assert_eq!(neighbors(10, 1, 4), "9 or 13");
        assert_eq!(neighbors(0, 1, 4), "1 or 5");
    }
}
