//! Files and loops: checkpoints, text, schedulers, videos, sampling.
//!
//! | step | module |
//! |---|---|
//! | open a model folder and check that its components fit | [`checkpoint`], [`model`], [`family`], [`embedded`] |
//! | text to token ids | [`prompt`], [`tokenizer`] |
//! | settings, sizes and memory before any work | [`settings`], [`plan`] |
//! | prompt to frames | [`sample`], [`guidance`], [`scheduler`], [`noise`], [`padding`] |
//! | frames to a file | [`video`], [`atomic`] |
//! | what layers read, for methods that look at it | [`calibrate`] |
//! | full precision to packed codes | [`packed`], [`quantize`] |
//! | a checkpoint of the released QVGen code to packed codes | [`import`] |
//! | what stands beside a rewritten component | [`companions`] |

pub mod atomic;
pub mod calibrate;
pub mod cancel;
mod charsmap;
pub mod checkpoint;
pub mod companions;
pub mod defaults;
pub mod embedded;
mod error;
pub mod family;
mod ftfy;
pub mod guidance;
pub mod import;
pub mod inspect;
pub mod memory;
pub mod model;
mod model_files;
pub mod noise;
pub mod noising;
pub mod noisy_latent;
pub mod packed;
pub mod padding;
pub mod plan;
pub mod prompt;
pub mod quantize;
pub mod sample;
pub mod scheduler;
mod sentencepiece;
pub mod settings;
pub mod tokenizer;
mod tokenizer_json;
pub mod video;

pub use error::PipelineError;
pub use model_files::ModelFiles;
