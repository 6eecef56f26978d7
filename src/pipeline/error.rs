//! Everything that can end a run, in sentences that reach the user unchanged.

use super::atomic::OutputError;
use super::cancel::Cancelled;
use super::checkpoint::CheckpointError;
use super::scheduler::SchedulerError;
use super::tokenizer::TextError;
use super::video::VideoError;
use crate::models::t5::EncodeError;
use crate::models::{AutoencoderError, ConfigError};
use crate::nn::WeightError;
use std::path::PathBuf;

/// Why a pipeline could not be opened or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// A file of the model.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A parameter of the model.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// A configuration value.
    #[error("{problem} in {}", path.display())]
    Config {
        /// What is wrong.
        problem: ConfigError,
        /// The configuration file.
        path: PathBuf,
    },
    /// Components that do not belong together.
    #[error("{message}; the components in {} do not belong together", path.display())]
    Mismatch {
        /// Both values.
        message: String,
        /// The model folder.
        path: PathBuf,
    },
    /// A setting of the run.
    #[error("{0}")]
    Setting(String),
    /// The prompt or the tokenizer.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The text encoder.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The scheduler's configuration.
    #[error("{problem} in {}", path.display())]
    SchedulerFile {
        /// What is wrong.
        problem: SchedulerError,
        /// The configuration file.
        path: PathBuf,
    },
    /// The scheduler.
    #[error(transparent)]
    Scheduler(#[from] SchedulerError),
    /// The autoencoder.
    #[error(transparent)]
    Vae(#[from] AutoencoderError),
    /// The video.
    #[error(transparent)]
    Video(#[from] VideoError),
    /// A file that was to be written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A value that is no number, where the model should have given one.
    #[error(
        "{what} holds values that are not finite; the weights are damaged, or the device is faulty \
         (compare with `--device cpu`)"
    )]
    NotFinite {
        /// Which tensor, and at which step.
        what: String,
    },
    /// The model is too large for the memory there is.
    #[error("{0}")]
    Memory(String),
    /// The device failed while a result was read.
    #[error("the device failed: {message}; try a smaller size, fewer frames, or `--device cpu`")]
    Device {
        /// In the words of the runtime.
        message: String,
    },
    /// Stopped by the user.
    #[error("stopped; nothing was written")]
    Cancelled,
}

impl From<Cancelled> for PipelineError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

impl PipelineError {
    /// A device failure from a runtime's report, which may run over many lines.
    pub(crate) fn device(report: &impl std::fmt::Debug) -> Self {
        let report = format!("{report:?}");
        let message: String =
            report.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect();
        Self::Device { message }
    }
}
