//! Why an evaluation stops.

use crate::models::AutoencoderError;
use crate::pipeline::PipelineError;
use crate::pipeline::cancel::Cancelled;
use crate::world::ClipError;

/// Why an evaluation stops; one sentence each, for people.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluateError {
    /// The model, its files, or the device.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// A clip that cannot be scored.
    #[error(transparent)]
    Clip(#[from] ClipError),
    /// A setting or a list of prompts that cannot be.
    #[error("{0}")]
    Setting(String),
    /// Two models that do not work on the same latents.
    #[error(
        "the reference's transformer has {field} {reference} and the model's has {model}; give the \
         full-precision model that it was made from"
    )]
    Reference {
        /// Field of `transformer/config.json`.
        field: &'static str,
        /// Its value in the reference.
        reference: usize,
        /// Its value in the model.
        model: usize,
    },
}

impl From<AutoencoderError> for EvaluateError {
    fn from(error: AutoencoderError) -> Self {
        Self::Pipeline(error.into())
    }
}

impl From<Cancelled> for EvaluateError {
    fn from(cancelled: Cancelled) -> Self {
        Self::Pipeline(cancelled.into())
    }
}
