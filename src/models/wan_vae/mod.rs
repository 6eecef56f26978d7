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
//! | `layers` | blocks; what they remember between chunks is in `causal_cache` |
//! | `decoder`, `encoder` | the two halves, loaded separately |
//! | `shapes`, `memory`, `ops` | names of all parameters; what decoding needs and does |
//! | `autoencoder` | what the rest of the program asks of any autoencoder |
//!
//! Reference: `AutoencoderKLWan` of diffusers 0.42.

mod autoencoder;
mod config;
mod decoder;
mod encoder;
mod layers;
mod memory;
mod ops;
mod shapes;

pub use config::WanVaeConfig;
pub use decoder::{DecodeStream, WanVaeDecoder};
pub use encoder::WanVaeEncoder;
pub use memory::{decode_peak_bytes, largest_tensor_elements};
pub use ops::decode_ops;

use burn::tensor::Tensor;

/// Called with the name and the value of an inner result, for comparison with a reference.
pub type Trace<'a> = dyn FnMut(&str, &Tensor<4>) + 'a;
