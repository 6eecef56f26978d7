//! The inverse of a Gram matrix, as the factor that error compensation walks along.
//!
//! With `A = R·Rᵀ`, `R` upper triangular, `U = R⁻¹` is upper triangular and `Uᵀ·U = A⁻¹`: row `i`
//! of `U` is what GPTQ needs at column `i` (arXiv 2210.17323, §3.3, step 3). Factoring from the
//! last row upwards gives `R` at once, so `A⁻¹` itself is never formed. Golub and Van Loan, Matrix
//! Computations, 4th edition, §4.2, in f64 and in blocks that stay in a cache.

use rayon::prelude::*;

/// Rows and columns of a block.
const BLOCK: usize = 64;

/// `U`, `[n, n]` row-major with zeros below the diagonal, such that `Uᵀ·U = A⁻¹`; `None` if `a`
/// `[n, n]`, symmetric, is not positive definite to working precision.
///
/// # Panics
///
/// If `a` is not square.
pub(super) fn inverse_factor(mut a: Vec<f64>, n: usize) -> Option<Vec<f32>> {
    assert_eq!(a.len(), n * n, "a square matrix of {n} rows");
    for start in (0..n.div_ceil(BLOCK)).rev().map(|block| block * BLOCK) {
        factor_block(&mut a, n, start..(start + BLOCK).min(n))?;
    }
    Some(inverted(&a, n))
}

/// Turns the columns of `block`, the last that are not factored, into those of `R`, and takes what
/// they explain off the columns before.
fn factor_block(a: &mut [f64], n: usize, block: std::ops::Range<usize>) -> Option<()> {
    let (start, end) = (block.start, block.end);
    for j in block.clone().rev() {
        let tail: f64 = a[j * n + j + 1..j * n + end].iter().map(|r| r * r).sum();
        let pivot = a[j * n + j] - tail;
        if !(pivot > 0.0 && pivot.is_finite()) {
            return None;
        }
        a[j * n + j] = pivot.sqrt();
        for i in start..j {
            a[i * n + j] = entry(a, n, (i, j), end);
        }
    }
    let (above, below) = a.split_at_mut(start * n);
    let rows: &[f64] = below;
    above.par_chunks_mut(n).for_each(|row| {
        for j in (start..end).rev() {
            let diagonal = &rows[(j - start) * n..][..n];
            let dot: f64 = (j + 1..end).map(|k| row[k] * diagonal[k]).sum();
            row[j] = (row[j] - dot) / diagonal[j];
        }
    });
    // [block, start]: the new columns side by side, so that the update below reads in order.
    let panel: Vec<Vec<f64>> =
        block.clone().map(|k| (0..start).map(|i| above[i * n + k]).collect()).collect();
    above.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
        let (head, tail) = row.split_at_mut(start);
        for (column, &factor) in panel.iter().zip(&tail[..end - start]) {
            for (value, other) in head[i..].iter_mut().zip(&column[i..]) {
                *value -= factor * other;
            }
        }
    });
    Some(())
}

/// `R` at row `i` and column `j > i` of the block that ends at `end`.
fn entry(a: &[f64], n: usize, (i, j): (usize, usize), end: usize) -> f64 {
    let dot: f64 = (j + 1..end).map(|k| a[i * n + k] * a[j * n + k]).sum();
    (a[i * n + j] - dot) / a[j * n + j]
}

/// `R⁻¹` of the upper triangle of `r`, a block of columns at a time.
fn inverted(r: &[f64], n: usize) -> Vec<f32> {
    let starts: Vec<usize> = (0..n).step_by(BLOCK).collect();
    let blocks: Vec<Vec<f64>> =
        starts.par_iter().map(|&start| inverted_columns(r, n, start)).collect();
    let mut u = vec![0.0; n * n];
    u.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
        for (&start, block) in starts.iter().zip(&blocks) {
            let width = BLOCK.min(n - start);
            if i < start + width {
                for (value, column) in row[start..start + width].iter_mut().zip(&block[i * width..])
                {
                    *value = *column as f32;
                }
            }
        }
    });
    u
}

/// Columns `start` and following of `R⁻¹`, `[rows down to the last of them, width]`.
fn inverted_columns(r: &[f64], n: usize, start: usize) -> Vec<f64> {
    let width = BLOCK.min(n - start);
    let rows = start + width;
    let mut u = vec![0.0; rows * width];
    for i in (0..rows).rev() {
        let (head, below) = u.split_at_mut((i + 1) * width);
        let own = &mut head[i * width..];
        if i >= start {
            own[i - start] = 1.0;
        }
        for (k, other) in (i + 1..rows).zip(below.chunks_exact(width)) {
            let factor = r[i * n + k];
            for (value, other) in own.iter_mut().zip(other) {
                *value -= factor * other;
            }
        }
        let diagonal = r[i * n + i];
        own.iter_mut().for_each(|value| *value /= diagonal);
    }
    u
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `XᵀX / rows` of values that look random, plus `damping` on the diagonal.
    fn gram(n: usize, rows: usize, damping: f64) -> Vec<f64> {
        let x = |i: usize| (i as f64 * 12.9898 + 1.0).sin() * 43758.5453 % 1.0;
        let mut a = vec![0.0; n * n];
        for t in 0..rows {
            for i in 0..n {
                for j in 0..n {
                    a[i * n + j] += x(t * n + i) * x(t * n + j) / rows as f64;
                }
            }
        }
        (0..n).for_each(|i| a[i * n + i] += damping);
        a
    }

    #[test]
    fn the_factor_multiplies_to_the_inverse() {
        // One value, within a block, a block with a tail, several blocks.
        for n in [1, 5, 65, 150] {
            let a = gram(n, 2 * n, 0.01);
            let u = inverse_factor(a.clone(), n).expect("positive definite");
            // A·(Uᵀ·U) is the identity.
            let inverse = |i: usize, j: usize| -> f64 {
                (0..n).map(|k| f64::from(u[k * n + i]) * f64::from(u[k * n + j])).sum()
            };
            let inverse: Vec<f64> = (0..n * n).map(|at| inverse(at / n, at % n)).collect();
            for i in 0..n {
                for j in 0..n {
                    let value: f64 = (0..n).map(|k| a[i * n + k] * inverse[k * n + j]).sum();
                    let expected = f64::from(u8::from(i == j));
                    assert!((value - expected).abs() < 1e-3, "{n}: {i}, {j}: {value}");
                    assert!(j >= i || u[i * n + j] == 0.0, "{n}: below the diagonal");
                }
            }
        }
    }

    #[test]
    fn what_is_not_positive_definite_is_refused() {
        assert!(inverse_factor(vec![1.0, 2.0, 2.0, 1.0], 2).is_none());
        assert!(inverse_factor(vec![f64::NAN], 1).is_none());
        assert!(inverse_factor(gram(8, 3, 0.0), 8).is_none_or(|u| u.iter().any(|v| v.abs() > 1e3)));
    }
}
