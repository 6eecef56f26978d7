//! Error compensation: what the rounding of a column does to the output, the columns after it undo.
//!
//! GPTQ (Frantar et al., arXiv 2210.17323, §3). With `H = Xᵀ·X + λI` of the layer's input, `λ` one
//! hundredth of the mean of its diagonal, and `Uᵀ·U = H⁻¹`, columns are rounded from the first to
//! the last, and
//!
//! ```text
//! w[j] ← w[j] − (w[i] − q[i]) / U[i][i] · U[i][j]      for all j > i
//! ```
//!
//! Grids are those of the original weight (the search of [`super::mse`]), as `static_groups` of the
//! authors' code. `X` is the bounded sample of tokens, not every token: with fewer tokens than
//! channels `λ` decides the directions in between, so more of them help. Stores nothing but codes
//! and grids, costs nothing at run time. Where activations are quantized, `X` is the rounded input
//! that the layer will see.

use super::cholesky::inverse_factor;
use super::grids::of_codes;
use super::problem::{matrix, transformed};
use super::{Problem, activations};
use crate::kernels::{in_a_row, matmul_nt};
use crate::quant::{Calibration, Grid, InputTransform, PackedRows, QuantizedLayer, WeightSpec};
use rayon::prelude::*;

/// Part of the mean of the diagonal that is added to it.
const DAMPING: f64 = 0.01;
/// How often damping may grow tenfold before the plain grids are kept.
const ATTEMPTS: usize = 5;
/// Rows that walk through the factor together: it is read from memory once for all of them.
const ROWS: usize = 16;

/// The layer with compensated rows.
pub(super) fn solve(problem: &Problem<'_>) -> QuantizedLayer {
    let rows = compensated_rows(problem, &InputTransform::NONE);
    problem.layer(rows, InputTransform::NONE, None)
}

/// The compensated rows of the weight under `transform`.
pub(super) fn compensated_rows(problem: &Problem<'_>, transform: &InputTransform) -> PackedRows {
    let k = problem.in_features;
    let spec = WeightSpec { calibration: Calibration::Mse, ..problem.goal.weights };
    let weight = problem.folded(transform);
    let nearest = problem.rounded(&weight, spec);
    let Some(u) = factor(gram(problem, transform), k) else { return nearest };
    let PackedRows { group_size, grids, .. } = nearest;
    let codes = compensated(&weight, &u, (&grids, group_size), spec, k);
    of_codes(&codes, k, group_size, spec, grids)
}

/// `Xᵀ·X` of the transformed and rounded input, `[in_features, in_features]`.
fn gram(problem: &Problem<'_>, transform: &InputTransform) -> Vec<f64> {
    let k = problem.in_features;
    let samples = problem.samples();
    let x = transformed(&samples.x, transform, k);
    let x = match problem.activations(transform) {
        Some(quantizer) => activations::rounded(&quantizer, &x, k, &samples.places),
        None => x,
    };
    let channels = in_a_row(matrix(&x, k, problem.device()).transpose());
    let gram = matmul_nt(channels.clone(), channels).into_data();
    let values = gram.try_to_vec::<f32>().expect("f32 values");
    values.into_iter().map(f64::from).collect()
}

/// The factor of the damped inverse of `h`; `None` if it cannot be had.
fn factor(h: Vec<f64>, k: usize) -> Option<Vec<f32>> {
    let mean = (0..k).map(|i| h[i * k + i]).sum::<f64>() / k as f64;
    if !(mean > 0.0 && mean.is_finite()) {
        return None;
    }
    (0..ATTEMPTS).find_map(|attempt| {
        let damping = DAMPING * mean * 10_f64.powi(attempt as i32);
        let mut damped = h.clone();
        (0..k).for_each(|i| damped[i * k + i] += damping);
        inverse_factor(damped, k)
    })
}

