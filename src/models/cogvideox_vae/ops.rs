//! The arithmetic of decoding, by kind of layer.

use super::CogVideoXVaeConfig;
use crate::models::DecodeOps;

/// What a chunk of `latent_frames` of that size takes.
///
/// Products with the zeros around frames are counted. The reference does more: it enlarges latents
/// before it modulates by them, and frames before it convolves them.
pub fn decode_ops(
    config: &CogVideoXVaeConfig,
    latent_frames: usize,
    latent_height: usize,
    latent_width: usize,
) -> DecodeOps {
    let mut ops = DecodeOps::default();
    let latent_pixels = (latent_frames * latent_height * latent_width) as u64;
    let (mut frames, mut frame_pixels) =
        (latent_frames as u64, (latent_height * latent_width) as u64);
    let conv = |window: u64, from: usize, to: usize, pixels: u64| {
        2 * window * from as u64 * to as u64 * pixels
    };
    // Factor and offset of a norm.
    let modulation = |channels| 2 * conv(1, config.latent_channels, channels, latent_pixels);
    ops.causal += conv(27, config.latent_channels, config.mid_channels(), latent_pixels);
    for level in std::iter::once(config.mid_level()).chain(config.up_levels()) {
        let (to, pixels) = (level.out_channels, frames * frame_pixels);
        for i in 0..level.blocks {
            let from = level.block_in_channels(i);
            ops.causal += conv(27, from, to, pixels) + conv(27, to, to, pixels);
            ops.pointwise += modulation(from) + modulation(to);
            if from != to {
                ops.pointwise += conv(1, from, to, pixels);
            }
        }
        if let Some(step) = level.resampled {
            frame_pixels *= 4;
            ops.upsampling += conv(9, to, to, frames * frame_pixels);
            if step.time {
                frames = 2 * frames - frames % 2;
            }
        }
    }
    let last = config.block_out_channels[0];
    ops.pointwise += modulation(last);
    ops.causal += conv(27, last, config.out_channels, frames * frame_pixels);
    ops
}
