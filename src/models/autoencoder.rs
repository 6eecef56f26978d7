//! What every video autoencoder has in common, whatever its family.
//!
//! Video is `[3, frames, height, width]` in −1…1, a latent `[z_dim, latent frames, height / factor,
//! width / factor]` as the denoiser works on it.

use super::tiles::encode_tiles;
use super::{ConfigError, Tiling};
use crate::nn::{WeightError, Weights};
use burn::tensor::Tensor;
use std::fmt::Debug;
use std::ops::ControlFlow;

/// Sizes of an autoencoder, and everything that follows from them.
pub trait AutoencoderConfig: Debug + Send + Sync {
    /// Checks that every value is one this implementation can honour.
    ///
    /// # Errors
    ///
    /// Names the first key that is not.
    fn validate(&self) -> Result<(), ConfigError>;

    /// Channels of a latent.
    fn z_dim(&self) -> usize;

    /// Pixels per latent along height and width.
    fn spatial_factor(&self) -> usize;

    /// Frames that each latent frame but the first stands for.
    fn temporal_factor(&self) -> usize;

    /// Frames that a latent of `latent_frames` decodes to.
    fn frames(&self, latent_frames: usize) -> usize;

    /// The numbers by which latents are normalized.
    fn statistics(&self) -> Vec<f32>;

    /// Name and shape of each parameter of the decoder.
    fn decoder_parameter_shapes(&self) -> Vec<(String, Vec<usize>)>;

    /// Name and shape of each parameter of the encoder.
    fn encoder_parameter_shapes(&self) -> Vec<(String, Vec<usize>)>;

    /// Bytes of the f32 tensors that live at the fullest moment of decoding a latent of that size,
    /// without the parameters and the latent itself; its length does not matter.
    fn decode_peak_bytes(&self, latent_height: usize, latent_width: usize) -> u64;

    /// Elements of the largest tensor while decoding a latent of that size.
    fn largest_decode_elements(&self, latent_height: usize, latent_width: usize) -> u64;

    /// Elements of the largest tensor while encoding a video of that size.
    fn largest_encode_elements(&self, frames: usize, height: usize, width: usize) -> u64;

    /// The tiles that the reference cuts large frames into.
    fn standard_tiling(&self) -> Tiling;

    /// The decoding half; nothing else is read.
    ///
    /// # Errors
    ///
    /// If the configuration is not supported, or a tensor is missing or has another shape.
    fn load_decoder(&self, weights: &Weights<'_>) -> Result<Box<dyn Decoder>, AutoencoderError>;

    /// The encoding half; nothing else is read.
    ///
    /// # Errors
    ///
    /// As [`Self::load_decoder`].
    fn load_encoder(&self, weights: &Weights<'_>) -> Result<Box<dyn Encoder>, AutoencoderError>;
}

/// Told of each part of a video in turn, `[3, frames, height, width]`; may end the work.
pub type VideoSink<'a> = dyn FnMut(Tensor<4>) -> ControlFlow<()> + 'a;

/// Latents to video.
pub trait Decoder: Debug + Send + Sync {
    /// Decodes `latent [z_dim, latent frames, height, width]`; `sink` gets the video in order.
    ///
    /// With `tiling` and a latent larger than a tile, the video is decoded in tiles, and `sink` is
    /// first called when all of them are done.
    ///
    /// # Errors
    ///
    /// If the device fails while tiles are read.
    ///
    /// # Panics
    ///
    /// If `latent` has not `z_dim` channels.
    fn decode(
        &self,
        latent: Tensor<4>,
        tiling: Option<Tiling>,
        sink: &mut VideoSink<'_>,
    ) -> Result<(), AutoencoderError>;
}

/// Video to latents.
pub trait Encoder: Debug + Send + Sync {
    /// The latents of `video [3, frames, height, width]` as the denoiser works on them: the mean of
    /// their distribution, normalized.
    ///
    /// # Errors
    ///
    /// If the number or the size of the frames cannot be encoded.
    ///
    /// # Panics
    ///
    /// If the video has not 3 channels.
    fn encode_normalized(&self, video: Tensor<4>) -> Result<Tensor<4>, AutoencoderError>;

    /// As [`Self::encode_normalized`], in tiles if the video is larger than one: what norms and
    /// attention see of a frame is then that of its tile.
    ///
    /// # Errors
    ///
    /// As [`Self::encode_normalized`], or if the device fails while tiles are read.
    ///
    /// # Panics
    ///
    /// As [`Self::encode_normalized`].
    fn encode_normalized_in(
        &self,
        video: Tensor<4>,
        tiling: Option<Tiling>,
    ) -> Result<Tensor<4>, AutoencoderError> {
        let [_, _, height, width] = video.dims();
        match tiling {
            Some(tiling) if tiling.splits_frame(height, width) => {
                encode_tiles(self, &video, tiling)
            }
            _ => self.encode_normalized(video),
        }
    }
}

/// Mean and logarithm of the variance of the latents, not normalized.
#[derive(Clone, Debug)]
pub struct Moments {
    /// `[2·z_dim, latent frames, height / factor, width / factor]`: mean, then log-variance, not
    /// clamped.
    pub values: Tensor<4>,
}

impl Moments {
    /// The mean, `[z_dim, latent frames, height / factor, width / factor]`.
    pub fn mean(&self) -> Tensor<4> {
        let z_dim = self.values.dims()[0] / 2;
        self.values.clone().narrow(0, 0, z_dim)
    }

    /// The logarithm of the variance, of the shape of the mean.
    pub fn log_variance(&self) -> Tensor<4> {
        let z_dim = self.values.dims()[0] / 2;
        self.values.clone().narrow(0, z_dim, z_dim)
    }
}

/// Why an autoencoder could not be loaded or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AutoencoderError {
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
