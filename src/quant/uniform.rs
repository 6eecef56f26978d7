//! Uniform quantization of one row: range → grid (scale, zero point) → codes → values.
//!
//! The arithmetic is f32, operation for operation what `shaders/shared/uniform.wgsl` does, so
//! that a kernel and its twin differ only where a division is rounded differently at a tie.

use super::Bits;

/// How a range becomes a grid. Codes are always `0..=2^b − 1`; `value = scale · (code − zero_point)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Grid symmetric about zero: zero point `2^(b−1)`, code 0 unused.
    Symmetric,
    /// Range widened to contain zero; integer zero point within the codes.
    Asymmetric,
    /// Range as it is; integer zero point that may lie outside the codes.
    AsymmetricFree,
    /// Range as it is; integer zero point clamped to the codes. This is the token quantizer of the
    /// released QVGen code, which cuts off tokens whose values all have one sign.
    AsymmetricClamped,
    /// Range as it is; real-valued zero point, added before rounding (LSQ+, QVGen's weights).
    AsymmetricReal,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Self; 5] = [
        Self::Symmetric,
        Self::Asymmetric,
        Self::AsymmetricFree,
        Self::AsymmetricClamped,
        Self::AsymmetricReal,
    ];

    /// Name in files and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Symmetric => "symmetric",
            Self::Asymmetric => "asymmetric",
            Self::AsymmetricFree => "asymmetric-free",
            Self::AsymmetricClamped => "asymmetric-clamped",
            Self::AsymmetricReal => "asymmetric-real",
        }
    }

    /// The scheme of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.name() == name)
    }

    /// Number of the scheme in shader constants.
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// Whether the zero point is always a whole number.
    #[inline(always)]
    pub const fn has_integer_zero_point(self) -> bool {
        !matches!(self, Self::AsymmetricReal)
    }
}

/// Smallest scale of the real-valued scheme (the released QVGen code's floor).
pub const MIN_SCALE: f32 = 1e-9;

/// Ranges below this count as empty: their scale may be denormal, which GPUs flush to zero.
pub const MIN_RANGE: f32 = 1e-30;

/// Scale and zero point of one row or group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// Distance between neighbouring codes.
    pub scale: f32,
    /// Code that stands for zero; whole unless the scheme is [`Scheme::AsymmetricReal`].
    pub zero_point: f32,
}

impl Grid {
    /// The grid that covers `min..=max`.
    pub fn from_range(scheme: Scheme, bits: Bits, min: f32, max: f32) -> Self {
        let top = bits.max_code() as f32;
        match scheme {
            Scheme::Symmetric => {
                let half = 2_f32.powi(bits.get() as i32 - 1);
                let reach = min.abs().max(max.abs());
                let scale = if reach >= MIN_RANGE { reach / (half - 1.0) } else { 1.0 };
                Self { scale, zero_point: half }
            }
            Scheme::Asymmetric => Self::containing_zero(top, min, max),
            Scheme::AsymmetricFree if max - min >= MIN_RANGE => {
                let scale = (max - min) / top;
                Self { scale, zero_point: (-min / scale).round_ties_even() }
            }
            Scheme::AsymmetricFree => Self::containing_zero(top, min, max),
            Scheme::AsymmetricClamped => {
                let scale = ((max - min) / top).max(MIN_SCALE);
                let zero_point = (-min / scale).round_ties_even().clamp(0.0, top);
                Self { scale, zero_point }
            }
            Scheme::AsymmetricReal => {
                let scale = ((max - min) / top).max(MIN_SCALE);
                Self { scale, zero_point: -min / scale }
            }
        }
    }

    fn containing_zero(top: f32, min: f32, max: f32) -> Self {
        let (low, high) = (min.min(0.0), max.max(0.0));
        if high - low < MIN_RANGE {
            return Self { scale: 1.0, zero_point: 0.0 };
        }
        let scale = (high - low) / top;
        Self { scale, zero_point: (-low / scale).round_ties_even().clamp(0.0, top) }
    }

    /// The code of `value`.
    #[inline(always)]
    pub fn code(self, scheme: Scheme, bits: Bits, value: f32) -> u32 {
        let low = if scheme == Scheme::Symmetric { 1.0 } else { 0.0 };
        let steps = value / self.scale;
        let code = if scheme.has_integer_zero_point() {
            steps.round_ties_even() + self.zero_point
        } else {
            (steps + self.zero_point).round_ties_even()
        };
        // The saturating cast takes NaN to 0; the grid of such a row is NaN and shows it.
        code.clamp(low, bits.max_code() as f32) as u32
    }

    /// The value that `code` stands for.
    #[inline(always)]
    pub fn value(self, code: u32) -> f32 {
        self.scale * (code as f32 - self.zero_point)
    }
}

