//! What decoding needs, by walking through the layers with sizes instead of tensors.

use super::WanVaeConfig;
use crate::models::causal_cache::HISTORY_FRAMES;

/// Bytes of the f32 tensors that live at the fullest moment of decoding a latent of
/// `latent_height × latent_width`, without the parameters and the latent itself.
///
/// That is what all causal convolutions remember (two input frames each), plus the most that one
/// layer holds while a later chunk (four frames at full size) passes: in a residual block its
/// input, the normalized branch and the result of a convolution. The length of the video does not
/// matter. On lavapipe the bytes in use at the fullest moment of the third chunk were within 1 % of
/// it. A runtime that pools memory reserves more.
pub fn decode_peak_bytes(config: &WanVaeConfig, latent_height: usize, latent_width: usize) -> u64 {
    let walk = Walk::through(config, latent_height, latent_width);
    walk.remembered.saturating_add(walk.live).saturating_mul(4)
}

/// Elements of the largest tensor while decoding a latent of that size: times four it must not
/// exceed what the device can bind.
pub fn largest_tensor_elements(
    config: &WanVaeConfig,
    latent_height: usize,
    latent_width: usize,
) -> u64 {
    Walk::through(config, latent_height, latent_width).largest
}

/// Elements; sizes are those of a chunk after the first, the largest there is.
#[derive(Debug, Default)]
struct Walk {
    remembered: u64,
    live: u64,
    largest: u64,
    frames: u64,
    height: u64,
    width: u64,
}

impl Walk {
    fn through(config: &WanVaeConfig, latent_height: usize, latent_width: usize) -> Self {
        let as_u64 = |size: usize| u64::try_from(size).unwrap_or(u64::MAX);
        let mut walk = Self {
            frames: 1,
            height: as_u64(latent_height),
            width: as_u64(latent_width),
            ..Self::default()
        };
        let (_, mid) = config.mid_channels();
        let (z_dim, mid) = (as_u64(config.z_dim), as_u64(mid));
        walk.causal_conv(z_dim, mid, 0);
        walk.res_block(mid, mid);
        walk.attention(mid);
        walk.res_block(mid, mid);
        let mut channels = mid;
        for level in config.up_levels() {
            channels = as_u64(level.out_channels);
            for i in 0..level.blocks {
                walk.res_block(as_u64(level.block_in_channels(i)), channels);
            }
            if let Some(step) = level.resampled {
                walk.upsample(channels, step.time);
            }
        }
        walk.hold(&[channels, channels]);
        walk.causal_conv(channels, as_u64(config.out_channels), 0);
        walk
    }

    /// Tensors of these channels, at the present size, live at the same time.
    fn hold(&mut self, channels: &[u64]) {
        let sizes: Vec<u64> = channels.iter().map(|&channels| self.elements(channels)).collect();
        self.live = self.live.max(sizes.iter().copied().fold(0, u64::saturating_add));
        self.largest = self.largest.max(sizes.into_iter().fold(0, u64::max));
    }

    fn elements(&self, channels: u64) -> u64 {
        [self.frames, self.height, self.width].into_iter().fold(channels, u64::saturating_mul)
    }

    /// Two frames are remembered; the old ones go before the new ones are made, but where a chunk
    /// has a single frame and one of the old ones stays.
    fn causal_conv(&mut self, from: u64, to: u64, beside: u64) {
        let frame = self.height.saturating_mul(self.width);
        let history = frame.saturating_mul(HISTORY_FRAMES as u64).saturating_mul(from);
        self.remembered = self.remembered.saturating_add(history);
        let renewed = if self.frames == 1 { history } else { 0 };
        let live = [from, to, beside].map(|channels| self.elements(channels));
        self.live = self.live.max(live.into_iter().fold(renewed, u64::saturating_add));
        self.hold(&[from, to, beside]);
    }

    fn res_block(&mut self, from: u64, to: u64) {
        self.causal_conv(from, to, from);
        // Second norm, then the shortcut, which the second convolution adds to.
        self.hold(&[from, to, to]);
        self.causal_conv(to, to, 0);
    }

    fn attention(&mut self, channels: u64) {
        self.hold(&[3 * channels, 3 * channels, channels, channels, channels]);
        self.live = self.live.max(self.elements(9 * channels));
    }

    fn upsample(&mut self, channels: u64, time: bool) {
        if time {
            self.causal_conv(channels, 2 * channels, 0);
            self.hold(&[2 * channels, 2 * channels]);
            self.frames = self.frames.saturating_mul(2);
        }
        let before = self.elements(channels);
        self.height = self.height.saturating_mul(2);
        self.width = self.width.saturating_mul(2);
        let after = self.elements(channels / 2);
        self.live = self.live.max(before.saturating_add(after));
        self.largest = self.largest.max(after);
    }
}
