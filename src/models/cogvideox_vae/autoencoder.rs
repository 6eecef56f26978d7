//! This autoencoder as the rest of the program sees any.

use super::{
    CogVideoXVaeConfig, CogVideoXVaeDecoder, CogVideoXVaeEncoder, decode_peak_bytes,
    largest_encode_elements, largest_tensor_elements,
};
use crate::models::{AutoencoderConfig, AutoencoderError, ConfigError, Decoder, Encoder, Tiling};
use crate::nn::Weights;

impl AutoencoderConfig for CogVideoXVaeConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        Self::validate(self)
    }

    fn z_dim(&self) -> usize {
        self.latent_channels
    }

    fn spatial_factor(&self) -> usize {
        Self::spatial_factor(self)
    }

    fn temporal_factor(&self) -> usize {
        Self::temporal_factor(self)
    }

    fn frames(&self, latent_frames: usize) -> usize {
        Self::frames(self, latent_frames)
    }

    fn statistics(&self) -> Vec<f32> {
        vec![self.scaling_factor]
    }

    fn decoder_parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        Self::decoder_parameter_shapes(self)
    }

    fn encoder_parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        Self::encoder_parameter_shapes(self)
    }

    fn decode_peak_bytes(&self, latent_height: usize, latent_width: usize) -> u64 {
        decode_peak_bytes(self, latent_height, latent_width)
    }

    fn largest_decode_elements(&self, latent_height: usize, latent_width: usize) -> u64 {
        largest_tensor_elements(self, latent_height, latent_width)
    }

    fn largest_encode_elements(&self, frames: usize, height: usize, width: usize) -> u64 {
        largest_encode_elements(self, frames, height, width)
    }

    /// Tiles of half the size of the videos it was trained with, which share a sixth of their height
    /// and a fifth of their width; other ones for sizes where these are no whole latents.
    fn standard_tiling(&self) -> Tiling {
        let pixels = [self.sample_height / 2, self.sample_width / 2];
        let overlaps = [1.0 / 6.0, 1.0 / 5.0];
        Tiling::overlapping(self, pixels, overlaps)
            .unwrap_or_else(|_| Tiling::of_pixels(self, 256, 192))
    }

    fn load_decoder(&self, weights: &Weights<'_>) -> Result<Box<dyn Decoder>, AutoencoderError> {
        Ok(Box::new(CogVideoXVaeDecoder::load(weights, self)?))
    }

    fn load_encoder(&self, weights: &Weights<'_>) -> Result<Box<dyn Encoder>, AutoencoderError> {
        Ok(Box::new(CogVideoXVaeEncoder::load(weights, self)?))
    }
}
