//! Random numbers that stay the same for ever: `SplitMix64` (Steele, Lea, Flood, 2014).

/// One stream of random numbers; neighbouring seeds give unrelated streams.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `low..high`; `low` when the range is empty.
    pub(super) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        let unit = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        low + unit * (high - low).max(0.0)
    }

    /// A whole number below `end`; the bias is below 2⁻⁵⁰ for the small `end`s used here.
    pub(super) const fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn the_stream_is_the_published_one() {
        // First outputs of the reference implementation (prng.di.unimi.it/splitmix64.c), seed 0.
        let mut rng = Rng::new(0);
        let expected = [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4, 0x06C4_5D18_8009_454F];
        assert_eq!([rng.next(), rng.next(), rng.next()], expected);
    }

    #[test]
    fn uniform_stays_in_its_range() {
        let mut rng = Rng::new(1);
        assert!((0..1000).all(|_| (2.0..3.0).contains(&rng.uniform(2.0, 3.0))));
        assert_eq!(rng.uniform(2.0, 1.0), 2.0);
    }
}
