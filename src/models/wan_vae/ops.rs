//! The arithmetic of decoding, by kind of layer.

use super::WanVaeConfig;
use crate::models::DecodeOps;

/// What a latent frame of that size takes: the first of a video, which meets only zeros before it, or
/// a later one (`is_later`), which becomes several frames.
///
/// Products with the zeros around frames are counted.
pub fn decode_ops(
    config: &WanVaeConfig,
    latent_height: usize,
    latent_width: usize,
    is_later: bool,
) -> DecodeOps {
    let mut ops = DecodeOps::default();
    let mut pixels = (latent_height * latent_width) as u64;
    let conv = |window: u64, from: usize, to: usize, pixels: u64| {
        2 * window * from as u64 * to as u64 * pixels
    };
    let causal = if is_later { 27 } else { 9 };
    let (z_dim, (_, mid)) = (config.z_dim, config.mid_channels());
    ops.pointwise += conv(1, z_dim, z_dim, pixels);
    ops.causal += conv(causal, z_dim, mid, pixels);
    // Two residual blocks of two convolutions each.
    ops.causal += 4 * conv(causal, mid, mid, pixels);
    ops.pointwise += conv(1, mid, 4 * mid, pixels);
    ops.attention += 4 * mid as u64 * pixels * pixels;
    let mut channels = mid;
    for level in config.up_levels() {
        channels = level.out_channels;
        for i in 0..level.blocks {
            let from = level.block_in_channels(i);
            ops.causal +=
                conv(causal, from, channels, pixels) + conv(causal, channels, channels, pixels);
            if from != channels {
                ops.pointwise += conv(1, from, channels, pixels);
            }
        }
        if let Some(step) = level.resampled {
            if step.time && is_later {
                ops.in_time += conv(3, channels, 2 * channels, pixels);
                pixels *= 2;
            }
            pixels *= 4;
            ops.upsampling += conv(9, channels, channels / 2, pixels);
        }
    }
    ops.causal += conv(causal, channels, config.out_channels, pixels);
    ops
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_480_by_832_takes_13_tera_operations() {
        let config = WanVaeConfig::wan2_1();
        let later = decode_ops(&config, 60, 104, true);
        assert_eq!(later.total() / 1_000_000_000, 13_550);
        // Attention grows with the square of the pixels and does not see the later frames.
        assert_eq!(later.attention, decode_ops(&config, 60, 104, false).attention);
    }
}
