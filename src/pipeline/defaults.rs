//! Settings that a model folder suggests for itself, in an optional `sampling.json`.

use super::checkpoint::{CheckpointError, config_from_json, read_json};
use crate::models::denoiser::UsualCall;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;

/// Values for what the user leaves out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    /// Tokens that a prompt is padded to and the transformer always sees; `max_sequence_length` of
    /// the diffusers pipeline. A model must be sampled with the number it was trained with.
    pub max_sequence_length: usize,
}

impl From<UsualCall> for SamplingDefaults {
    /// What a model was published with.
    fn from(usual: UsualCall) -> Self {
        Self {
            prompt: None,
            negative_prompt: String::new(),
            frames: usual.frames,
            width: usual.width,
            height: usual.height,
            steps: usual.steps,
            guidance_scale: usual.guidance_scale,
            late_guidance_drop: 0.0,
            fps: usual.fps,
            bits: None,
            max_sequence_length: usual.text_tokens,
        }
    }
}

impl SamplingDefaults {
    /// The defaults of the model in `folder`, which was published with `usual`.
    ///
    /// # Errors
    ///
    /// If its `sampling.json` is unusable.
    pub fn of(folder: &Path, usual: UsualCall) -> Result<Self, CheckpointError> {
        let (published, path) = (Self::from(usual), folder.join("sampling.json"));
        if !path.exists() {
            return Ok(published);
        }
        let mut values = json!(published);
        match (read_json(&path)?, &mut values) {
            (Value::Object(own), Value::Object(values)) => values.extend(own),
            (other, _) => values = other,
        }
        config_from_json(&values, &path)
    }
}
