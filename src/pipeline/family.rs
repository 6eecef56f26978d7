//! The list of model families, and how each is read.

use super::PipelineError;
use super::checkpoint::{Component, config_from_json};
use crate::models::cogvideox::CogVideoX;
use crate::models::t5::T5Config;
use crate::models::wan::Wan;
use crate::models::{
    AutoencoderConfig, ConfigError, DenoiserConfig, Family, FamilyFacts, PublishedModel,
};
use std::sync::Arc;

/// Every family whose models can be run.
pub(super) static FAMILIES: [FamilyReader; 2] =
    [FamilyReader::of::<Wan>(), FamilyReader::of::<CogVideoX>()];

/// A [`Family`] that is chosen while running.
#[derive(Debug)]
pub(super) struct FamilyReader {
    pub(super) facts: FamilyFacts,
    pub(super) transformer: fn(&Component) -> Result<Arc<dyn DenoiserConfig>, PipelineError>,
    pub(super) vae: fn(&Component) -> Result<Arc<dyn AutoencoderConfig>, PipelineError>,
    pub(super) text_encoder: fn(&Component) -> Result<T5Config, PipelineError>,
    published: fn() -> Vec<PublishedModel>,
}

impl FamilyReader {
    const fn of<F: Family>() -> Self {
        Self {
            facts: F::FACTS,
            transformer: read_transformer::<F>,
            vae: read_vae::<F>,
            text_encoder: read_text_encoder::<F>,
            published: F::published,
        }
    }

    /// The family of pipelines of class `class_name`.
    pub(super) fn of_pipeline(class_name: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.facts.pipeline == class_name)
    }
}

/// The published models of every family.
pub fn published_models() -> Vec<PublishedModel> {
    FAMILIES.iter().flat_map(|family| (family.published)()).collect()
}

fn read_transformer<F: Family>(
    component: &Component,
) -> Result<Arc<dyn DenoiserConfig>, PipelineError> {
    component.require_class(&[F::FACTS.transformer])?;
    let config = F::read_transformer(&component.config);
    Ok(Arc::new(config.map_err(|problem| config_error(problem, component))?))
}

fn read_vae<F: Family>(component: &Component) -> Result<Arc<dyn AutoencoderConfig>, PipelineError> {
    component.require_class(&[F::FACTS.vae])?;
    let config: F::Autoencoder = config_from_json(&component.config, &component.config_path())?;
    config.validate().map_err(|problem| config_error(problem, component))?;
    Ok(Arc::new(config))
}

fn read_text_encoder<F: Family>(component: &Component) -> Result<T5Config, PipelineError> {
    component.require_class(&[F::FACTS.text_encoder])?;
    F::read_text_encoder(&component.config).map_err(|problem| config_error(problem, component))
}

fn config_error(problem: ConfigError, component: &Component) -> PipelineError {
    PipelineError::Config { problem, path: component.config_path() }
}
