//! Seeded standard-normal noise that is the same on every platform.
//!
//! The noise of `PyTorch` cannot be had from a seed without its generator; this is our own, defined
//! completely by the following, so that a seed means the same video everywhere:
//!
//! * Philox4x32-10 (Salmon et al., “Parallel random numbers: as easy as 1, 2, 3”, 2011) with the
//!   seed as key (low word first) and counter `[block low, block high, stream, 0]` gives four words
//!   per block.
//! * Each block makes two numbers: `u₁ = (⌊a/2¹¹⌋ + 1)/2⁵³` and `u₂ = ⌊b/2¹¹⌋/2⁵³`, where `a` and
//!   `b` are the first and the last two words as 64 bits (low word first), then by Box and Muller
//!   `√(−2·ln u₁)·cos(2π·u₂)` and `√(−2·ln u₁)·sin(2π·u₂)` in f64, rounded to f32.
//! * `ln`, `sin` and `cos` come from the crate `libm`, not from the system, whose libraries differ
//!   in the last bit; the other operations are exact by IEEE 754.
//!
//! An element depends on seed, stream and its index only, not on how many are asked for.

use std::f64::consts::TAU;

/// The `len` first numbers of stream `stream` under `seed`, standard normal.
///
/// A run draws its initial latents from stream 0; a scheduler that adds noise at its steps takes
/// one further stream for each.
#[must_use]
pub fn standard_normal(seed: u64, stream: u32, len: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(len + 1);
    for block in 0..len.div_ceil(2) as u64 {
        let words = philox([block as u32, (block >> 32) as u32, stream, 0], seed);
        values.extend(normal_pair(words));
    }
    values.truncate(len);
    values
}

/// The noise that a scheduler adds at its steps, for those schedulers that do.
#[derive(Clone, Debug, PartialEq)]
pub enum StepNoise {
    /// That of a seed: step `i` takes stream `i + 1` of [`standard_normal`].
    Seeded(u64),
    /// Numbers from elsewhere, one list per step.
    Given(Vec<Vec<f32>>),
}

impl StepNoise {
    /// The `len` numbers of step `step`.
    ///
    /// # Panics
    ///
    /// If given numbers are not of that many steps or not of that length.
    #[must_use]
    pub fn of_step(&self, step: usize, len: usize) -> Vec<f32> {
        match self {
            Self::Seeded(seed) => {
                let stream = u32::try_from(step + 1).expect("a run has fewer than 2^32 steps");
                standard_normal(*seed, stream, len)
            }
            Self::Given(steps) => {
                let noise = steps.get(step).unwrap_or_else(|| panic!("no noise for step {step}"));
                assert_eq!(noise.len(), len, "length of the noise of step {step}");
                noise.clone()
            }
        }
    }
}

/// Two normal numbers from one block of words.
fn normal_pair([a, b, c, d]: [u32; 4]) -> [f32; 2] {
    const UNIT: f64 = 1.0 / (1_u64 << 53) as f64;
    let bits = |low: u32, high: u32| ((u64::from(high) << 32) | u64::from(low)) >> 11;
    // never 0, whose logarithm is infinite
    let u_1 = (bits(a, b) + 1) as f64 * UNIT;
    let u_2 = bits(c, d) as f64 * UNIT;
    let radius = (-2.0 * libm::log(u_1)).sqrt();
    [(radius * libm::cos(TAU * u_2)) as f32, (radius * libm::sin(TAU * u_2)) as f32]
}

/// One block of Philox4x32 with ten rounds.
fn philox(mut counter: [u32; 4], key: u64) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let mut key = [key as u32, (key >> 32) as u32];
    for _ in 0..10 {
        let [first, second] = [
            u64::from(MULTIPLIERS[0]) * u64::from(counter[0]),
            u64::from(MULTIPLIERS[1]) * u64::from(counter[2]),
        ];
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_words() {
        // known answers of the authors' library Random123, philox4x32 with ten rounds
        assert_eq!(philox([0; 4], 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], u64::MAX),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], 0x299f_31d0_a409_3822),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn extreme_words_give_finite_numbers() {
        for words in [[0; 4], [u32::MAX; 4], [0, 0, u32::MAX, u32::MAX]] {
            assert!(normal_pair(words).iter().all(|value| value.is_finite()), "{words:?}");
        }
    }
}
