//! What decoding and encoding need, by walking through the layers with sizes instead of tensors.

use super::CogVideoXVaeConfig;
use super::config::{Level, video_chunks};
use super::frames::run_frames;
use crate::models::causal_cache::HISTORY_FRAMES;
use crate::nn::Limits;

/// Latent frames of the largest chunk, the first of an odd number.
const MOST_LATENT_FRAMES: usize = 3;

/// Bytes of the f32 tensors that live at the fullest moment of decoding a latent of
/// `latent_height × latent_width`, without the parameters and the latent itself.
///
/// That is what all causal convolutions remember (two input frames each), plus the most that one
/// layer holds while a chunk of three latent frames passes: in a residual block its input, the
/// result of the first convolution and a run in between. The length of the video does not
/// matter. A runtime that pools memory reserves more.
pub fn decode_peak_bytes(
    config: &CogVideoXVaeConfig,
    latent_height: usize,
    latent_width: usize,
) -> u64 {
    let walk = Walk::decoding(config, latent_height, latent_width);
    walk.remembered.saturating_add(walk.live).saturating_mul(4)
}

/// Elements of the largest tensor that decoding a latent of that size cannot cut into smaller
/// ones: times four it must not exceed what the device can bind.
pub fn largest_tensor_elements(
    config: &CogVideoXVaeConfig,
    latent_height: usize,
    latent_width: usize,
) -> u64 {
    Walk::decoding(config, latent_height, latent_width).largest
}

/// The same of encoding a video of `frames` of `height × width` pixels.
pub fn largest_encode_elements(
    config: &CogVideoXVaeConfig,
    frames: usize,
    height: usize,
    width: usize,
) -> u64 {
    let chunk = video_chunks(frames).into_iter().max().unwrap_or(0);
    let mut walk = Walk::new(chunk, height, width);
    walk.causal_conv(config.in_channels, config.block_out_channels[0]);
    for level in config.down_levels() {
        walk.level(&level);
        if level.resampled.is_some() {
            walk.height /= 2;
            walk.width /= 2;
        }
    }
    walk.level(&config.mid_level());
    walk.largest
}

/// Elements.
#[derive(Debug, Default)]
struct Walk {
    remembered: u64,
    live: u64,
    largest: u64,
    frames: u64,
    height: u64,
    width: u64,
}

fn as_u64(size: usize) -> u64 {
    u64::try_from(size).unwrap_or(u64::MAX)
}

impl Walk {
    fn new(frames: usize, height: usize, width: usize) -> Self {
        let [frames, height, width] = [frames, height, width].map(as_u64);
        Self { frames, height, width, ..Self::default() }
    }

    fn decoding(config: &CogVideoXVaeConfig, latent_height: usize, latent_width: usize) -> Self {
        let mut walk = Self::new(MOST_LATENT_FRAMES, latent_height, latent_width);
        walk.causal_conv(config.latent_channels, config.mid_channels());
        walk.level(&config.mid_level());
        for level in config.up_levels() {
            walk.level(&level);
            if let Some(step) = level.resampled {
                walk.upsample(level.out_channels, step.time);
            }
        }
        walk.causal_conv(config.block_out_channels[0], config.out_channels);
        walk.live = walk.live.max(walk.chunk(config.block_out_channels[0] + config.out_channels));
        walk
    }

    /// Elements of a frame.
    fn frame(&self, channels: usize) -> u64 {
        as_u64(channels).saturating_mul(self.height).saturating_mul(self.width)
    }

    /// Elements of the chunk.
    fn chunk(&self, channels: usize) -> u64 {
        self.frame(channels).saturating_mul(self.frames)
    }

    /// Elements of a run, as long as it is without a limit of the device.
    fn run(&self, channels: usize) -> u64 {
        let pixels = usize::try_from(self.height.saturating_mul(self.width)).unwrap_or(usize::MAX);
        let limits = Limits { max_elements: usize::MAX };
        let frames = run_frames(limits, 1, channels.saturating_mul(pixels));
        self.frame(channels).saturating_mul(as_u64(frames).min(self.frames))
    }

    /// Two frames are remembered; they are bound as one tensor.
    fn causal_conv(&mut self, from: usize, to: usize) {
        let history = self.frame(from).saturating_mul(HISTORY_FRAMES as u64);
        self.remembered = self.remembered.saturating_add(history);
        self.largest = self.largest.max(history).max(self.frame(to));
    }

    fn level(&mut self, level: &Level) {
        let to = level.out_channels;
        for i in 0..level.blocks {
            let from = level.block_in_channels(i);
            self.causal_conv(from, to);
            self.causal_conv(to, to);
            let chunks = self.chunk(from).saturating_add(self.chunk(to));
            // Normed on its way to the first convolution, or what the second one adds to.
            let run = self.run(from.max(to));
            self.live = self.live.max(chunks.saturating_add(run));
        }
    }

    /// Frames before and behind, and once more where they are doubled.
    fn upsample(&mut self, channels: usize, time: bool) {
        let before = self.chunk(channels);
        self.height = self.height.saturating_mul(2);
        self.width = self.width.saturating_mul(2);
        let convolved = self.chunk(channels);
        self.live = self.live.max(before.saturating_add(convolved));
        if time {
            self.frames = (2 * self.frames).saturating_sub(self.frames % 2);
            let doubled = self.chunk(channels);
            // The frames are doubled, then joined into runs.
            self.live = self.live.max(convolved.saturating_add(doubled.saturating_mul(2)));
        }
        self.largest = self.largest.max(self.frame(channels));
    }
}
