//! Random numbers that depend on nothing but a seed and where they are used, so that a resumed
//! training draws what the uninterrupted one would have drawn.

use crate::pipeline::noise::standard_normal;

/// One `SplitMix64` step.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// What a random number is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Purpose {
    /// Which example is next.
    Example = 1,
    /// Noise level.
    Timestep = 2,
    /// Noise of a latent.
    Noise = 3,
    /// Whether the caption is dropped.
    Dropout = 4,
    /// First values of parameters.
    Parameters = 5,
    /// Noise of clips held out.
    Validation = 6,
    /// Latents of noise.
    Latents = 7,
}

/// A key for `purpose` at item `index` of step `step`.
pub(super) fn key(seed: u64, purpose: Purpose, step: usize, index: usize) -> u64 {
    mix(mix(mix(seed ^ mix(purpose as u64)) ^ step as u64) ^ index as u64)
}

/// A number in `0..1` from a key.
pub(super) fn uniform(key: u64) -> f64 {
    (mix(key) >> 11) as f64 / (1_u64 << 53) as f64
}

/// Standard normal values from a key.
pub(super) fn normal(key: u64, stream: u32, len: usize) -> Vec<f32> {
    standard_normal(key, stream, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_differ_in_every_argument_and_numbers_are_uniform() {
        let keys = [
            key(1, Purpose::Noise, 2, 3),
            key(2, Purpose::Noise, 2, 3),
            key(1, Purpose::Timestep, 2, 3),
            key(1, Purpose::Noise, 3, 3),
            key(1, Purpose::Noise, 2, 2),
        ];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|b| a != b));
        }
        let draw = |i| uniform(key(7, Purpose::Timestep, 0, i));
        let mean = (0..10_000).map(draw).sum::<f64>() / 1e4;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
    }
}
