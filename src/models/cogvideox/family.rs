//! CogVideoX and CogVideoX1.5 text-to-video: this transformer, its autoencoder and T5.

use super::CogVideoXConfig;
use crate::models::cogvideox_vae::CogVideoXVaeConfig;
use crate::models::t5::{T5Config, T5Variant};
use crate::models::{ConfigError, Family, FamilyFacts, PublishedModel};
use serde_json::Value;
use std::sync::Arc;

/// CogVideoX.
#[derive(Clone, Copy, Debug)]
pub struct CogVideoX;

impl Family for CogVideoX {
    type Transformer = CogVideoXConfig;
    type Autoencoder = CogVideoXVaeConfig;

    const FACTS: FamilyFacts = FamilyFacts {
        pipeline: "CogVideoXPipeline",
        transformer: "CogVideoXTransformer3DModel",
        vae: "AutoencoderKLCogVideoX",
        text_encoder: "T5EncoderModel",
        cleans_prompts: false,
        attends_padding: true,
    };

    fn read_transformer(json: &Value) -> Result<CogVideoXConfig, ConfigError> {
        CogVideoXConfig::from_json(json)
    }

    fn read_text_encoder(json: &Value) -> Result<T5Config, ConfigError> {
        T5Config::of_variant(T5Variant::V1_1, json)
    }

    fn published() -> Vec<PublishedModel> {
        let model = |name, config: CogVideoXConfig| PublishedModel {
            name,
            transformer: Arc::new(config),
            pixels_per_latent: CogVideoXVaeConfig::default().spatial_factor(),
        };
        vec![
            model("cogvideox-2b", CogVideoXConfig::cogvideox_2b()),
            model("cogvideox-5b", CogVideoXConfig::cogvideox_5b()),
            model("cogvideox1.5-5b", CogVideoXConfig::cogvideox1_5_5b()),
        ]
    }
}
