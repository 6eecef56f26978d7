//! Singular values of a small matrix on the host, in f64: one-sided Jacobi rotations.
//!
//! The columns of `A` are rotated in pairs until all are orthogonal: then their lengths are the
//! singular values, their directions `U`, and the product of the rotations `V`. It is the most
//! accurate of the classical algorithms and short; a matrix as wide as a rank needs no faster one.
//! Golub and Van Loan, Matrix Computations, 4th edition, §8.6.3.

/// Cosine of the angle between two columns below which they count as orthogonal.
const ORTHOGONAL: f64 = 1e-13;
/// Sweeps over all pairs: matrices take 4 to 10; the limit is for values that are not finite.
const MAX_SWEEPS: usize = 40;
const LANES: usize = 4;

/// `A = U · diag(singular_values) · Vᵀ` of a square matrix.
#[derive(Clone, Debug)]
pub(super) struct SmallSvd {
    /// Descending, never negative.
    pub(super) singular_values: Vec<f64>,
    /// Columns of `U`: of length 1, or 0 where the singular value is.
    pub(super) u: Vec<Vec<f64>>,
    /// Columns of `V`, orthonormal.
    pub(super) v: Vec<Vec<f64>>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f64 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + tail
}

/// Rotates columns `p < q` by the angle whose cosine and sine are given.
fn rotate(columns: &mut [Vec<f64>], (p, q): (usize, usize), cosine: f64, sine: f64) {
    let (left, right) = columns.split_at_mut(q);
    for (a, b) in left[p].iter_mut().zip(&mut right[0]) {
        (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
    }
}

/// Makes all pairs of columns orthogonal once; returns whether any was not.
fn sweep(columns: &mut [Vec<f64>], v: &mut [Vec<f64>]) -> bool {
    let mut squares: Vec<f64> = columns.iter().map(|column| dot(column, column)).collect();
    let mut rotated = false;
    for p in 0..columns.len() {
        for q in p + 1..columns.len() {
            let product = dot(&columns[p], &columns[q]);
            if product.abs() <= ORTHOGONAL * (squares[p] * squares[q]).sqrt() {
                continue;
            }
            rotated = true;
            let zeta = (squares[q] - squares[p]) / (2.0 * product);
            let tangent = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
            let cosine = 1.0 / tangent.hypot(1.0);
            rotate(columns, (p, q), cosine, cosine * tangent);
            rotate(v, (p, q), cosine, cosine * tangent);
            squares[p] = (squares[p] - tangent * product).max(0.0);
            squares[q] += tangent * product;
        }
    }
    rotated
}

/// The singular value decomposition of `a`, `[n, n]` row-major.
///
/// Values that are not finite give singular values and vectors that are not.
pub(super) fn small_svd(a: &[f64], n: usize) -> SmallSvd {
    assert_eq!(a.len(), n * n, "a square matrix of {n} rows");
    let mut columns: Vec<Vec<f64>> =
        (0..n).map(|j| (0..n).map(|i| a[i * n + j]).collect()).collect();
    let unit = |j: usize| (0..n).map(|i| f64::from(u8::from(i == j))).collect();
    let mut v: Vec<Vec<f64>> = (0..n).map(unit).collect();
    for _ in 0..MAX_SWEEPS {
        if !sweep(&mut columns, &mut v) {
            break;
        }
    }
    let lengths: Vec<f64> = columns.iter().map(|column| dot(column, column).sqrt()).collect();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| lengths[j].total_cmp(&lengths[i]));
    let direction = |j: usize| {
        let length = if lengths[j] == 0.0 { 1.0 } else { lengths[j] };
        columns[j].iter().map(|value| value / length).collect()
    };
    SmallSvd {
        singular_values: order.iter().map(|&j| lengths[j]).collect(),
        u: order.iter().map(|&j| direction(j)).collect(),
        v: order.iter().map(|&j| v[j].clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values in `[-1, 1)` that look random.
    fn values(len: usize) -> Vec<f64> {
        (0..len).map(|i| (i as f64 * 12.9898 + 1.0).sin() * 43758.5453 % 1.0).collect()
    }

    fn product(svd: &SmallSvd, n: usize) -> Vec<f64> {
        let SmallSvd { singular_values, u, v } = svd;
        let entry =
            |i: usize, j: usize| (0..n).map(|k| u[k][i] * singular_values[k] * v[k][j]).sum();
        (0..n * n).map(|at| entry(at / n, at % n)).collect()
    }

    /// Asserts that the factors multiply to `a` and are orthonormal, but for vanishing columns.
    fn assert_decomposes(what: &str, a: &[f64], n: usize) -> SmallSvd {
        let svd = small_svd(a, n);
        let scale = a.iter().map(|value| value * value).sum::<f64>().sqrt();
        for (at, (actual, expected)) in product(&svd, n).iter().zip(a).enumerate() {
            assert!((actual - expected).abs() <= 1e-13 * scale, "{what}, element {at}");
        }
        assert!(svd.singular_values.is_sorted_by(|a, b| a >= b), "{what}: order");
        for (vectors, may_vanish) in [(&svd.u, true), (&svd.v, false)] {
            for i in 0..n {
                for j in 0..=i {
                    let vanishes = may_vanish && svd.singular_values[i] == 0.0;
                    let expected = f64::from(u8::from(i == j && !vanishes));
                    let actual = dot(&vectors[i], &vectors[j]);
                    assert!((actual - expected).abs() < 1e-11, "{what}: {i}·{j} = {actual}");
                }
            }
        }
        svd
    }

    #[test]
    fn any_matrix_is_the_product_of_its_factors() {
        for n in [1, 2, 3, 7, 48] {
            assert_decomposes(&format!("{n} random rows"), &values(n * n), n);
        }
        // Columns that shrink by 12 powers of ten.
        let n = 13;
        let wide: Vec<f64> = values(n * n)
            .iter()
            .enumerate()
            .map(|(i, v)| v * 0.1_f64.powi((i % n) as i32))
            .collect();
        assert_decomposes("a wide range", &wide, n);
    }

    #[test]
    fn known_singular_values_are_found() {
        let svd = assert_decomposes("diagonal", &[2.0, 0.0, 0.0, 0.0, -5.0, 0.0, 0.0, 0.0, 3.0], 3);
        assert_eq!(svd.singular_values, [5.0, 3.0, 2.0]);
        let svd = assert_decomposes("3 4 of rank 1", &[3.0, 3.0, 4.0, 4.0], 2);
        assert!((svd.singular_values[0] - 50.0_f64.sqrt()).abs() < 1e-14);
        assert!(svd.singular_values[1] < 1e-15);
        let identity: Vec<f64> = (0..25).map(|i| f64::from(u8::from(i % 6 == 0))).collect();
        assert_eq!(assert_decomposes("identity", &identity, 5).singular_values, [1.0; 5]);
        let svd = assert_decomposes("zero", &[0.0; 16], 4);
        assert_eq!(svd.singular_values, [0.0; 4]);
        assert!(small_svd(&[], 0).singular_values.is_empty());
    }

    #[test]
    fn repeated_columns_and_rows_leave_zeros() {
        let n = 6;
        let base = values(n * n);
        // Columns 1, 3 and 5 repeat their left neighbors.
        let repeated: Vec<f64> = (0..n * n).map(|at| base[at - at % 2]).collect();
        let svd = assert_decomposes("repeated columns", &repeated, n);
        assert!(svd.singular_values[2] > 1e-3 && svd.singular_values[3] < 1e-14);
    }

    #[test]
    fn values_that_are_not_finite_end_and_show() {
        for bad in [f64::NAN, f64::INFINITY] {
            let mut a = values(9);
            a[4] = bad;
            assert!(small_svd(&a, 3).singular_values.iter().any(|value| !value.is_finite()));
        }
    }
}
