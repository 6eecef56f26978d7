//! Settings that a model folder suggests for itself, in an optional `sampling.json`.

use super::checkpoint::{CheckpointError, config_from_json, read_json};
use serde::Deserialize;
use std::path::Path;

/// Values for what the user leaves out.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingDefaults {
    /// A prompt that shows what the model can do; `None` if the user must give one.
    pub prompt: Option<String>,
    /// What the video should not show.
    pub negative_prompt: String,
    /// Frames.
    pub frames: usize,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
    /// Denoising steps.
    pub steps: usize,
    /// Strength of classifier-free guidance.
    pub guidance_scale: f32,
    /// Share of the last steps that are not guided.
    pub late_guidance_drop: f64,
    /// Frames per second.
    pub fps: f64,
    /// Precision of the transformer.
    pub bits: Option<String>,
    /// Tokens that a prompt is padded to and cross-attention always sees; `max_sequence_length` of
    /// the diffusers pipeline. A model must be sampled with the number it was trained with.
    pub max_sequence_length: usize,
}

impl Default for SamplingDefaults {
    /// What Wan 2.1 was published with, at 480p.
    fn default() -> Self {
        Self {
            prompt: None,
            negative_prompt: String::new(),
            frames: 81,
            width: 832,
            height: 480,
            steps: 50,
            guidance_scale: 5.0,
            late_guidance_drop: 0.0,
            fps: 16.0,
            bits: None,
            max_sequence_length: 512,
        }
    }
}

impl SamplingDefaults {
    /// The defaults of the model in `folder`.
    ///
    /// # Errors
    ///
    /// If its `sampling.json` is unusable.
    pub fn of(folder: &Path) -> Result<Self, CheckpointError> {
        let path = folder.join("sampling.json");
        if !path.exists() {
            return Ok(Self::default());
        }
        config_from_json(&read_json(&path)?, &path)
    }
}