/// Smallest and largest value of a row; `(0, 0)` for an empty one.
pub fn range(values: &[f32]) -> (f32, f32) {
    let fold = |start: f32, pick: fn(f32, f32) -> f32| values.iter().copied().fold(start, pick);
    match values.first() {
        None => (0.0, 0.0),
        Some(&first) => (fold(first, f32::min), fold(first, f32::max)),
    }
}

/// How the range of a weight is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Calibration {
    /// The extremes.
    MinMax,
    /// Shrink the extremes by 1.00, 0.99, …, 0.21 and keep the least error (`spec` of QVGen's
    /// `get_mse_range`: p-norm 2.4, the first of equals).
    Mse,
}

/// Candidates of [`Calibration::Mse`].
pub const MSE_CANDIDATES: u32 = 80;
/// Exponent of its error.
pub const MSE_POWER: f32 = 2.4;

/// The factor by which candidate `i` shrinks the range.
pub fn mse_shrink(i: u32) -> f32 {
    1.0 - i as f32 / 100.0
}

/// `Σ |value − quantized|^2.4` of one row.
pub fn mse_error(grid: Grid, scheme: Scheme, bits: Bits, values: &[f32]) -> f32 {
    let power =
        |value: f32| (grid.value(grid.code(scheme, bits, value)) - value).abs().powf(MSE_POWER);
    // f64: the twin is the yardstick, and neighbouring candidates can be close.
    values.iter().map(|&value| f64::from(power(value))).sum::<f64>() as f32
}

/// The grid of one row or group under `calibration`.
pub fn calibrate(calibration: Calibration, scheme: Scheme, bits: Bits, values: &[f32]) -> Grid {
    let (min, max) = range(values);
    let candidate = |i| {
        let shrink = mse_shrink(i);
        Grid::from_range(scheme, bits, shrink * min, shrink * max)
    };
    match calibration {
        Calibration::MinMax => candidate(0),
        Calibration::Mse => {
            let mut best = (f32::INFINITY, candidate(0));
            for grid in (0..MSE_CANDIDATES).map(candidate) {
                let error = mse_error(grid, scheme, bits, values);
                if error < best.0 {
                    best = (error, grid);
                }
            }
            best.1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The golden vectors of the released QVGen formulas.
    const GOLDEN: [[f32; 8]; 2] = [
        [-0.12, 0.05, 0.031, -0.044, 0.2, 0.013, -0.09, 0.075],
        [0.4, -0.02, 0.01, 0.03, -0.05, 0.06, -0.07, 0.08],
    ];

    #[test]
    fn mse_search_finds_the_golden_grids() {
        let expected = [
            (Bits::B4, [(0.021_12, 5.625), (0.031_333, 2.234_042)]),
            (Bits::B3, [(0.045_714, 2.625), (0.066_471, 1.042_553)]),
        ];
        for (bits, grids) in expected {
            for (row, (scale, zero_point)) in GOLDEN.iter().zip(grids) {
                let grid = calibrate(Calibration::Mse, Scheme::AsymmetricReal, bits, row);
                assert!((grid.scale - scale).abs() < 1e-6, "{bits}: {grid:?}");
                assert!((grid.zero_point - zero_point).abs() < 1e-5, "{bits}: {grid:?}");
            }
        }
    }

    #[test]
    fn codes_of_the_golden_rows() {
        let grid = calibrate(Calibration::Mse, Scheme::AsymmetricReal, Bits::B4, &GOLDEN[0]);
        let codes = GOLDEN[0].map(|w| grid.code(Scheme::AsymmetricReal, Bits::B4, w));
        assert_eq!(codes, [0, 8, 7, 4, 15, 6, 1, 9]);
    }

    #[test]
    fn a_row_of_zeros_stays_zero_in_every_scheme() {
        for bits in Bits::ALL {
            for scheme in Scheme::ALL {
                let grid = calibrate(Calibration::Mse, scheme, bits, &[0.0; 8]);
                assert_eq!(grid.value(grid.code(scheme, bits, 0.0)), 0.0, "{scheme:?} {bits}");
            }
        }
    }

    #[test]
    fn values_lie_within_half_a_step_of_their_codes() {
        let row: Vec<f32> = (0_i16..50).map(|i| f32::from(i * i % 37) / 9.0 - 1.7).collect();
        for bits in Bits::ALL {
            for scheme in [Scheme::Symmetric, Scheme::Asymmetric, Scheme::AsymmetricReal] {
                let grid = calibrate(Calibration::MinMax, scheme, bits, &row);
                // A rounded zero point shifts the ends of the grid by up to half a step more.
                let slack = if scheme == Scheme::Asymmetric { 1.001 } else { 0.501 };
                for &value in &row {
                    let error = (grid.value(grid.code(scheme, bits, value)) - value).abs();
                    assert!(error <= slack * grid.scale, "{scheme:?} {bits}: {value}");
                }
            }
        }
    }
}
