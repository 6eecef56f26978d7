//! `vae/config.json` and what follows from it.

use crate::models::ConfigError;
use serde::Deserialize;

/// Latent frames that are decoded together.
const LATENT_CHUNK: usize = 2;
/// Frames that are encoded together.
const VIDEO_CHUNK: usize = 8;

/// Sizes of an autoencoder; the defaults are those of the library that reads these files, which
/// are CogVideoX-2B's.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct CogVideoXVaeConfig {
    /// Channels of the video; 3.
    pub in_channels: usize,
    /// Channels of the decoded video; 3.
    pub out_channels: usize,
    /// Kinds of the encoder's blocks; one is known.
    pub down_block_types: Vec<String>,
    /// Kinds of the decoder's blocks; one is known.
    pub up_block_types: Vec<String>,
    /// Channels per resolution, finest first.
    pub block_out_channels: Vec<usize>,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Residual blocks per resolution; the decoder has one more.
    pub layers_per_block: usize,
    /// Activation function; `silu`.
    pub act_fn: String,
    /// Added to the variance by the norms of the encoder's residual blocks; all others add 10⁻⁶.
    pub norm_eps: f64,
    /// Groups of channels that are normalized together.
    pub norm_num_groups: usize,
    /// Frames per latent frame; a power of two.
    pub temporal_compression_ratio: f64,
    /// Rows of the videos it was trained with; half of them are a tile.
    pub sample_height: usize,
    /// Columns of the videos it was trained with; half of them are a tile.
    pub sample_width: usize,
    /// What the denoiser's latents are divided by before they are decoded.
    pub scaling_factor: f32,
    /// Not supported.
    pub shift_factor: Option<f32>,
    /// Not supported.
    pub latents_mean: Option<Vec<f32>>,
    /// Not supported.
    pub latents_std: Option<Vec<f32>>,
    /// Whether a pointwise convolution follows the encoder; not supported.
    pub use_quant_conv: bool,
    /// Whether a pointwise convolution precedes the decoder; not supported.
    pub use_post_quant_conv: bool,
}

impl Default for CogVideoXVaeConfig {
    fn default() -> Self {
        Self::cogvideox_2b()
    }
}

