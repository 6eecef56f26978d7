//! Training: full-precision models from nothing, and quantized students of them.
//!
//! | file | what it decides |
//! |---|---|
//! | `parameters`, `source` | what is trained, and how a model of `models` is built of it |
//! | `student` | what a quantized layer has beside its weight, and what a phase changes |
//! | `gradients` | loss and gradients of one clip, with all activations or one block's at a time |
//! | `optimizer`, `trainer` | the update and the loop |
//! | [`config`], `open_dataset`, `init` | a training as a file describes it |
//! | `run`, `state`, `metrics` | a whole training: checkpoints, measurements, samples, figures |
//! | `export` | a trained model as a folder, or packed in memory |
//! | [`data`], `world_clips` | clips encoded once, and drawn from |
//! | [`pretrain`] | a small model from nothing |

pub mod config;
pub mod data;
mod dataset;
mod error;
mod export;
pub mod figures;
mod gradients;
mod init;
mod metrics;
mod open_dataset;
mod optimizer;
mod parameters;
mod plan;
pub mod pretrain;
mod random;
mod run;
mod source;
mod state;
mod student;
mod trainer;
mod world_clips;

pub use dataset::{Dataset, InMemory};
pub use error::TrainError;
pub use export::{Export, PackedSource, averaged};
pub use gradients::{Example, Pass};
pub use init::random_parameters;
pub use metrics::{Metric, MetricsFile, StepMetric, ValidationMetric, read_metrics};
pub use open_dataset::{Part, latent_shape, open_dataset};
pub use optimizer::OptimizerSettings;
pub(crate) use optimizer::square_sum;
pub use parameters::{Group, Parameter, Parameters};
pub use plan::{TrainMemory, TrainPlan};
pub use run::{Event, Mode, OpenedModel, Outcome, RunFolder, TrainJob, check_layers, train};
pub use source::{GradientMap, ParameterSource};
pub use state::{Checkpoints, Identity, Restored};
pub use student::{QuantizedLayers, Spectra};
pub use trainer::{LoopSettings, StepReport, Trainer};
pub use world_clips::{WorldTexts, world_clips};
