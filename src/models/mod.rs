//! Architectures that read like their papers.

mod blocks;
pub mod cogvideox;
mod fields;
pub mod t5;
pub mod wan;
pub mod wan_vae;

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
