//! Low-rank factors by truncated singular value decomposition.
//!
//! QVGen's auxiliary module is `Φ = L · R` of rank 32, made from the largest singular triples of
//! the quantization error, and decomposed anew whenever its rank is halved (arXiv 2505.11497,
//! §4). Neither needs a full decomposition. [`truncated_svd`] finds the leading triples by
//! subspace iteration (Halko, Martinsson and Tropp, arXiv 0909.4061, algorithms 4.4 and 5.1);
//! [`rebalance`] is exact, because the rank of a product is at most the width of its factors.
//!
//! The tall products are [`matmul_nt`], one kernel for all shapes (Burn's own compiles others for most
//! ranks and layers), the bases are [`orthonormalize`], and what is left, a matrix as wide as the rank,
//! is decomposed on the host in f64. Panels are stored transposed, `[vectors, length]`. Both functions
//! read from the device once.

use super::jacobi::{SmallSvd, small_svd};
use crate::kernels::{concatenate, in_a_row, matmul_nt, orthonormalize};
use burn::tensor::{Tensor, TensorData};

/// Vectors beyond the rank that take part in the iteration: directions near the cut converge as
/// fast as those after the last vector are smaller.
const OVERSAMPLING: usize = 16;
/// Products with `w` and `wᵀ`. Six leave the error within 0.4 % of the smallest possible where
/// singular values decline slowly, which is the hard case and that of rounding errors; two leave 2 %.
const ITERATIONS: usize = 6;

/// A matrix as the product of a tall and a wide one.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// `[out_features, rank]`: `U · √S`.
    pub l: Tensor<2>,
    /// `[rank, in_features]`: `√S · Vᵀ`.
    pub r: Tensor<2>,
}

impl LowRank {
    /// Columns of `l`, rows of `r`.
    pub fn rank(&self) -> usize {
        self.l.dims()[1]
    }

    /// `l · r`, `[out_features, in_features]`.
    pub fn product(&self) -> Tensor<2> {
        matmul_nt(self.l.clone(), transposed(self.r.clone()))
    }
}

/// The best approximation of `w` of a rank, `l = U·√S` and `r = √S·Vᵀ`, with the singular values.
///
/// `w` is `[out_features, in_features]` in f32. There are `rank` singular values, in descending
/// order; beyond the rank of `w` they, and with them the columns of `l` and rows of `r`, are zero
/// or rounding errors. Signs are such that the value of a column of `l` that is farthest from zero
/// is positive. `‖w − l·r‖` is within 1 % of the smallest possible, or 10⁻⁶ `‖w‖`, the precision
/// of f32; the seed changes no more than that. A device gives the same result in every call.
///
/// Gradients are not followed: `w` may be on an autodiff device, the factors are not. If `w` holds
/// a value that is not finite, the singular values do.
///
/// # Panics
///
/// If `rank` is 0, or the device fails.
pub fn truncated_svd(w: Tensor<2>, rank: usize, seed: u64) -> (LowRank, Vec<f32>) {
    assert!(rank > 0, "truncated_svd: the rank is at least 1");
    let w = w.inner();
    let [out_features, in_features] = w.dims();
    let smaller = out_features.min(in_features);
    let width = (rank + OVERSAMPLING).min(smaller);
    // As many vectors as there are dimensions span everything at once.
    let iterations = if width == smaller { 1 } else { ITERATIONS };

    let start = TensorData::new(random(width * in_features, seed), [width, in_features]);
    let mut v = orthonormalize(Tensor::from_data(start, &w.device()));
    let w_transposed = transposed(w.clone());
    let mut step = || {
        let u = orthonormalize(matmul_nt(v.clone(), w.clone()));
        let image = matmul_nt(u.clone(), w_transposed.clone());
        v = orthonormalize(image.clone());
        (u, image)
    };
    let (mut u, mut image) = step();
    for _ in 1..iterations {
        (u, image) = step();
    }
    let core = read(matmul_nt(image, v.clone()));
    factors(u, v, small_svd(&core, width), rank)
}

