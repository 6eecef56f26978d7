//! Wan 2.1 text-to-video: this transformer, its autoencoder and UMT5.

use super::WanConfig;
use crate::models::t5::{T5Config, T5Variant};
use crate::models::wan_vae::WanVaeConfig;
use crate::models::{ConfigError, Family, FamilyFacts, PublishedModel};
use serde_json::Value;
use std::sync::Arc;

/// Wan 2.1.
#[derive(Clone, Copy, Debug)]
pub struct Wan;

impl Family for Wan {
    type Transformer = WanConfig;
    type Autoencoder = WanVaeConfig;

    const FACTS: FamilyFacts = FamilyFacts {
        pipeline: "WanPipeline",
        transformer: "WanTransformer3DModel",
        vae: "AutoencoderKLWan",
        text_encoder: "UMT5EncoderModel",
        cleans_prompts: true,
        attends_padding: false,
    };

    fn read_transformer(json: &Value) -> Result<WanConfig, ConfigError> {
        WanConfig::from_json(json)
    }

    fn read_text_encoder(json: &Value) -> Result<T5Config, ConfigError> {
        T5Config::of_variant(T5Variant::Umt5, json)
    }

    fn published() -> Vec<PublishedModel> {
        let model = |name, config: WanConfig| PublishedModel {
            name,
            transformer: Arc::new(config),
            pixels_per_latent: WanVaeConfig::wan2_1().spatial_factor(),
        };
        vec![
            model("wan-1.3b", WanConfig::wan2_1_t2v_1_3b()),
            model("wan-14b", WanConfig::wan2_1_t2v_14b()),
        ]
    }
}
