//! What makes a family of text-to-video models: the classes of its parts and how they are used.

use super::{AutoencoderConfig, ConfigError, DenoiserConfig};
use crate::models::t5::T5Config;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

/// A family of models. Implementing it, and one line in the list of the pipeline, makes every
/// command work for the family.
pub trait Family {
    /// Sizes of the denoiser, from `transformer/config.json`.
    type Transformer: DenoiserConfig + 'static;
    /// Sizes of the autoencoder, from `vae/config.json`.
    type Autoencoder: AutoencoderConfig + DeserializeOwned + 'static;

    /// Names and rules.
    const FACTS: FamilyFacts;

    /// The denoiser's configuration.
    ///
    /// # Errors
    ///
    /// If a value is missing, out of range, or asks for another architecture.
    fn read_transformer(json: &Value) -> Result<Self::Transformer, ConfigError>;

    /// The text encoder's configuration.
    ///
    /// # Errors
    ///
    /// As [`Self::read_transformer`].
    fn read_text_encoder(json: &Value) -> Result<T5Config, ConfigError>;

    /// The published models, by the names that users give them.
    fn published() -> Vec<PublishedModel>;
}

/// A published model.
#[derive(Clone, Debug)]
pub struct PublishedModel {
    /// Short name, such as `wan-1.3b`.
    pub name: &'static str,
    /// Sizes of its denoiser.
    pub transformer: Arc<dyn DenoiserConfig>,
    /// Pixels that become one latent pixel, in a row.
    pub pixels_per_latent: usize,
}

/// Class names of a family in `model_index.json`, and the rules of its pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyFacts {
    /// Class of the pipeline.
    pub pipeline: &'static str,
    /// Class of the denoiser.
    pub transformer: &'static str,
    /// Class of the autoencoder.
    pub vae: &'static str,
    /// Class of the text encoder.
    pub text_encoder: &'static str,
    /// Whether prompts are cleaned before they are tokenized.
    pub cleans_prompts: bool,
    /// Whether the text encoder attends to the padding behind a prompt, whose rows are then used as
    /// they are; otherwise they are zero.
    pub attends_padding: bool,
}
