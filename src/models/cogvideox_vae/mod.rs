//! The causal 3-D autoencoder of CogVideoX: latents to video and back, a few frames at a time.
//!
//! Video is `[3, frames, height, width]` in about −1…1, a latent `[latent_channels, latent frames,
//! height / 8, width / 8]`, divided by the configuration's scaling factor before it is decoded. The
//! result is not a function of the whole clip: it is decoded in chunks of two latent frames and
//! encoded in chunks of eight frames, what is left over joins the first chunk, and the group norms
//! take mean and variance of all frames of a chunk. A convolution sees the frames of the chunks
//! before, and before the first frame that one again.
//!
//! | file | what |
//! |---|---|
//! | `config` | `vae/config.json`, channels per block, lengths of chunks |
//! | `frames` | a chunk in as many tensors as the device needs |
//! | `layers`, `resample` | blocks and changes of resolution |
//! | `decoder`, `encoder` | the two halves, loaded separately |
//! | `shapes`, `memory`, `ops` | names of all parameters; what decoding needs and does |
//! | `autoencoder` | what the rest of the program asks of any autoencoder |
//!
//! Reference: `AutoencoderKLCogVideoX` of diffusers 0.42.

mod autoencoder;
mod config;
mod decoder;
mod encoder;
mod frames;
mod layers;
mod memory;
mod ops;
mod resample;
mod shapes;

pub use config::CogVideoXVaeConfig;
pub use decoder::{CogVideoXVaeDecoder, DecodeStream};
pub use encoder::CogVideoXVaeEncoder;
pub use memory::{decode_peak_bytes, largest_encode_elements, largest_tensor_elements};
pub use ops::decode_ops;

use burn::tensor::Tensor;
use frames::Frames;
use std::fmt::Display;

/// Takes the name and the value of an inner result, for comparison with a reference.
type Observer<'a> = Option<&'a mut dyn FnMut(&str, &Tensor<4>)>;

/// Shows `value` to the observer; it is put together only if there is one.
fn observe(observer: &mut Observer<'_>, name: impl Display, value: &Frames) {
    if let Some(observer) = observer {
        observer(&name.to_string(), &value.clone().joined());
    }
}