/// The product `l · r` with new factors: `l = U·√S`, `r = √S·Vᵀ`, sorted by singular value.
///
/// `l` is `[out_features, rank]`, `r` `[rank, in_features]`, both f32; the results have the same
/// shapes. Afterwards `lᵀ·l = r·rᵀ = S`, descending, so that the last columns matter least. The
/// product itself is never formed: thin orthonormal bases `l = P·A` and `r = B·Qᵀ` leave the
/// decomposition of `A·B`, `[rank, rank]`. Columns of zeros do no harm and come last. Signs,
/// gradients and values that are not finite are treated as in [`truncated_svd`].
///
/// # Panics
///
/// If `l` has not as many columns as `r` rows, or the device fails.
pub fn rebalance(l: Tensor<2>, r: Tensor<2>) -> (LowRank, Vec<f32>) {
    let rank = l.dims()[1];
    assert_eq!(rank, r.dims()[0], "rebalance: columns of l against rows of r");
    let (l, r) = (transposed(l.inner()), r.inner());
    let u = orthonormalize(l.clone());
    let v = orthonormalize(r.clone());
    let left = matmul_nt(u.clone(), l);
    let right = matmul_nt(r, v.clone());
    let both = read(concatenate(vec![left, right], 0));
    let (left, right) = both.split_at(rank * rank);
    factors(u, v, small_svd(&product(left, right, rank), rank), rank)
}

/// `uᵀ · core · v` of rank `rank`, balanced; `u` and `v` are `[width, length]`.
fn factors(u: Tensor<2>, v: Tensor<2>, core: SmallSvd, rank: usize) -> (LowRank, Vec<f32>) {
    let device = u.device();
    let width = core.singular_values.len();
    let mut singular_values = core.singular_values;
    singular_values.resize(rank, 0.0);
    // [rank, width]: the leading vectors of the core times √S, zero beyond its width.
    let scaled = |vectors: Vec<Vec<f64>>| {
        let mut values = vec![0.0_f32; rank * width];
        for ((row, vector), s) in values.chunks_mut(width).zip(vectors).zip(&singular_values) {
            for (value, element) in row.iter_mut().zip(vector) {
                *value = (element * s.sqrt()) as f32;
            }
        }
        Tensor::<2>::from_data(TensorData::new(values, [rank, width]), &device)
    };
    let (from_u, from_v) = (scaled(core.u), scaled(core.v));
    let l = matmul_nt(transposed(u), from_u);
    let r = matmul_nt(from_v, transposed(v));
    let sign = signs(l.clone());
    let low_rank = LowRank { l: l * sign.clone(), r: r * sign.transpose() };
    (low_rank, singular_values.into_iter().map(|value| value as f32).collect())
}

/// `xᵀ` with its values in a row.
fn transposed(x: Tensor<2>) -> Tensor<2> {
    in_a_row(x.transpose())
}

/// `[1, columns]`: −1 for columns whose smallest value is farther from zero than the largest,
/// else 1.
fn signs(l: Tensor<2>) -> Tensor<2> {
    let middle = l.clone().max_dim(0) + l.min_dim(0);
    middle.greater_equal_elem(0.0).float() * 2.0 - 1.0
}

/// `a · b`, all `[n, n]`.
fn product(a: &[f64], b: &[f64], n: usize) -> Vec<f64> {
    let entry = |i: usize, j: usize| -> f64 { (0..n).map(|k| a[i * n + k] * b[k * n + j]).sum() };
    (0..n * n).map(|at| entry(at / n, at % n)).collect()
}

/// The values of a small matrix, row-major.
fn read(matrix: Tensor<2>) -> Vec<f64> {
    let values = matrix.into_data().try_to_vec::<f32>().expect("f32 values");
    values.into_iter().map(f64::from).collect()
}

/// Values in `[-1, 1)` by `SplitMix64` (Steele, Lea and Flood, OOPSLA 2014), which no library
/// update changes.
fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}
