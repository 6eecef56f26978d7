//! Arithmetic of the plain-Rust twins in a form that the compiler turns into vector instructions.
//!
//! A matrix product rearranges its factors into panels of a few columns. For each panel of the
//! left and each of the right factor there is a tile of 4 × 8 sums, which stay in registers while
//! both panels are read in order: no strides, no bounds checks, no tails in the inner loop.

/// Columns of a left panel.
const LEFT: usize = 4;
/// Columns of a right panel, and partial results of a reduction.
const RIGHT: usize = 8;

/// Some columns of a row-major matrix.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    stride: usize,
}

impl<'a> View<'a> {
    /// Columns `first..first + columns` of every row of `data`, whose rows have `stride` values.
    pub(super) fn new(data: &'a [f32], stride: usize, first: usize, columns: usize) -> Self {
        Self { data: &data[first..], rows: data.len() / stride, columns, stride }
    }

    fn row(&self, row: usize) -> &'a [f32] {
        &self.data[row * self.stride..][..self.columns]
    }
}

/// A matrix as panels of `W` columns, the last one filled up with zeros.
#[derive(Default)]
pub(super) struct Panels<const W: usize> {
    rows: usize,
    columns: usize,
    /// `[columns / W][rows][W]`.
    data: Vec<[f32; W]>,
}

/// The left factor of a [`product`].
pub(super) type LeftPanels = Panels<LEFT>;
/// The right factor of a [`product`].
pub(super) type RightPanels = Panels<RIGHT>;

impl<const W: usize> Panels<W> {
    fn reset(&mut self, rows: usize, columns: usize) {
        (self.rows, self.columns) = (rows, columns);
        self.data.clear();
        self.data.resize(rows * columns.div_ceil(W), [0.0; W]);
    }

    /// Holds `matrix` from now on.
    pub(super) fn copy(&mut self, matrix: View<'_>) {
        self.reset(matrix.rows, matrix.columns);
        for (index, panel) in self.data.chunks_exact_mut(matrix.rows).enumerate() {
            for (row, to) in panel.iter_mut().enumerate() {
                let from = &matrix.row(row)[index * W..];
                match from.first_chunk() {
                    Some(full) => *to = *full,
                    None => to[..from.len()].copy_from_slice(from),
                }
            }
        }
    }

    /// Holds the transpose of `matrix` from now on.
    pub(super) fn transpose(&mut self, matrix: View<'_>) {
        self.reset(matrix.columns, matrix.rows);
        for (index, panel) in self.data.chunks_exact_mut(matrix.columns).enumerate() {
            for lane in 0..W.min(matrix.rows - index * W) {
                for (to, from) in panel.iter_mut().zip(matrix.row(index * W + lane)) {
                    to[lane] = *from;
                }
            }
        }
    }

    /// Row `i` of panel `j` is row `i` of the matrix, columns `j · W..`.
    pub(super) fn panels(&self) -> std::slice::ChunksExact<'_, [f32; W]> {
        self.data.chunks_exact(self.rows)
    }

    fn of(matrix: View<'_>, fill: impl Fn(&mut Self, View<'_>)) -> Self {
        let mut panels = Self { rows: 0, columns: 0, data: Vec::new() };
        fill(&mut panels, matrix);
        panels
    }

    /// The panels of `matrix`.
    pub(super) fn copied(matrix: View<'_>) -> Self {
        Self::of(matrix, Self::copy)
    }

    /// The panels of the transpose of `matrix`.
    pub(super) fn transposed(matrix: View<'_>) -> Self {
        Self::of(matrix, Self::transpose)
    }
}

/// What a [`product`] does with what the result held.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    /// Replaces it.
    Assign,
    /// Adds to it.
    Add,
}

/// `c = leftᵀ · right`, or `c += leftᵀ · right`; rows of `c` begin `stride` values apart.
pub(super) fn product(
    left: &LeftPanels,
    right: &RightPanels,
    c: &mut [f32],
    stride: usize,
    write: Write,
) {
    let depth = left.rows;
    assert_eq!(depth, right.rows, "length of the sums");
    for (j, right_panel) in right.data.chunks_exact(depth).enumerate() {
        for (i, left_panel) in left.data.chunks_exact(depth).enumerate() {
            let sums = tile::<false, LEFT, RIGHT>(left_panel, right_panel);
            for (row, sums) in sums.iter().enumerate().take(left.columns - i * LEFT) {
                let end = RIGHT.min(right.columns - j * RIGHT);
                let c = &mut c[(i * LEFT + row) * stride + j * RIGHT..][..end];
                match c.first_chunk_mut::<RIGHT>() {
                    Some(full) => store(full, sums, write),
                    None => store(c, sums, write),
                }
            }
        }
    }
}

