//! Video to latents.

use super::CogVideoXVaeConfig;
use super::config::{Level, video_chunks};
use super::frames::Frames;
use super::layers::{CausalConv, Head, NORM_EPS, ResBlocks};
use super::resample::Downsample;
use super::{Observer, observe};
use crate::models::causal_cache::Cache;
use crate::models::{AutoencoderError, Encoder, Moments};
use crate::nn::{GroupNorm, Limits, WeightError, Weights};
use burn::tensor::Tensor;

/// The encoding half of the autoencoder.
#[derive(Clone, Debug)]
pub struct CogVideoXVaeEncoder {
    config: CogVideoXVaeConfig,
    limits: Limits,
    conv_in: CausalConv,
    down_blocks: Vec<DownBlock>,
    mid_block: ResBlocks<GroupNorm>,
    head: Head<GroupNorm>,
}

impl CogVideoXVaeEncoder {
    /// Loads `encoder.*` of a checkpoint; nothing else is read.
    ///
    /// # Errors
    ///
    /// If the configuration is not supported, or a tensor is missing or has another shape.
    pub fn load(
        weights: &Weights<'_>,
        config: &CogVideoXVaeConfig,
    ) -> Result<Self, AutoencoderError> {
        config.validate()?;
        let encoder = weights.at("encoder");
        let (first, mid) = (config.block_out_channels[0], config.mid_channels());
        let down_blocks = config
            .down_levels()
            .iter()
            .enumerate()
            .map(|(i, level)| {
                DownBlock::load(&encoder.at(format!("down_blocks.{i}")), level, config)
            })
            .collect::<Result<_, _>>()?;
        let groups = config.norm_num_groups;
        Ok(Self {
            limits: Limits::of(weights.device()),
            conv_in: CausalConv::load(&encoder, "conv_in", config.in_channels, first)?,
            down_blocks,
            mid_block: ResBlocks::load(&encoder.at("mid_block"), &config.mid_level(), config)?,
            head: Head {
                norm: GroupNorm::load(&encoder, "norm_out", mid, groups, NORM_EPS)?,
                conv: CausalConv::load(&encoder, "conv_out", mid, 2 * config.latent_channels)?,
            },
            config: config.clone(),
        })
    }

    /// The same with tensors of at most `limits`, where a single frame is not more than that.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The distribution of the latents of `video [3, frames, height, width]` in −1…1, not scaled.
    ///
    /// Like decoding, it goes through the video in chunks, of eight frames; what is left over
    /// belongs to the first one.
    ///
    /// # Errors
    ///
    /// If the number of frames is neither a multiple of 4 nor one more, or height or width is no
    /// multiple of 8.
    ///
    /// # Panics
    ///
    /// If the video has not 3 channels.
    pub fn encode(&self, video: Tensor<4>) -> Result<Moments, AutoencoderError> {
        self.encode_observed(video, &mut None)
    }

    /// As [`CogVideoXVaeEncoder::encode`]; `observe` sees `chunk{k}.mid_block`.
    ///
    /// # Errors
    ///
    /// As [`CogVideoXVaeEncoder::encode`].
    ///
    /// # Panics
    ///
    /// As [`CogVideoXVaeEncoder::encode`].
    pub fn encode_traced(
        &self,
        video: Tensor<4>,
        observe: &mut dyn FnMut(&str, &Tensor<4>),
    ) -> Result<Moments, AutoencoderError> {
        self.encode_observed(video, &mut Some(observe))
    }

    fn encode_observed(
        &self,
        video: Tensor<4>,
        observer: &mut Observer<'_>,
    ) -> Result<Moments, AutoencoderError> {
        let [_, frames, height, width] = video.dims();
        let factor = self.config.temporal_factor();
        if frames == 0 || frames % factor > 1 {
            return Err(AutoencoderError::FrameCount { frames, factor });
        }
        let pixels = self.config.spatial_factor();
        if [height, width].iter().any(|&size| size == 0 || size % pixels != 0) {
            return Err(AutoencoderError::FrameSize { width, height, factor: pixels });
        }
        let (mut cache, mut chunks, mut first) = (Cache::default(), Vec::new(), 0);
        for count in video_chunks(frames) {
            let chunk = video.clone().narrow(1, first, count);
            first += count;
            chunks.push(self.forward(chunk, &mut cache, chunks.len(), observer));
        }
        Ok(Moments { values: Tensor::cat(chunks, 1) })
    }

    /// The scaled latents of `video`, the mean of their distribution: what the denoiser works on,
    /// `[latent_channels, latent frames, height / 8, width / 8]`.
    ///
    /// # Errors
    ///
    /// As [`CogVideoXVaeEncoder::encode`].
    ///
    /// # Panics
    ///
    /// As [`CogVideoXVaeEncoder::encode`].
    pub fn encode_normalized(&self, video: Tensor<4>) -> Result<Tensor<4>, AutoencoderError> {
        Ok(self.encode(video)?.mean() * self.config.scaling_factor)
    }

    fn forward(
        &self,
        video: Tensor<4>,
        cache: &mut Cache,
        chunk: usize,
        observer: &mut Observer<'_>,
    ) -> Tensor<4> {
        cache.rewind();
        let [_, _, height, width] = video.dims();
        let channels = self.config.block_out_channels[0];
        let most = super::frames::run_frames(self.limits, channels, height * width);
        let mut x = self.conv_in.forward(&Frames::new(video).in_runs_of(most), cache);
        for block in &self.down_blocks {
            x = block.resnets.forward(x, &(), cache, self.limits);
            if let Some(downsample) = &block.downsample {
                x = downsample.forward(x, self.limits);
            }
        }
        let x = self.mid_block.forward(x, &(), cache, self.limits);
        observe(observer, format_args!("chunk{chunk}.mid_block"), &x);
        self.head.forward(&x, &(), cache)
    }
}

impl Encoder for CogVideoXVaeEncoder {
    fn encode_normalized(&self, video: Tensor<4>) -> Result<Tensor<4>, AutoencoderError> {
        Self::encode_normalized(self, video)
    }
}

/// Residual blocks of one resolution and the step to the next.
#[derive(Clone, Debug)]
struct DownBlock {
    resnets: ResBlocks<GroupNorm>,
    downsample: Option<Downsample>,
}

impl DownBlock {
    fn load(
        weights: &Weights<'_>,
        level: &Level,
        config: &CogVideoXVaeConfig,
    ) -> Result<Self, WeightError> {
        let downsampler = weights.at("downsamplers.0");
        let downsample = |resampled| Downsample::load(&downsampler, level.out_channels, resampled);
        Ok(Self {
            resnets: ResBlocks::load(weights, level, config)?,
            downsample: level.resampled.map(downsample).transpose()?,
        })
    }
}
