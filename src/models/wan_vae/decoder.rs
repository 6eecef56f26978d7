//! Latents to video.

use super::config::Level;
use super::layers::{CausalConv, MidBlock, ResBlock, Upsample, load_pointwise};
use super::{Trace, WanVaeConfig};
use crate::models::autoencoder::VideoSink;
use crate::models::causal_cache::Cache;
use crate::models::tiles::{TileSource, decode_tiles};
use crate::models::{AutoencoderError, Decoder, Tiling};
use crate::nn::{ChannelNorm, Conv3d, WeightError, Weights};
use burn::tensor::{Device, Tensor};
use std::ops::ControlFlow;

/// The decoding half of the autoencoder.
#[derive(Clone, Debug)]
pub struct WanVaeDecoder {
    config: WanVaeConfig,
    device: Device,
    post_quant_conv: Conv3d,
    conv_in: CausalConv,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    norm_out: ChannelNorm,
    conv_out: CausalConv,
    /// `[z_dim, 1, 1, 1]`.
    mean: Tensor<4>,
    /// `[z_dim, 1, 1, 1]`.
    std: Tensor<4>,
}

impl WanVaeDecoder {
    /// Loads `decoder.*` and `post_quant_conv.*` of a checkpoint; nothing else is read.
    ///
    /// # Errors
    ///
    /// If the configuration is not supported, or a tensor is missing or has another shape.
    pub fn load(weights: &Weights<'_>, config: &WanVaeConfig) -> Result<Self, AutoencoderError> {
        config.validate()?;
        let (decoder, z_dim) = (weights.at("decoder"), config.z_dim);
        let (_, mid_channels) = config.mid_channels();
        let levels = config.up_levels();
        let last_channels = levels.last().map_or(mid_channels, |level| level.out_channels);
        let up_blocks = levels
            .iter()
            .enumerate()
            .map(|(i, level)| UpBlock::load(&decoder.at(format!("up_blocks.{i}")), level))
            .collect::<Result<_, _>>()?;
        let device = weights.device();
        Ok(Self {
            device: device.clone(),
            post_quant_conv: load_pointwise(weights, "post_quant_conv", z_dim, z_dim)?,
            conv_in: CausalConv::load(&decoder, "conv_in", z_dim, mid_channels)?,
            mid_block: MidBlock::load(&decoder.at("mid_block"), mid_channels)?,
            up_blocks,
            norm_out: ChannelNorm::load(&decoder, "norm_out", last_channels, 3, true)?,
            conv_out: CausalConv::load(&decoder, "conv_out", last_channels, config.out_channels)?,
            mean: per_channel(&config.latents_mean, device),
            std: per_channel(&config.latents_std, device),
            config: config.clone(),
        })
    }

    /// The configuration it was loaded with.
    pub fn config(&self) -> &WanVaeConfig {
        &self.config
    }

    /// A decoder that takes one latent frame after the other.
    pub fn stream(&self) -> DecodeStream<'_> {
        DecodeStream { decoder: self, cache: Cache::default() }
    }

    /// Decodes the normalized `latent [z_dim, latent frames, height, width]`.
    ///
    /// `sink` gets the video in order, as tensors `[3, frames, height·8, width·8]` on the device of
    /// the decoder, about −1…1 but not clamped, so that what is not finite shows: one frame first,
    /// then four per latent frame.
    ///
    /// With `tiling` and a latent larger than a tile, the video is decoded in tiles; see
    /// [`Tiling`]. Then `sink` is first called when all tiles are done.
    ///
    /// # Errors
    ///
    /// If the device fails while tiles are read.
    ///
    /// # Panics
    ///
    /// If `latent` has not `z_dim` channels.
    pub fn decode(
        &self,
        latent: Tensor<4>,
        tiling: Option<Tiling>,
        sink: &mut VideoSink<'_>,
    ) -> Result<(), AutoencoderError> {
        let [_, _, height, width] = latent.dims();
        match tiling {
            Some(tiling) if tiling.splits(height, width) => {
                decode_tiles(self, &latent, tiling, sink)
            }
            _ => {
                let _ = self.decode_chunks(&latent, sink);
                Ok(())
            }
        }
    }

    /// As [`WanVaeDecoder::decode`], the whole video in one tensor.
    ///
    /// # Errors
    ///
    /// If the device fails while tiles are read.
    ///
    /// # Panics
    ///
    /// If `latent` has not `z_dim` channels or no frames.
    pub fn decode_all(
        &self,
        latent: Tensor<4>,
        tiling: Option<Tiling>,
    ) -> Result<Tensor<4>, AutoencoderError> {
        let mut chunks = Vec::new();
        self.decode(latent, tiling, &mut |chunk| {
            chunks.push(chunk);
            ControlFlow::Continue(())
        })?;
        Ok(Tensor::cat(chunks, 1))
    }

    fn forward(&self, latent: Tensor<4>, cache: &mut Cache, trace: &mut Trace<'_>) -> Tensor<4> {
        cache.rewind();
        let latent = latent * self.std.clone() + self.mean.clone();
        let x = self.conv_in.forward(self.post_quant_conv.forward(latent, None), cache);
        trace("conv_in", &x);
        let mut x = self.mid_block.forward(x, cache);
        trace("mid_block", &x);
        for (i, block) in self.up_blocks.iter().enumerate() {
            x = block.forward(x, cache);
            trace(&format!("up_block{i}"), &x);
        }
        self.conv_out.forward(self.norm_out.forward(x), cache)
    }
}