#[inline(always)]
fn store<C: AsMut<[f32]> + ?Sized>(c: &mut C, sums: &[f32; RIGHT], write: Write) {
    for (c, sum) in c.as_mut().iter_mut().zip(sums) {
        *c = if write == Write::Add { *c + sum } else { *sum };
    }
}

/// `leftᵀ · right` of two panels. `FMA`: a multiplication and an addition are one instruction.
#[inline(always)]
pub(super) fn tile<const FMA: bool, const L: usize, const R: usize>(
    left: &[[f32; L]],
    right: &[[f32; R]],
) -> [[f32; R]; L] {
    let mut sums = [[0.0; R]; L];
    for (a, b) in left.iter().zip(right) {
        for row in 0..L {
            for column in 0..R {
                let sum = &mut sums[row][column];
                *sum =
                    if FMA { a[row].mul_add(b[column], *sum) } else { *sum + a[row] * b[column] };
            }
        }
    }
    sums
}

/// `f` over all values, in [`RIGHT`] interleaved partial results.
fn fold(values: &[f32], start: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; RIGHT];
    let (chunks, rest) = values.as_chunks::<RIGHT>();
    for chunk in chunks {
        for lane in 0..RIGHT {
            lanes[lane] = f(lanes[lane], chunk[lane]);
        }
    }
    rest.iter().chain(&lanes).copied().fold(start, f)
}

/// The largest value; NaN does not count.
pub(super) fn maximum(values: &[f32]) -> f32 {
    fold(values, f32::MIN, |a, b| if b > a { b } else { a })
}

/// The sum, with an error that does not grow with the count.
pub(super) fn sum(values: &[f32]) -> f64 {
    values.chunks(512).map(|part| f64::from(fold(part, 0.0, |a, b| a + b))).sum()
}

/// `eˣ` to a relative 2e-7 for `x` in −87 … 88, the nearer end's value outside; NaN stays NaN.
///
/// The exponential of the standard library is a call per value. After Cephes, `expf.c`: the
/// integer part of `x / ln 2` becomes the exponent, a polynomial takes the rest.
#[expect(clippy::excessive_precision, reason = "constants as published")]
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding it rounds to an integer, which ends up in the low bits.
    const SHIFT: f32 = 12_582_912.0; // 1.5 · 2²³
    const LN_2_HIGH: f32 = 0.693_359_375;
    const LN_2_LOW: f32 = -2.121_944_40e-4;
    // Not `clamp`: comparisons in this order become one instruction each and let NaN pass.
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let p = 1.987_569_150_0e-4;
    let p = p * r + 1.398_199_950_7e-3;
    let p = p * r + 8.333_451_907_3e-3;
    let p = p * r + 4.166_579_589_4e-2;
    let p = p * r + 1.666_666_545_9e-1;
    let p = p * r + 5.000_000_120_1e-1;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    (p * r * r + r + 1.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(len: usize) -> Vec<f32> {
        (0..len).map(|i| (1.7 * i as f32).sin()).collect()
    }

    #[test]
    fn products_of_ragged_matrices_are_exact_to_rounding() {
        for (rows, columns, depth) in [(1, 1, 1), (4, 8, 3), (5, 9, 7), (11, 23, 2), (3, 17, 40)] {
            let (a, b) = (values(rows * depth), values(2 * depth * columns));
            let left = Panels::transposed(View::new(&a, depth, 0, depth));
            let right = Panels::copied(View::new(&b, 2 * columns, columns, columns));
            let stride = columns + 3;
            let mut c = vec![0.5; rows * stride];
            for write in [Write::Assign, Write::Add] {
                product(&left, &right, &mut c, stride, write);
            }
            for row in 0..rows {
                let c = &c[row * stride..][..stride];
                for (column, c) in c[..columns].iter().enumerate() {
                    let at = |k| a[row * depth + k] * b[(2 * k + 1) * columns + column];
                    let expected: f32 = (0..depth).map(at).sum();
                    assert!((c - 2.0 * expected).abs() < 1e-4, "{c} against 2 · {expected}");
                }
                assert_eq!(c[columns..], [0.5; 3], "wrote beside the result");
            }
        }
    }

    #[test]
    fn exponentials_are_close_over_the_whole_range_and_clamped_beyond() {
        for i in -86_999..88_000 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 2e-7, "{x}");
        }
        assert_eq!([exp(-1e30), exp(f32::NEG_INFINITY)], [exp(-87.0); 2]);
        assert_eq!(exp(f32::INFINITY), exp(88.0));
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_see_every_value() {
        for len in [1, 7, 8, 9, 600, 1100] {
            for place in [0, len / 2, len - 1] {
                let mut x = vec![-2.0; len];
                x[place] = 3.0;
                assert_eq!(maximum(&x), 3.0);
                assert_eq!(sum(&x), 5.0 - 2.0 * len as f64);
            }
        }
    }
}
