//! What an evaluation is asked to do.

use super::EvaluateError;
use crate::nn::{AttentionPrecision, ConvPrecision};
use crate::pipeline::defaults::SamplingDefaults;
use crate::pipeline::model::VideoModel;
use crate::pipeline::settings::{SampleSettings, TilingChoice};
use serde::ser::{Error as _, Serialize, Serializer};

/// Noise levels at which velocities are compared unless others are asked for.
const NOISE_LEVELS: [f64; 5] = [0.1, 0.3, 0.5, 0.7, 0.9];

/// Sample seeds of one evaluation seed.
const SEED_STRIDE: u64 = 1 << 20;

/// Settings of an evaluation, as they stand in its JSON document.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct EvaluationSettings {
    /// Every clip is sampled once for each of them; see [`sample_seed`].
    pub seeds: Vec<u64>,
    /// Noise levels at which velocities are compared, above 0 and at most 1.
    pub noise_levels: Vec<f64>,
    /// How clips are sampled; prompt and seed are each clip's own and ignored here.
    #[serde(serialize_with = "without_prompt_and_seed")]
    pub sampling: SampleSettings,
}

impl EvaluationSettings {
    /// Sampling as the model suggests, with `seeds` seeds from 0.
    pub fn suggested(defaults: &SamplingDefaults, seeds: u64) -> Self {
        let sampling = SampleSettings {
            prompt: String::new(),
            negative_prompt: defaults.negative_prompt.clone(),
            frames: defaults.frames,
            width: defaults.width,
            height: defaults.height,
            steps: defaults.steps,
            guidance_scale: defaults.guidance_scale,
            dynamic_guidance: false,
            late_guidance_drop: defaults.late_guidance_drop,
            flow_shift: None,
            scheduler: None,
            seed: 0,
            fps: defaults.fps,
            attention: AttentionPrecision::default(),
            vae_precision: ConvPrecision::default(),
            tiling: TilingChoice::Auto,
        };
        Self { seeds: (0..seeds).collect(), noise_levels: NOISE_LEVELS.to_vec(), sampling }
    }

    /// Checks everything against the model, before any work.
    ///
    /// # Errors
    ///
    /// Names the setting and what would work.
    pub fn check(&self, model: &VideoModel) -> Result<(), EvaluateError> {
        self.sampling.check(model)?;
        if self.seeds.is_empty() {
            return Err(EvaluateError::Setting("--seeds: at least one seed is needed".to_owned()));
        }
        let is_level = |level: &&f64| **level > 0.0 && **level <= 1.0;
        match self.noise_levels.iter().find(|level| !is_level(level)) {
            None => Ok(()),
            Some(level) => Err(EvaluateError::Setting(format!(
                "a noise level of {level} is not above 0 and at most 1"
            ))),
        }
    }
}

/// Seed of the noise of case `index` under an evaluation's `seed`: what `qvgen sample --seed` takes
/// to make the same clip.
pub const fn sample_seed(seed: u64, index: usize) -> u64 {
    seed.wrapping_mul(SEED_STRIDE).wrapping_add(index as u64)
}

fn without_prompt_and_seed<S: Serializer>(
    settings: &SampleSettings,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut value = serde_json::to_value(settings).map_err(S::Error::custom)?;
    if let Some(map) = value.as_object_mut() {
        map.shift_remove("prompt");
        map.shift_remove("seed");
    }
    value.serialize(serializer)
}
