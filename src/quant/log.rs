//! Codes of logarithms, for features of which a few are large and most are near zero.
//!
//! `HiDi-TQ` of QVD (arXiv 2407.11585) as in the PaddlePaddle port of its code: base 2, midpoints
//! of neighbouring powers on a linear scale. With more steps per octave, the base is the root of
//! two and midpoints are those of the exponents; that form is a generalization of ours.
//!
//! A code of `b` bits is a sign and `b − 1` bits of magnitude, of which zero stands for zero: the
//! port counts neither the sign nor the zero.

use super::Bits;

/// How a tensor becomes codes of logarithms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LogSpec {
    /// Width of a code, sign and zero included.
    pub bits: Bits,
    /// Codes per factor of two: 1 is base 2.
    pub steps_per_octave: u32,
    /// The largest magnitude, that of the first code; larger ones are cut off.
    pub absmax: f32,
}

/// Half of the lowest mantissa bit that counts: added, it rounds up from 1.5 times a power of two.
const HALF_OCTAVE: u32 = 0x0040_0000;

impl LogSpec {
    /// Most codes per factor of two.
    pub const MAX_STEPS_PER_OCTAVE: u32 = 64;

    /// Magnitudes beside zero.
    pub const fn levels(self) -> u32 {
        (1 << (self.bits.get() - 1)) - 1
    }

    /// Whether the values of this can be computed.
    ///
    /// # Errors
    ///
    /// Says what does not fit.
    pub fn check(self) -> Result<(), String> {
        let Self { steps_per_octave: steps, absmax, .. } = self;
        if !(1..=Self::MAX_STEPS_PER_OCTAVE).contains(&steps) {
            let most = Self::MAX_STEPS_PER_OCTAVE;
            return Err(format!("steps_per_octave is {steps}, expected 1 to {most}"));
        }
        if !(absmax.is_normal() && absmax > 0.0 && self.inverse_absmax().is_normal()) {
            return Err(format!("absmax is {absmax}, expected a positive number"));
        }
        Ok(())
    }

    /// What values are multiplied by to lie within one.
    pub fn inverse_absmax(self) -> f32 {
        1.0 / self.absmax
    }

    /// The magnitude of level `level`, `absmax · 2^(−level / steps)`.
    pub fn magnitude(self, level: u32) -> f32 {
        self.normal(f64::from(level))
    }

    /// The least magnitude that becomes level `level`, for more than one step per octave.
    pub fn threshold(self, level: u32) -> f32 {
        self.normal(f64::from(level) + 0.5)
    }

    /// `absmax · 2^(−level / steps)`, no less than what devices do not flush to zero.
    fn normal(self, level: f64) -> f32 {
        let exponent = -level / f64::from(self.steps_per_octave);
        ((f64::from(self.absmax) * exponent.exp2()) as f32).max(f32::MIN_POSITIVE)
    }

    /// Thresholds, then magnitudes, of all levels: what the shader reads.
    pub fn table(self) -> Vec<f32> {
        let levels = 0..self.levels();
        let thresholds = levels.clone().map(|level| self.threshold(level));
        thresholds.chain(levels.map(|level| self.magnitude(level))).collect()
    }

    /// The level of `magnitude`; [`LogSpec::levels`] and above are zero.
    fn level(self, magnitude: f32) -> u32 {
        if self.steps_per_octave == 1 {
            let u = magnitude * self.inverse_absmax();
            if u < f32::MIN_POSITIVE {
                return self.levels(); // devices may flush it to zero
            }
            let exponent = ((u.to_bits() + HALF_OCTAVE) >> 23) as i32 - 127;
            return (-exponent).max(0) as u32;
        }
        (0..self.levels()).take_while(|&level| self.threshold(level) > magnitude).count() as u32
    }

    /// The code of `value`: zero, or the level plus one, with the sign in the highest bit.
    pub fn code(self, value: f32) -> u32 {
        let level = self.level(value.abs());
        if level >= self.levels() {
            return 0;
        }
        let sign = if value < 0.0 { 1 << (self.bits.get() - 1) } else { 0 };
        sign | (level + 1)
    }

    /// The value that `code` stands for.
    pub fn value(self, code: u32) -> f32 {
        let sign = 1 << (self.bits.get() - 1);
        let magnitude = match code & (sign - 1) {
            0 => return 0.0,
            level => self.magnitude(level - 1),
        };
        if code & sign == 0 { magnitude } else { -magnitude }
    }

    /// `value` as its code stands for it; what is no finite number stays as it is.
    pub fn round(self, value: f32) -> f32 {
        if value.is_finite() { self.value(self.code(value)) } else { value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(bits: Bits, steps_per_octave: u32) -> LogSpec {
        LogSpec { bits, steps_per_octave, absmax: 4.0 }
    }

    #[test]
    fn base_two_rounds_to_the_nearest_power_on_a_linear_scale() {
        let log = spec(Bits::B4, 1); // seven magnitudes: 4, 2, 1, …, 1/16
        let pairs = [
            (4.0, 4.0),
            (9.0, 4.0),
            (3.0, 4.0), // a tie goes up
            (2.999, 2.0),
            (-1.5, -2.0),
            (0.0625, 0.0625),
            (0.047, 0.0625),
            (0.0468, 0.0),
            (0.0, 0.0),
        ];
        for (value, expected) in pairs {
            assert_eq!(log.round(value), expected, "{value}");
        }
        assert_eq!([4.0, -4.0, 0.0625, 0.0].map(|v| log.code(v)), [1, 9, 7, 0]);
        assert!(log.round(f32::NAN).is_nan());
    }

    #[test]
    fn more_steps_per_octave_are_finer() {
        let error = |log: LogSpec| {
            let value = |i: u32| 0.05 + 3.9 * (i as f32 / 999.0);
            (0..1000).map(|i| (log.round(value(i)) / value(i) - 1.0).abs()).fold(0.0, f32::max)
        };
        assert!((error(spec(Bits::B8, 1)) - 1.0 / 3.0).abs() < 0.01);
        // Half a step of an eighth of an octave: 2^(1/16) − 1.
        assert!(error(spec(Bits::B8, 8)) < 0.0443);
    }

    #[test]
    fn every_code_stands_for_a_value_that_has_it() {
        for (bits, steps) in [(Bits::B3, 1), (Bits::B4, 2), (Bits::B6, 4), (Bits::B8, 12)] {
            let log = spec(bits, steps);
            log.check().unwrap();
            let unused = 1 << (bits.get() - 1); // minus zero
            for code in (0..=bits.max_code()).filter(|&code| code != unused) {
                assert_eq!(log.code(log.value(code)), code, "{bits} bits, {steps} steps");
            }
        }
    }

    #[test]
    fn what_has_no_values_is_refused() {
        let with = |steps_per_octave, absmax| LogSpec { bits: Bits::B8, steps_per_octave, absmax };
        assert!(with(0, 1.0).check().unwrap_err().contains("steps_per_octave"));
        for absmax in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-42] {
            assert!(with(1, absmax).check().unwrap_err().contains("absmax"), "{absmax}");
        }
    }
}