impl CogVideoXVaeConfig {
    /// The autoencoder of CogVideoX-2B; larger models have another scaling factor.
    pub fn cogvideox_2b() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec!["CogVideoXDownBlock3D".to_owned(); 4],
            up_block_types: vec!["CogVideoXUpBlock3D".to_owned(); 4],
            block_out_channels: vec![128, 256, 256, 512],
            latent_channels: 16,
            layers_per_block: 3,
            act_fn: "silu".to_owned(),
            norm_eps: 1e-6,
            norm_num_groups: 32,
            temporal_compression_ratio: 4.0,
            sample_height: 480,
            sample_width: 720,
            scaling_factor: 1.152_584_3,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            use_quant_conv: false,
            use_post_quant_conv: false,
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
        self.validate_numbers()
    }

    fn validate_sizes(&self) -> Result<(), ConfigError> {
        let between = |field, value: usize, most: usize, expected| {
            check((1..=most).contains(&value), field, value, expected)
        };
        let channels = &self.block_out_channels;
        let are_channels = (1..=8).contains(&channels.len())
            && channels.iter().all(|channels| (1..=4096).contains(channels));
        check(
            are_channels,
            "block_out_channels",
            format!("{channels:?}"),
            "expected 1 to 8 numbers of 1 to 4096 channels",
        )?;
        between("latent_channels", self.latent_channels, 4096, "expected 1 to 4096 channels")?;
        between("layers_per_block", self.layers_per_block, 64, "expected 1 to 64 layers")?;
        let groups = self.norm_num_groups;
        check(
            groups > 0 && channels.iter().all(|channels| channels.is_multiple_of(groups)),
            "norm_num_groups",
            groups,
            "expected a divisor of every number in block_out_channels",
        )?;
        let pixels = "expected 16 to 65536 pixels";
        for (field, size) in
            [("sample_height", self.sample_height), ("sample_width", self.sample_width)]
        {
            check((16..=65536).contains(&size), field, size, pixels)?;
        }
        let ratio = self.temporal_compression_ratio;
        let ratios = (0..channels.len()).map(|levels| f64::from(1_u32 << levels));
        check(
            ratios.into_iter().any(|possible| possible == ratio),
            "temporal_compression_ratio",
            ratio,
            "expected a power of two, at most doubled for each of block_out_channels but one",
        )
    }

    fn validate_variant(&self) -> Result<(), ConfigError> {
        let blocks = [
            ("down_block_types", &self.down_block_types, "CogVideoXDownBlock3D"),
            ("up_block_types", &self.up_block_types, "CogVideoXUpBlock3D"),
        ];
        for (field, types, known) in blocks {
            let count = self.block_out_channels.len();
            check(
                types.len() == count && types.iter().all(|name| name == known),
                field,
                format!("{types:?}"),
                "expected CogVideoXDownBlock3D or CogVideoXUpBlock3D for each resolution",
            )?;
        }
        check(self.in_channels == 3, "in_channels", self.in_channels, "expected 3")?;
        check(self.out_channels == 3, "out_channels", self.out_channels, "expected 3")?;
        check(self.act_fn == "silu", "act_fn", &self.act_fn, "expected silu")?;
        let absent = "expected null, as in the published models";
        check(self.shift_factor.is_none(), "shift_factor", "a number", absent)?;
        check(self.latents_mean.is_none(), "latents_mean", "a list", absent)?;
        check(self.latents_std.is_none(), "latents_std", "a list", absent)?;
        let off = "expected false, as in the published models";
        check(!self.use_quant_conv, "use_quant_conv", true, off)?;
        check(!self.use_post_quant_conv, "use_post_quant_conv", true, off)
    }

    fn validate_numbers(&self) -> Result<(), ConfigError> {
        let (eps, scale) = (self.norm_eps, self.scaling_factor);
        check(eps > 0.0 && eps < 1.0, "norm_eps", eps, "expected a number between 0 and 1")?;
        let is_scale = scale.is_finite() && scale > 0.0 && scale.recip().is_finite();
        check(is_scale, "scaling_factor", scale, "expected a positive number")
    }

    /// Pixels per latent along height and width.
    pub fn spatial_factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    /// Frames that each latent frame of a chunk stands for, but the first of an odd number.
    pub fn temporal_factor(&self) -> usize {
        1 << self.time_levels()
    }

    /// Frames of a video of `latent_frames`.
    ///
    /// Of an odd number the first latent frame stands for one frame and each other for
    /// [`CogVideoXVaeConfig::temporal_factor`]; of an even number all stand for that many.
    pub fn frames(&self, latent_frames: usize) -> usize {
        latent_chunks(latent_frames).into_iter().map(|chunk| self.chunk_frames(chunk)).sum()
    }

    /// Frames that a chunk of `latent_frames` becomes.
    pub(super) fn chunk_frames(&self, latent_frames: usize) -> usize {
        (0..self.time_levels()).fold(latent_frames, |frames, _| 2 * frames - frames % 2)
    }

    /// Resolutions at which the time axis changes too.
    fn time_levels(&self) -> usize {
        (self.temporal_compression_ratio.log2() as usize).min(self.block_out_channels.len() - 1)
    }

    /// Channels of the coarsest resolution.
    pub(super) fn mid_channels(&self) -> usize {
        self.block_out_channels.last().copied().unwrap_or(1)
    }

    /// The decoder's blocks, coarsest first.
    pub(super) fn up_levels(&self) -> Vec<Level> {
        let channels: Vec<usize> = self.block_out_channels.iter().rev().copied().collect();
        self.levels(&channels, channels[0], self.layers_per_block + 1)
    }

    /// The encoder's blocks, finest first.
    pub(super) fn down_levels(&self) -> Vec<Level> {
        let channels = &self.block_out_channels;
        self.levels(channels, channels[0], self.layers_per_block)
    }

    fn levels(&self, channels: &[usize], first: usize, blocks: usize) -> Vec<Level> {
        let last = channels.len() - 1;
        let resampled = |i| (i < last).then_some(Resampled { time: i < self.time_levels() });
        let in_channels = std::iter::once(&first).chain(channels);
        in_channels
            .zip(channels)
            .enumerate()
            .map(|(i, (&in_channels, &out_channels))| Level {
                in_channels,
                out_channels,
                blocks,
                resampled: resampled(i),
            })
            .collect()
    }
}

/// Lengths of the chunks that a latent of `frames` is decoded in.
pub(super) fn latent_chunks(frames: usize) -> Vec<usize> {
    chunks(frames, LATENT_CHUNK)
}

/// Lengths of the chunks that a video of `frames` is encoded in.
pub(super) fn video_chunks(frames: usize) -> Vec<usize> {
    chunks(frames, VIDEO_CHUNK)
}

/// Chunks of `size`; what is left over belongs to the first one.
fn chunks(frames: usize, size: usize) -> Vec<usize> {
    let count = (frames / size).max(1);
    let rest = frames - (count - 1) * size;
    std::iter::once(rest).chain(std::iter::repeat_n(size, count - 1)).collect()
}

/// The residual blocks of one resolution and the change of resolution behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Level {
    /// Channels that the first block gets.
    pub(super) in_channels: usize,
    /// Channels of all others.
    pub(super) out_channels: usize,
    /// Number of residual blocks.
    pub(super) blocks: usize,
    /// The change of resolution, which keeps the channels.
    pub(super) resampled: Option<Resampled>,
}

impl Level {
    /// Channels that block `index` gets.
    pub(super) fn block_in_channels(&self, index: usize) -> usize {
        if index == 0 { self.in_channels } else { self.out_channels }
    }

    /// The larger of both numbers of channels.
    pub(super) fn most_channels(&self) -> usize {
        self.in_channels.max(self.out_channels)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_over_joins_the_first_chunk() {
        assert_eq!(latent_chunks(13), [3, 2, 2, 2, 2, 2]);
        assert_eq!(latent_chunks(4), [2, 2]);
        assert_eq!(latent_chunks(1), [1]);
        assert_eq!(video_chunks(49), [9, 8, 8, 8, 8, 8]);
        assert_eq!(video_chunks(5), [5]);
        assert_eq!(video_chunks(16), [8, 8]);
    }
}
