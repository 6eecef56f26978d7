//! This autoencoder as the rest of the program sees any.

use super::{
    WanVaeConfig, WanVaeDecoder, WanVaeEncoder, decode_peak_bytes, largest_tensor_elements,
};
use crate::models::{AutoencoderConfig, AutoencoderError, ConfigError, Decoder, Encoder, Tiling};
use crate::nn::Weights;

impl AutoencoderConfig for WanVaeConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        Self::validate(self)
    }

    fn z_dim(&self) -> usize {
        self.z_dim
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
        self.latents_mean.iter().chain(&self.latents_std).copied().collect()
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
        let product = |sizes: [usize; 4]| {
            sizes.iter().fold(1_u64, |product, &len| product.saturating_mul(len as u64))
        };
        let chunk = self.temporal_factor();
        let mut channels = self.base_dim;
        let levels = self.dim_mult.iter().enumerate().map(|(level, multiplier)| {
            let widest = channels.max(self.base_dim * multiplier);
            channels = self.base_dim * multiplier;
            product([widest, chunk, height >> level, width >> level])
        });
        levels.fold(product([3, frames, height, width]), u64::max)
    }

    /// Tiles of 256×256 pixels, 192 apart (both rounded down to whole latents).
    fn standard_tiling(&self) -> Tiling {
        Tiling::of_pixels(self, 256, 192)
    }

    fn load_decoder(&self, weights: &Weights<'_>) -> Result<Box<dyn Decoder>, AutoencoderError> {
        Ok(Box::new(WanVaeDecoder::load(weights, self)?))
    }

    fn load_encoder(&self, weights: &Weights<'_>) -> Result<Box<dyn Encoder>, AutoencoderError> {
        Ok(Box::new(WanVaeEncoder::load(weights, self)?))
    }
}
