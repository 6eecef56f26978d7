//! Architectures that read like their papers.
//!
//! A family of text-to-video models is a denoiser, an autoencoder and a text encoder, each in a
//! folder of its own. What the rest of the program may ask of any of them is in [`denoiser`],
//! [`autoencoder`] and [`Family`]; nothing outside this module names a family but the list of the
//! pipeline.

pub mod autoencoder;
mod blocks;
mod causal_cache;
pub mod cogvideox;
pub mod cogvideox_vae;
mod decode_ops;
pub mod denoiser;
mod family;
mod fields;
pub mod t5;
mod tiles;
mod tiling;
pub mod wan;
pub mod wan_vae;

pub use autoencoder::{AutoencoderConfig, AutoencoderError, Decoder, Encoder, Moments};
pub use decode_ops::DecodeOps;
pub use denoiser::{Denoiser, DenoiserConfig, TextContext, TimestepContext};
pub use family::{Family, FamilyFacts, PublishedModel};
pub use tiling::Tiling;

/// A configuration value that this implementation cannot honour.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{field}\" is {actual}, {expected}")]
pub struct ConfigError {
    /// Key in the `config.json`.
    pub field: &'static str,
    /// Value found there.
    pub actual: String,
    /// What would be accepted, as the end of a sentence: "expected a positive number".
    pub expected: &'static str,
}

/// A linear layer of a model, by its name in the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearShape {
    /// Name without `.weight`.
    pub name: String,
    /// Rows of the weight.
    pub out_features: usize,
    /// Columns of the weight.
    pub in_features: usize,
}
