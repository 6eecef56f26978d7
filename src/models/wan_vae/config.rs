//! `vae/config.json` and what follows from it.

use crate::models::ConfigError;
use crate::nn::MAX_HEAD_DIM;
use serde::Deserialize;

/// Sizes of an autoencoder; the defaults are those of the library that reads these files, which
/// are Wan 2.1's.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct WanVaeConfig {
    /// Channels of the encoder's first block, before its multiplier.
    pub base_dim: usize,
    /// The same for the decoder's last block; `base_dim` if absent.
    pub decoder_base_dim: Option<usize>,
    /// Channels of a latent.
    pub z_dim: usize,
    /// Multiplier of the channels per resolution, finest first.
    pub dim_mult: Vec<usize>,
    /// Residual blocks per resolution; the decoder has one more.
    pub num_res_blocks: usize,
    /// Resolutions with attention; only none is supported.
    pub attn_scales: Vec<f64>,
    /// Whether the time axis is halved after a resolution, finest first; one fewer than
    /// `dim_mult`. (The key is misspelt in the files.)
    pub temperal_downsample: Vec<bool>,
    /// Mean of each latent channel.
    pub latents_mean: Vec<f32>,
    /// Standard deviation of each latent channel.
    pub latents_std: Vec<f32>,
    /// Whether blocks have averaging shortcuts; not supported.
    pub is_residual: bool,
    /// Pixels folded into channels before the encoder; not supported.
    pub patch_size: Option<usize>,
    /// Channels of the video; 3.
    pub in_channels: usize,
    /// Channels of the decoded video; 3.
    pub out_channels: usize,
    /// Pixels per latent along an axis; must agree with `dim_mult`.
    pub scale_factor_spatial: Option<usize>,
    /// Frames per latent frame after the first; must agree with `temperal_downsample`.
    pub scale_factor_temporal: Option<usize>,
}

impl Default for WanVaeConfig {
    fn default() -> Self {
        Self::wan2_1()
    }
}

impl WanVaeConfig {
    /// The autoencoder that all Wan 2.1 models share.
    pub fn wan2_1() -> Self {
        Self {
            base_dim: 96,
            decoder_base_dim: None,
            z_dim: 16,
            dim_mult: vec![1, 2, 4, 4],
            num_res_blocks: 2,
            attn_scales: Vec::new(),
            temperal_downsample: vec![false, true, true],
            latents_mean: vec![
                -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508, 0.4134,
                -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
            ],
            latents_std: vec![
                2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743, 3.2687, 2.1526,
                2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
            ],
            is_residual: false,
            patch_size: None,
            in_channels: 3,
            out_channels: 3,
            scale_factor_spatial: None,
            scale_factor_temporal: None,
        }
    }

