//! Latents to video.

use super::CogVideoXVaeConfig;
use super::config::{Level, latent_chunks};
use super::frames::Frames;
use super::layers::{CausalConv, Head, Norm, ResBlocks, SpatialNorm};
use super::resample::Upsample;
use super::{Observer, observe};
use crate::models::autoencoder::VideoSink;
use crate::models::causal_cache::Cache;
use crate::models::tiles::{TileSource, decode_tiles};
use crate::models::{AutoencoderError, Decoder, Tiling};
use crate::nn::{Limits, WeightError, Weights};
use burn::tensor::{Device, Tensor};
use std::ops::ControlFlow;

/// The decoding half of the autoencoder.
#[derive(Clone, Debug)]
pub struct CogVideoXVaeDecoder {
    config: CogVideoXVaeConfig,
    limits: Limits,
    device: Device,
    conv_in: CausalConv,
    mid_block: ResBlocks<SpatialNorm>,
    up_blocks: Vec<UpBlock>,
    head: Head<SpatialNorm>,
}

impl CogVideoXVaeDecoder {
    /// Loads `decoder.*` of a checkpoint; nothing else is read.
    ///
    /// # Errors
    ///
    /// If the configuration is not supported, or a tensor is missing or has another shape.
    pub fn load(
        weights: &Weights<'_>,
        config: &CogVideoXVaeConfig,
    ) -> Result<Self, AutoencoderError> {
        config.validate()?;
        let decoder = weights.at("decoder");
        let (latent_channels, mid_channels) = (config.latent_channels, config.mid_channels());
        let up_blocks = config
            .up_levels()
            .iter()
            .enumerate()
            .map(|(i, level)| UpBlock::load(&decoder.at(format!("up_blocks.{i}")), level, config))
            .collect::<Result<_, _>>()?;
        let last_channels = config.block_out_channels[0];
        Ok(Self {
            limits: Limits::of(weights.device()),
            device: weights.device().clone(),
            conv_in: CausalConv::load(&decoder, "conv_in", latent_channels, mid_channels)?,
            mid_block: ResBlocks::load(&decoder.at("mid_block"), &config.mid_level(), config)?,
            up_blocks,
            head: Head {
                norm: SpatialNorm::load(&decoder, "norm_out", last_channels, config)?,
                conv: CausalConv::load(&decoder, "conv_out", last_channels, config.out_channels)?,
            },
            config: config.clone(),
        })
    }

    /// The same with tensors of at most `limits`, where a single frame is not more than that.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The configuration it was loaded with.
    pub fn config(&self) -> &CogVideoXVaeConfig {
        &self.config
    }

    /// A decoder that takes one chunk of latent frames after the other.
    pub fn stream(&self) -> DecodeStream<'_> {
        DecodeStream { decoder: self, cache: Cache::default() }
    }

    /// Decodes `latent [latent_channels, latent frames, height, width]` as the denoiser made it.
    ///
    /// `sink` gets the video in order, as tensors `[3, frames, height·8, width·8]` on the device of
    /// the decoder, about −1…1 but not clamped: one for each chunk of two latent frames, or of three
    /// at the start of an odd number.
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
    /// If `latent` has not `latent_channels` channels or no frames.
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

    /// As [`CogVideoXVaeDecoder::decode`], the whole video in one tensor.
    ///
    /// # Errors
    ///
    /// If the device fails while tiles are read.
    ///
    /// # Panics
    ///
    /// As [`CogVideoXVaeDecoder::decode`].
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

    fn forward(
        &self,
        latent: Tensor<4>,
        cache: &mut Cache,
        observer: &mut Observer<'_>,
    ) -> Tensor<4> {
        cache.rewind();
        let latent = latent / self.config.scaling_factor;
        let x = self.conv_in.forward(&Frames::new(latent.clone()), cache);
        observe(observer, "conv_in", &x);
        let mut x = self.mid_block.forward(x, &latent, cache, self.limits);
        observe(observer, "mid_block", &x);
        for (i, block) in self.up_blocks.iter().enumerate() {
            x = block.resnets.forward(x, &latent, cache, self.limits);
            if let Some(upsample) = &block.upsample {
                x = upsample.forward(x, self.limits);
            }
            observe(observer, format_args!("up_block{i}"), &x);
        }
        self.head.forward(&x, &latent, cache)
    }
}

impl TileSource for CogVideoXVaeDecoder {
    fn device(&self) -> &Device {
        &self.device
    }

    fn chunk_frames(&self, latent_frames: usize) -> Vec<usize> {
        let chunks = latent_chunks(latent_frames).into_iter();
        chunks.map(|frames| self.config.chunk_frames(frames)).collect()
    }

    fn decode_chunks(&self, latent: &Tensor<4>, sink: &mut VideoSink<'_>) -> ControlFlow<()> {
        let (mut stream, mut first) = (self.stream(), 0);
        latent_chunks(latent.dims()[1]).into_iter().try_for_each(|frames| {
            let chunk = latent.clone().narrow(1, first, frames);
            first += frames;
            sink(stream.decode(chunk))
        })
    }
}

impl Decoder for CogVideoXVaeDecoder {
    fn decode(
        &self,
        latent: Tensor<4>,
        tiling: Option<Tiling>,
        sink: &mut VideoSink<'_>,
    ) -> Result<(), AutoencoderError> {
        Self::decode(self, latent, tiling, sink)
    }
}

/// A video in the making: what the decoder remembers of the chunks so far.
#[derive(Debug)]
pub struct DecodeStream<'a> {
    decoder: &'a CogVideoXVaeDecoder,
    cache: Cache,
}

impl DecodeStream<'_> {
    /// The frames of the next chunk of latent frames, `[3, frames, height·8, width·8]`.
    ///
    /// A latent frame that comes alone becomes one frame; of a larger odd number the first becomes
    /// one and the others four each; of an even number all become four.
    ///
    /// # Panics
    ///
    /// If there are no frames, or the channels, or the size of the frames before, are different.
    pub fn decode(&mut self, latent: Tensor<4>) -> Tensor<4> {
        self.decoder.forward(latent, &mut self.cache, &mut None)
    }

    /// As [`DecodeStream::decode`]; `observe` sees `conv_in`, `mid_block` and each `up_block{i}`.
    ///
    /// # Panics
    ///
    /// As [`DecodeStream::decode`].
    pub fn decode_traced(
        &mut self,
        latent: Tensor<4>,
        observe: &mut dyn FnMut(&str, &Tensor<4>),
    ) -> Tensor<4> {
        self.decoder.forward(latent, &mut self.cache, &mut Some(observe))
    }
}

/// Residual blocks of one resolution and the step to the next.
#[derive(Clone, Debug)]
struct UpBlock {
    resnets: ResBlocks<SpatialNorm>,
    upsample: Option<Upsample>,
}

impl UpBlock {
    fn load(
        weights: &Weights<'_>,
        level: &Level,
        config: &CogVideoXVaeConfig,
    ) -> Result<Self, WeightError> {
        let upsampler = weights.at("upsamplers.0");
        let upsample = |resampled| Upsample::load(&upsampler, level.out_channels, resampled);
        Ok(Self {
            resnets: ResBlocks::load(weights, level, config)?,
            upsample: level.resampled.map(upsample).transpose()?,
        })
    }
}
