//! Video to latents.

use super::decoder::per_channel;
use super::layers::{CausalConv, Downsample, MidBlock, ResBlock, load_pointwise};
use super::{Trace, WanVaeConfig};
use crate::models::causal_cache::Cache;
use crate::models::{AutoencoderError, Encoder, Moments};
use crate::nn::{ChannelNorm, Conv3d, Weights};
use burn::tensor::Tensor;

/// The encoding half of the autoencoder.
#[derive(Clone, Debug)]
pub struct WanVaeEncoder {
    config: WanVaeConfig,
    conv_in: CausalConv,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    norm_out: ChannelNorm,
    conv_out: CausalConv,
    quant_conv: Conv3d,
    /// `[z_dim, 1, 1, 1]`.
    mean: Tensor<4>,
    /// `[z_dim, 1, 1, 1]`.
    std: Tensor<4>,
}

/// An entry of the checkpoint's flat list.
#[derive(Clone, Debug)]
enum DownBlock {
    Res(Box<ResBlock>),
    Downsample(Box<Downsample>),
}

impl WanVaeEncoder {
    /// Loads `encoder.*` and `quant_conv.*` of a checkpoint; nothing else is read.
    ///
    /// # Errors
    ///
    /// If the configuration is not supported, or a tensor is missing or has another shape.
    pub fn load(weights: &Weights<'_>, config: &WanVaeConfig) -> Result<Self, AutoencoderError> {
        config.validate()?;
        let (encoder, moments) = (weights.at("encoder"), 2 * config.z_dim);
        let (channels, _) = config.mid_channels();
        let device = weights.device();
        Ok(Self {
            conv_in: CausalConv::load(&encoder, "conv_in", config.in_channels, config.base_dim)?,
            down_blocks: load_down_blocks(&encoder, config)?,
            mid_block: MidBlock::load(&encoder.at("mid_block"), channels)?,
            norm_out: ChannelNorm::load(&encoder, "norm_out", channels, 3, true)?,
            conv_out: CausalConv::load(&encoder, "conv_out", channels, moments)?,
            quant_conv: load_pointwise(weights, "quant_conv", moments, moments)?,
            mean: per_channel(&config.latents_mean, device),
            std: per_channel(&config.latents_std, device),
            config: config.clone(),
        })
    }

    /// The distribution of the latents of `video [3, frames, height, width]` in −1…1.
    ///
    /// Like decoding, it goes through the video in chunks: the first frame, then four at a time.
    ///
    /// # Errors
    ///
    /// If the number of frames is not `4k + 1`, or height or width is no multiple of 8.
    ///
    /// # Panics
    ///
    /// If the video has not 3 channels.
    pub fn encode(&self, video: Tensor<4>) -> Result<Moments, AutoencoderError> {
        self.encode_traced(video, &mut |_, _| {})
    }

    /// As [`WanVaeEncoder::encode`]; `trace` sees `chunk{k}.mid_block`.
    ///
    /// # Errors
    ///
    /// As [`WanVaeEncoder::encode`].
    ///
    /// # Panics
    ///
    /// As [`WanVaeEncoder::encode`].
    pub fn encode_traced(
        &self,
        video: Tensor<4>,
        trace: &mut Trace<'_>,
    ) -> Result<Moments, AutoencoderError> {
        let [_, frames, height, width] = video.dims();
        let factor = self.config.temporal_factor();
        if frames % factor != 1 % factor || frames == 0 {
            return Err(AutoencoderError::FrameCount { frames, factor });
        }
        let pixels = self.config.spatial_factor();
        if [height, width].iter().any(|&size| size == 0 || size % pixels != 0) {
            return Err(AutoencoderError::FrameSize { width, height, factor: pixels });
        }
        let mut cache = Cache::default();
        let mut chunks = vec![self.forward(video.clone().narrow(1, 0, 1), &mut cache, 0, trace)];
        for start in (1..frames).step_by(factor) {
            let chunk = video.clone().narrow(1, start, factor);
            chunks.push(self.forward(chunk, &mut cache, chunks.len(), trace));
        }
        Ok(Moments { values: self.quant_conv.forward(Tensor::cat(chunks, 1), None) })
    }

    /// The normalized latents of `video`, the mean of their distribution: what the denoiser works
    /// on, `[z_dim, latent frames, height / 8, width / 8]`.
    ///
    /// # Errors
    ///
    /// As [`WanVaeEncoder::encode`].
    ///
    /// # Panics
    ///
    /// As [`WanVaeEncoder::encode`].
    pub fn encode_normalized(&self, video: Tensor<4>) -> Result<Tensor<4>, AutoencoderError> {
        Ok((self.encode(video)?.mean() - self.mean.clone()) / self.std.clone())
    }

    fn forward(
        &self,
        video: Tensor<4>,
        cache: &mut Cache,
        chunk: usize,
        trace: &mut Trace<'_>,
    ) -> Tensor<4> {
        cache.rewind();
        let mut x = self.conv_in.forward(video, cache);
        for block in &self.down_blocks {
            x = match block {
                DownBlock::Res(resnet) => resnet.forward(x, cache),
                DownBlock::Downsample(downsample) => downsample.forward(x, cache),
            };
        }
        let x = self.mid_block.forward(x, cache);
        trace(&format!("chunk{chunk}.mid_block"), &x);
        self.conv_out.forward(self.norm_out.forward(x), cache)
    }
}

impl Encoder for WanVaeEncoder {
    fn encode_normalized(&self, video: Tensor<4>) -> Result<Tensor<4>, AutoencoderError> {
        Self::encode_normalized(self, video)
    }
}

fn load_down_blocks(
    encoder: &Weights<'_>,
    config: &WanVaeConfig,
) -> Result<Vec<DownBlock>, AutoencoderError> {
    let mut blocks = Vec::new();
    for level in config.down_levels() {
        for i in 0..level.blocks {
            let weights = encoder.at(format!("down_blocks.{}", blocks.len()));
            let in_channels = level.block_in_channels(i);
            let block = ResBlock::load(&weights, in_channels, level.out_channels)?;
            blocks.push(DownBlock::Res(Box::new(block)));
        }
        if let Some(resampled) = level.resampled {
            let weights = encoder.at(format!("down_blocks.{}", blocks.len()));
            let block = Downsample::load(&weights, level.out_channels, resampled)?;
            blocks.push(DownBlock::Downsample(Box::new(block)));
        }
    }
    Ok(blocks)
}