impl TileSource for WanVaeDecoder {
    fn device(&self) -> &Device {
        &self.device
    }

    fn chunk_frames(&self, latent_frames: usize) -> Vec<usize> {
        let later = self.config.temporal_factor();
        (0..latent_frames).map(|frame| if frame == 0 { 1 } else { later }).collect()
    }

    fn decode_chunks(&self, latent: &Tensor<4>, sink: &mut VideoSink<'_>) -> ControlFlow<()> {
        let mut stream = self.stream();
        (0..latent.dims()[1]).try_for_each(|frame| {
            let latent = latent.clone().narrow(1, frame, 1);
            sink(stream.decode(latent))
        })
    }
}

impl Decoder for WanVaeDecoder {
    fn decode(
        &self,
        latent: Tensor<4>,
        tiling: Option<Tiling>,
        sink: &mut VideoSink<'_>,
    ) -> Result<(), AutoencoderError> {
        Self::decode(self, latent, tiling, sink)
    }
}

/// A video in the making: what the decoder remembers of the latent frames so far.
#[derive(Debug)]
pub struct DecodeStream<'a> {
    decoder: &'a WanVaeDecoder,
    cache: Cache,
}

impl DecodeStream<'_> {
    /// The frames of the next normalized latent frame `[z_dim, 1, height, width]`, not
    /// clamped: one frame for the first, then four (`[3, frames, height·8, width·8]`).
    ///
    /// # Panics
    ///
    /// If the channels, or the size of the frames before, are different.
    pub fn decode(&mut self, latent: Tensor<4>) -> Tensor<4> {
        self.decode_traced(latent, &mut |_, _| {})
    }

    /// As [`DecodeStream::decode`]; `trace` sees `conv_in`, `mid_block` and each `up_block{i}`.
    ///
    /// # Panics
    ///
    /// As [`DecodeStream::decode`].
    pub fn decode_traced(&mut self, latent: Tensor<4>, trace: &mut Trace<'_>) -> Tensor<4> {
        self.decoder.forward(latent, &mut self.cache, trace)
    }
}

/// Residual blocks of one resolution and the step to the next.
#[derive(Clone, Debug)]
struct UpBlock {
    resnets: Vec<ResBlock>,
    upsample: Option<Upsample>,
}

impl UpBlock {
    fn load(weights: &Weights<'_>, level: &Level) -> Result<Self, WeightError> {
        let channels = level.out_channels;
        let resnet = |i| {
            let weights = weights.at(format!("resnets.{i}"));
            ResBlock::load(&weights, level.block_in_channels(i), channels)
        };
        let upsamplers = weights.at("upsamplers.0");
        Ok(Self {
            resnets: (0..level.blocks).map(resnet).collect::<Result<_, _>>()?,
            upsample: level
                .resampled
                .map(|resampled| Upsample::load(&upsamplers, channels, resampled))
                .transpose()?,
        })
    }

    fn forward(&self, x: Tensor<4>, cache: &mut Cache) -> Tensor<4> {
        let x = self.resnets.iter().fold(x, |x, resnet| resnet.forward(x, cache));
        match &self.upsample {
            Some(upsample) => upsample.forward(x, cache),
            None => x,
        }
    }
}

/// Values for `[channels, 1, 1, 1]`.
pub(super) fn per_channel(values: &[f32], device: &Device) -> Tensor<4> {
    Tensor::<1>::from_data(values, device).reshape([values.len(), 1, 1, 1])
}
