//! The causal 3-D autoencoder of Wan 2.1: latents to video and back, a few frames at a time.
//!
//! Video is `[3, frames, height, width]` in −1…1, a latent `[z_dim, latent frames, height / 8,
//! width / 8]`, normalized per channel by the configuration's mean and standard deviation. The
//! first latent frame stands for one picture, each further one for four. Time is causal: a
//! convolution sees zeros before the first frame, so decoding a chunk with the remembered frames
//! of the chunks before gives what decoding all at once would, and memory does not grow with the
//! length of the video.
//!
//! | file | what |
//! |---|---|
//! | `config` | `vae/config.json`, channels per block |
//! | `layers`, `cache` | blocks, and what they remember between chunks |
//! | `decoder`, `encoder` | the two halves, loaded separately |
//! | `tiles` | decoding large frames in overlapping tiles |
//! | `shapes`, `memory`, `ops` | names of all parameters; what decoding needs and does |
//!
//! Reference: `AutoencoderKLWan` of diffusers 0.42.

mod cache;
mod config;
mod decoder;
mod encoder;
mod layers;
mod memory;
mod ops;
mod shapes;
mod tiles;

pub use config::WanVaeConfig;
pub use decoder::{DecodeStream, WanVaeDecoder};
pub use encoder::{Moments, WanVaeEncoder};
pub use memory::{decode_peak_bytes, largest_tensor_elements};
pub use ops::{DecodeOps, decode_ops};
pub use tiles::Tiling;

use super::ConfigError;
use crate::nn::WeightError;
use burn::tensor::Tensor;

/// Called with the name and the value of an inner result, for comparison with a reference.
pub type Trace<'a> = dyn FnMut(&str, &Tensor<4>) + 'a;

/// Why an autoencoder could not be loaded or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WanVaeError {
    /// The configuration asks for something that is not supported.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A parameter could not be had.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// The number of frames cannot be encoded.
    #[error("the video has {frames} frames, expected a multiple of {factor} plus 1")]
    FrameCount {
        /// Frames given.
        frames: usize,
        /// Frames per latent frame.
        factor: usize,
    },
    /// The size of a frame cannot be encoded.
    #[error("the video is {width}x{height} pixels, expected positive multiples of {factor}")]
    FrameSize {
        /// Pixels across.
        width: usize,
        /// Pixels down.
        height: usize,
        /// Pixels per latent.
        factor: usize,
    },
    /// The device failed while a result was read.
    #[error("the device failed: {message}")]
    Device {
        /// In the words of the runtime.
        message: String,
    },
}
