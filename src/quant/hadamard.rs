//! The Walsh–Hadamard transform in blocks: an outlier of a token is spread over its block.

/// Widths of a block that kernels have.
pub const HADAMARD_BLOCKS: [usize; 2] = [64, 128];

/// Multiplies every block of `block` neighbouring values by the orthonormal Walsh–Hadamard matrix
/// in Sylvester's order, `H[i][j] = (−1)^popcount(i & j) / √block`.
///
/// It is symmetric and its own inverse, so that `(x·H)·(W·H)ᵀ = x·Wᵀ` (`QuaRot`, arXiv 2404.00456,
/// in blocks). The order of the sums is that of the shader.
///
/// # Panics
///
/// If `block` is no power of two, or `values` no whole number of blocks.
pub fn hadamard(values: &mut [f32], block: usize) {
    assert!(
        block.is_power_of_two() && values.len().is_multiple_of(block),
        "hadamard: {} values in blocks of {block}",
        values.len()
    );
    for block in values.chunks_exact_mut(block) {
        hadamard_block(block);
    }
}

/// [`hadamard`] of one block.
#[inline(always)]
pub(crate) fn hadamard_block(block: &mut [f32]) {
    let mut half = 1;
    while half < block.len() {
        for pair in block.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let factor = hadamard_factor(block.len());
    for value in block {
        *value *= factor;
    }
}

/// What makes the sums and differences of a block orthonormal.
pub fn hadamard_factor(block: usize) -> f32 {
    1.0 / (block as f32).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(len: u16) -> Vec<f32> {
        (0..len).map(|i| f32::from(i * 37 % 101) / 50.0 - 1.0).collect()
    }

    #[test]
    fn the_transform_is_the_matrix_of_signs() {
        for block in HADAMARD_BLOCKS {
            let x = values(block as u16);
            let mut y = x.clone();
            hadamard(&mut y, block);
            for (i, y) in y.iter().enumerate() {
                let sign =
                    |j: usize| if (i & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
                let exact: f64 = x.iter().enumerate().map(|(j, x)| f64::from(*x) * sign(j)).sum();
                assert!((f64::from(*y) - exact / (block as f64).sqrt()).abs() < 1e-5, "{i}");
            }
        }
    }

    #[test]
    fn the_transform_undoes_itself_and_keeps_lengths() {
        for block in HADAMARD_BLOCKS {
            let x = values(3 * block as u16);
            let mut y = x.clone();
            hadamard(&mut y, block);
            let square = |values: &[f32]| values.iter().map(|v| v * v).sum::<f32>();
            assert!((square(&y) - square(&x)).abs() < 1e-4 * square(&x));
            hadamard(&mut y, block);
            assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() < 1e-5));
        }
    }

    #[test]
    fn an_outlier_is_spread_over_its_block() {
        let mut x = vec![0.0; 128];
        x[70] = 8.0;
        hadamard(&mut x, 64);
        assert!(x[..64].iter().all(|&v| v == 0.0));
        assert!(x[64..].iter().all(|&v| v.abs() == 1.0));
    }
}
