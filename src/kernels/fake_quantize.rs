//! What the twins of the fake-quantizing kernels share: codes as f32 in loops that vectorize.
//!
//! [`Grid::code`] rounds by a function call per value where the processor's baseline has no
//! rounding instruction, and ends in an integer. Training on the CPU spends its time here, so the
//! twins get the same codes from additions, comparisons and one division.

use crate::quant::{Bits, Grid, Scheme};
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

/// Values from which a twin uses several threads. Below, it leaves them to the trainer, which runs
/// one sample on each.
pub(crate) const PARALLEL_LEN: usize = 1 << 20;

/// Independent partial sums of a reduction, because the compiler never reorders additions.
const LANES: usize = 16;

/// Positions beyond are cut off before rounding: no code lies there.
const FAR: f32 = (1 << 20) as f32;

/// Half to even, for `|value| < 2^22`.
#[inline(always)]
fn round_half_even(value: f32) -> f32 {
    // 1.5·2^23: the last place of the sum is 1, so the addition rounds.
    const SHIFT: f32 = 12_582_912.0;
    (value + SHIFT) - SHIFT
}

/// `value` within `low..=high`; NaN stays NaN.
#[inline(always)]
fn clamp(value: f32, low: f32, high: f32) -> f32 {
    if value < low {
        low
    } else if value > high {
        high
    } else {
        value
    }
}

/// A grid with the codes it may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Codes {
    grid: Grid,
    /// Added before rounding: a real-valued zero point, else 0.
    before: f32,
    /// Added after rounding: an integer zero point, else 0.
    after: f32,
    low: f32,
    top: f32,
}

impl Codes {
    pub(crate) fn new(grid: Grid, scheme: Scheme, bits: Bits) -> Self {
        let whole = scheme.has_integer_zero_point();
        Self {
            grid,
            before: if whole { 0.0 } else { grid.zero_point },
            after: if whole { grid.zero_point } else { 0.0 },
            low: if scheme == Scheme::Symmetric { 1.0 } else { 0.0 },
            top: bits.max_code() as f32,
        }
    }

    /// What is rounded: `value / scale`, plus the zero point if it is real-valued.
    #[inline(always)]
    pub(crate) fn position(&self, value: f32) -> f32 {
        clamp(value / self.grid.scale + self.before, -FAR, FAR)
    }

    /// The code at `position` before it is cut to the range of codes.
    #[inline(always)]
    fn rounded(&self, position: f32) -> f32 {
        round_half_even(position) + self.after
    }

    /// Whether the code at `position` lies within the range of codes, ends included.
    #[inline(always)]
    pub(crate) fn contain(&self, position: f32) -> bool {
        let rounded = self.rounded(position);
        rounded >= self.low && rounded <= self.top
    }

    /// `code − zero_point` at `position`.
    #[inline(always)]
    pub(crate) fn offset(&self, position: f32) -> f32 {
        clamp(self.rounded(position), self.low, self.top) - self.grid.zero_point
    }

    /// The value that stands for `value`.
    #[inline(always)]
    pub(crate) fn fake(&self, value: f32) -> f32 {
        self.grid.scale * self.offset(self.position(value))
    }

    /// Derivative of [`Self::fake`] in the scale, rounding taken for the identity.
    #[inline(always)]
    pub(crate) fn scale_slope(&self, position: f32) -> f32 {
        let residual = round_half_even(position) - position;
        if self.contain(position) { residual } else { self.offset(position) }
    }
}

/// `Σ term(a, b)` over two slices of one length.
#[inline(always)]
pub(crate) fn sum_of(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a.remainder().iter().zip(b.remainder());
    let rest: f32 = rest.map(|(&a, &b)| term(a, b)).sum();
    let mut sums = [0.0_f32; LANES];
    for (a, b) in a.zip(b) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += term(a, b);
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// Smallest and largest of `values`; `None` if one is no finite number or there are none.
pub(crate) fn finite_range(values: &[f32]) -> Option<(f32, f32)> {
    let first = *values.first()?;
    let (mut low, mut high) = ([first; LANES], [first; LANES]);
    let mut zeros = [0.0_f32; LANES]; // NaN as soon as a value is not finite
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks.chain(rest.chunks(1)) {
        for (i, &value) in chunk.iter().enumerate() {
            low[i] = if value < low[i] { value } else { low[i] };
            high[i] = if value > high[i] { value } else { high[i] };
            zeros[i] += value * 0.0;
        }
    }
    let low = low.into_iter().fold(first, f32::min);
    let high = high.into_iter().fold(first, f32::max);
    (zeros.iter().sum::<f32>() == 0.0).then_some((low, high))
}

/// Calls `row` with index and values of each row of `out`; returns what it returned.
pub(crate) fn map_rows<R: Send>(
    out: &mut [f32],
    columns: usize,
    row: impl Fn(usize, &mut [f32]) -> R + Sync,
) -> Vec<R> {
    if out.len() >= PARALLEL_LEN {
        let rows = out.par_chunks_exact_mut(columns).enumerate();
        rows.map(|(index, values)| row(index, values)).collect()
    } else {
        let rows = out.chunks_exact_mut(columns).enumerate();
        rows.map(|(index, values)| row(index, values)).collect()
    }
}

/// The tensors in row-major order, without copying those that already are.
pub(crate) fn contiguous<const N: usize>(tensors: [FlexTensor; N]) -> [FlexTensor; N] {
    tensors.map(|tensor| tensor.to_contiguous())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_grid_also_at_ties_and_far_away() {
        let grids = [(0.25, 7.0, 7.5), (0.031_333, 2.0, 2.234_042), (-0.5, 3.0, 2.5)];
        for (scale, whole, real) in grids {
            for scheme in [Scheme::Symmetric, Scheme::Asymmetric, Scheme::AsymmetricReal] {
                let zero_point = if scheme.has_integer_zero_point() { whole } else { real };
                let grid = Grid { scale, zero_point };
                for bits in Bits::ALL {
                    let codes = Codes::new(grid, scheme, bits);
                    let near = (-4000..4000).map(|i| i as f32 / 16.0 * scale);
                    for value in near.chain([1e9, -1e9, 1e30, -1e30, 0.0, -0.0]) {
                        let expected = grid.value(grid.code(scheme, bits, value));
                        let what = format!("{scheme:?} {bits} {grid:?}: {value}");
                        assert_eq!(codes.fake(value).to_bits(), expected.to_bits(), "{what}");
                    }
                    assert!(codes.fake(f32::NAN).is_nan(), "{scheme:?} {bits}");
                }
            }
        }
    }

    #[test]
    fn range_and_sum_see_every_value_of_ragged_slices() {
        for len in [1_i16, 15, 16, 17, 50] {
            let values: Vec<f32> = (0..len).map(|i| f32::from(i * 7 % 11) - 4.0).collect();
            let expected = crate::quant::range(&values);
            assert_eq!(finite_range(&values), Some(expected));
            assert_eq!(sum_of(&values, &values, |a, b| a + b), 2.0 * values.iter().sum::<f32>());
            for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, values.len() - 1] {
                    let mut values = values.clone();
                    values[at] = broken;
                    assert_eq!(finite_range(&values), None, "{broken} at {at} of {len}");
                }
            }
        }
        assert_eq!(finite_range(&[]), None);
    }
}