    /// Checks that every value is one this implementation can honour.
    ///
    /// # Errors
    ///
    /// Names the first key that is not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_sizes()?;
        self.validate_variant()?;
        self.validate_statistics()
    }

    fn validate_sizes(&self) -> Result<(), ConfigError> {
        let between = |field, value: usize, most: usize, expected| {
            check((1..=most).contains(&value), field, value, expected)
        };
        let channels = "expected 1 to 4096 channels";
        between("base_dim", self.base_dim, 4096, channels)?;
        between("decoder_base_dim", self.decoder_dim(), 4096, channels)?;
        between("z_dim", self.z_dim, 4096, channels)?;
        between("num_res_blocks", self.num_res_blocks, 64, "expected 1 to 64 blocks")?;
        let levels = &self.dim_mult;
        let multipliers = (1..=8).contains(&levels.len())
            && levels.iter().all(|multiplier| (1..=64).contains(multiplier));
        check(
            multipliers,
            "dim_mult",
            format!("{levels:?}"),
            "expected 1 to 8 multipliers of 1 to 64",
        )?;
        let (encoder, decoder) = self.mid_channels();
        check(
            encoder.max(decoder) <= MAX_HEAD_DIM,
            "base_dim",
            self.base_dim.max(self.decoder_dim()),
            "expected at most 512 channels after the last multiplier",
        )?;
        let narrow = levels[1..].iter().any(|multiplier| multiplier * self.decoder_dim() < 2);
        check(
            !narrow,
            "decoder_base_dim",
            self.decoder_dim(),
            "expected 2 channels where a block is halved",
        )?;
        check(
            self.temperal_downsample.len() == levels.len() - 1,
            "temperal_downsample",
            format!("{:?}", self.temperal_downsample),
            "expected one entry fewer than in dim_mult",
        )
    }

    fn validate_variant(&self) -> Result<(), ConfigError> {
        let scales = &self.attn_scales;
        check(scales.is_empty(), "attn_scales", format!("{scales:?}"), "expected an empty list")?;
        check(!self.is_residual, "is_residual", true, "expected false, as in Wan 2.1")?;
        let patch = self.patch_size.unwrap_or(1);
        check(patch == 1, "patch_size", patch, "expected null, as in Wan 2.1")?;
        check(self.in_channels == 3, "in_channels", self.in_channels, "expected 3")?;
        check(self.out_channels == 3, "out_channels", self.out_channels, "expected 3")?;
        let spatial = self.scale_factor_spatial.unwrap_or(self.spatial_factor());
        check(
            spatial == self.spatial_factor(),
            "scale_factor_spatial",
            spatial,
            "expected 2 per entry of temperal_downsample, multiplied",
        )?;
        let temporal = self.scale_factor_temporal.unwrap_or(self.temporal_factor());
        check(
            temporal == self.temporal_factor(),
            "scale_factor_temporal",
            temporal,
            "expected 2 per true entry of temperal_downsample, multiplied",
        )
    }

    fn validate_statistics(&self) -> Result<(), ConfigError> {
        let expected = "expected one finite number per latent channel";
        let fits = |v: &[f32]| v.len() == self.z_dim && v.iter().all(|number| number.is_finite());
        let (mean, std) = (&self.latents_mean, &self.latents_std);
        check(fits(mean), "latents_mean", format!("{mean:?}"), expected)?;
        check(fits(std), "latents_std", format!("{std:?}"), expected)?;
        let positive = std.iter().all(|&number| number > 0.0);
        check(positive, "latents_std", format!("{std:?}"), "expected positive numbers")
    }

    /// Pixels per latent along height and width.
    pub fn spatial_factor(&self) -> usize {
        1 << self.temperal_downsample.len()
    }

    /// Frames that each latent frame but the first stands for.
    pub fn temporal_factor(&self) -> usize {
        1 << self.temperal_downsample.iter().filter(|&&halved| halved).count()
    }

    /// Frames of a video of `latent_frames`: the first latent frame is a single picture.
    pub fn frames(&self, latent_frames: usize) -> usize {
        latent_frames.saturating_sub(1) * self.temporal_factor() + usize::from(latent_frames > 0)
    }

    fn decoder_dim(&self) -> usize {
        self.decoder_base_dim.unwrap_or(self.base_dim)
    }

    /// Channels of the coarsest resolution, `(encoder, decoder)`.
    pub(super) fn mid_channels(&self) -> (usize, usize) {
        let multiplier = self.dim_mult.last().copied().unwrap_or(1);
        (self.base_dim * multiplier, self.decoder_dim() * multiplier)
    }

    /// The decoder's blocks, coarsest first.
    pub(super) fn up_levels(&self) -> Vec<Level> {
        let dims: Vec<usize> = self.dim_mult.iter().rev().map(|m| m * self.decoder_dim()).collect();
        let resampled = self.temperal_downsample.iter().rev().map(|&time| Some(Resampled { time }));
        dims.iter()
            .zip(resampled.chain([None]))
            .enumerate()
            .map(|(i, (&out_channels, resampled))| Level {
                // The upsampler before this block has halved the channels.
                in_channels: if i == 0 { dims[0] } else { dims[i - 1] / 2 },
                out_channels,
                blocks: self.num_res_blocks + 1,
                resampled,
            })
            .collect()
    }

    /// The encoder's blocks, finest first.
    pub(super) fn down_levels(&self) -> Vec<Level> {
        let dims: Vec<usize> = self.dim_mult.iter().map(|m| m * self.base_dim).collect();
        let resampled = self.temperal_downsample.iter().map(|&time| Some(Resampled { time }));
        dims.iter()
            .zip(resampled.chain([None]))
            .enumerate()
            .map(|(i, (&out_channels, resampled))| Level {
                in_channels: if i == 0 { self.base_dim } else { dims[i - 1] },
                out_channels,
                blocks: self.num_res_blocks,
                resampled,
            })
            .collect()
    }
}

/// The residual blocks of one resolution and the change of resolution behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) in_channels: usize,
    pub(super) out_channels: usize,
    pub(super) blocks: usize,
    pub(super) resampled: Option<Resampled>,
}

impl Level {
    /// Input channels of residual block `index`.
    pub(super) fn block_in_channels(&self, index: usize) -> usize {
        if index == 0 { self.in_channels } else { self.out_channels }
    }
}

/// A change of resolution by 2 in space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resampled {
    /// Also by 2 in time.
    pub(super) time: bool,
}

fn check(
    holds: bool,
    field: &'static str,
    actual: impl ToString,
    expected: &'static str,
) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError { field, actual: actual.to_string(), expected }) }
}