/// The codes of `weight` `[rows, k]` on `grids` of `group_size`, errors compensated along `u`
/// `[k, k]`.
fn compensated(
    weight: &[f32],
    u: &[f32],
    (grids, group_size): (&[Grid], usize),
    spec: WeightSpec,
    k: usize,
) -> Vec<u32> {
    let groups = k.div_ceil(group_size);
    let chunk = |(chunk, rows): (usize, &[f32])| -> Vec<u32> {
        let mut w = rows.to_vec();
        let mut codes = vec![0; w.len()];
        for i in 0..k {
            let factors = &u[i * k + i..(i + 1) * k];
            for (row, (w, codes)) in
                w.chunks_exact_mut(k).zip(codes.chunks_exact_mut(k)).enumerate()
            {
                let grid = grids[(chunk * ROWS + row) * groups + i / group_size];
                codes[i] = grid.code(spec.scheme, spec.bits, w[i]);
                let error = (w[i] - grid.value(codes[i])) / factors[0];
                for (w, factor) in w[i + 1..].iter_mut().zip(&factors[1..]) {
                    *w -= error * factor;
                }
            }
        }
        codes
    };
    weight.par_chunks(ROWS * k).enumerate().flat_map_iter(chunk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Bits, Scheme, quantize_weight};

    /// Tokens whose neighbouring channels are alike.
    fn correlated(tokens: usize, k: usize) -> Vec<f32> {
        let noise = |i: usize| (i as f32 * 12.9898).sin() * 43758.547 % 1.0;
        let token = |t: usize| {
            let mut value = noise(t * 7919);
            (0..k)
                .map(move |c| {
                    value = 0.9 * value + 0.4 * noise(t * k + c);
                    value
                })
                .collect::<Vec<_>>()
        };
        (0..tokens).flat_map(token).collect()
    }

    fn output_error(x: &[f32], w: &[f32], q: &[f32], k: usize) -> f64 {
        let dot = |x: &[f32], w: &[f32], q: &[f32]| -> f64 {
            x.iter().zip(w).zip(q).map(|((x, w), q)| f64::from(x * (w - q))).sum()
        };
        let rows = || w.chunks(k).zip(q.chunks(k));
        x.chunks(k).flat_map(|x| rows().map(move |(w, q)| dot(x, w, q).powi(2))).sum()
    }

    #[test]
    fn compensation_lowers_the_output_error_where_channels_are_correlated() {
        let (n, k) = (35, 48);
        let x = correlated(200, k);
        let w: Vec<f32> = (0..n * k).map(|i| (i as f32 * 0.37).sin()).collect();
        let mut h = vec![0.0; k * k];
        for token in x.chunks(k) {
            for i in 0..k {
                for j in 0..k {
                    h[i * k + j] += f64::from(token[i]) * f64::from(token[j]);
                }
            }
        }
        let u = factor(h, k).expect("a factor");
        for (bits, group_size) in [(Bits::B4, None), (Bits::B3, Some(32))] {
            let spec = WeightSpec {
                bits,
                scheme: Scheme::AsymmetricReal,
                group_size,
                calibration: Calibration::Mse,
            };
            let nearest = quantize_weight(&w, k, spec);
            let size = nearest.group_size;
            let codes = compensated(&w, &u, (&nearest.grids, size), spec, k);
            let rows = of_codes(&codes, k, size, spec, nearest.grids.clone());
            let [before, after] =
                [nearest, rows].map(|rows| output_error(&x, &w, &rows.values(), k));
            assert!(after < 0.6 * before, "{bits} bits: {after} after {before}");
        }
    }

    #[test]
    fn without_correlation_codes_are_the_nearest() {
        let (n, k) = (3, 8);
        let w: Vec<f32> = (0..n * k).map(|i| (i as f32 * 0.37).sin()).collect();
        let identity: Vec<f64> =
            (0..k * k).map(|i| f64::from(u8::from(i % (k + 1) == 0))).collect();
        let u = factor(identity, k).expect("a factor");
        let spec = WeightSpec {
            bits: Bits::B4,
            scheme: Scheme::Asymmetric,
            group_size: None,
            calibration: Calibration::Mse,
        };
        let nearest = quantize_weight(&w, k, spec);
        let codes = compensated(&w, &u, (&nearest.grids, k), spec, k);
        assert_eq!(of_codes(&codes, k, k, spec, nearest.grids.clone()), nearest);
        assert!(factor(vec![0.0; 4], 2).is_none(), "an input of zeros has no factor");
    }
}
