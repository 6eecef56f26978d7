//! Why training stops.

use crate::method::qvgen::ScheduleError;
use crate::nn::WeightError;
use crate::pipeline::PipelineError;
use crate::pipeline::atomic::OutputError;
use crate::pipeline::cancel::Cancelled;
use crate::pipeline::checkpoint::CheckpointError;
use std::path::PathBuf;

/// Why training stops; one sentence each, for people.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A parameter is missing or unusable.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// A model or its files.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// A file of tensors.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Output that cannot be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// Ranks that make no schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// A setting that cannot be.
    #[error("{0}")]
    Setting(String),
    /// The loss or a gradient is no number.
    #[error(
        "step {step}: the {what} is not finite{}; lower the learning rate, or go on from the last \
         checkpoint with another seed (--resume --allow-changes --seed N)",
        layer.as_ref().map(|layer| format!(", first in {layer}")).unwrap_or_default()
    )]
    NotFinite {
        /// Step, from 0.
        step: usize,
        /// `loss` or `gradient`.
        what: &'static str,
        /// Where the first value appeared that is no number.
        layer: Option<String>,
    },
    /// Clips that cannot be used.
    #[error("{message}: {}", path.display())]
    Data {
        /// What is wrong and what to do.
        message: String,
        /// File or folder.
        path: PathBuf,
    },
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(String),
}

impl From<Cancelled> for TrainError {
    fn from(cancelled: Cancelled) -> Self {
        Self::Pipeline(cancelled.into())
    }
}
