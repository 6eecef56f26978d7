//! Clips with captions, encoded once: training then holds neither autoencoder nor text encoder.
//!
//! | step | file |
//! |---|---|
//! | a folder or a list to clips with captions | `clips`, `captions` |
//! | a clip to frames of one of a few sizes | `buckets`, `sampling`, `resize` |
//! | frames and captions to latents and embeddings on disk | `encode`, `texts` |
//! | prompts alone to latents that the model itself makes | `synthesize` |
//! | what is on disk, and whose it is | `index`, `store`, `digest` |
//! | the way back, as a [`Dataset`](super::Dataset) | `cached` |
//!
//! A cache is a folder: `index.json`, one file per clip in `latents`, one per caption in `texts`.
//! Every file appears when it is complete and says which model and settings made it, so a run that
//! was stopped continues where it was, and a cache of another model is refused.

mod buckets;
mod cached;
mod captions;
mod clips;
mod digest;
mod encode;
mod index;
mod resize;
mod sampling;
mod store;
mod synthesize;
mod texts;

pub use buckets::Buckets;
pub use cached::CachedDataset;
pub use clips::{Clip, ClipList, list_clips};
pub use digest::ModelFacts;
pub use encode::{ClipSettings, cache_clips};
pub use index::{Entry, INDEX_FILE, Index, Key, SourceKind};
pub use resize::Resizer;
pub use sampling::{Collector, SampledClip};
pub use store::CacheDtype;
pub use synthesize::{PromptSettings, cache_prompts, prompt_seed, read_prompts};

use super::TrainError;
use crate::kernels::device::OpenDevice;
use crate::pipeline::cancel::Cancel;
use crate::pipeline::model::VideoModel;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What making a cache needs, whatever it is made of.
#[derive(Debug)]
pub struct CacheJob<'a> {
    /// The model whose autoencoder and text encoder are used.
    pub model: &'a VideoModel,
    /// Where they run.
    pub device: &'a OpenDevice,
    /// The folder of the cache; its parent exists.
    pub out: PathBuf,
    /// How values are stored.
    pub dtype: CacheDtype,
    /// Stops the work between clips; what was cached stays.
    pub cancel: Cancel,
}

/// The stages of making a cache, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheStage {
    /// Text encoder blocks, once per group of captions.
    Text,
    /// Transformer blocks being loaded, to make latents of prompts.
    Load,
    /// Clips through the autoencoder.
    Encode,
    /// Denoising steps of all prompts.
    Sample,
}

/// Told of progress: `done` of `total` units of a stage.
pub type CacheProgress<'a> = dyn FnMut(CacheStage, usize, usize) + 'a;

/// A clip that is not in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// Name as it was listed.
    pub clip: String,
    /// Why, in a sentence.
    pub reason: String,
}

/// What a run did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CacheReport {
    /// Clips in the cache.
    pub clips: usize,
    /// Latents made by this run.
    pub made: usize,
    /// Latents that were there already.
    pub reused: usize,
    /// Different captions, the empty one included.
    pub texts: usize,
    /// Clips left out because no bucket is as short as they are.
    pub too_short: usize,
    /// All clips left out.
    pub skipped: Vec<Skipped>,
    /// Clips by the shape of their latent, `channels x frames x height x width`.
    pub shapes: BTreeMap<String, usize>,
}

fn data_error(message: impl Into<String>, path: &Path) -> TrainError {
    TrainError::Data { message: message.into(), path: path.to_owned() }
}
