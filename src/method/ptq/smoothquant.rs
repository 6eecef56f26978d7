//! SmoothQuant: one scale per channel moves outliers from the activations to the weights.
//!
//! Xiao et al., arXiv 2211.10438, §4: `s = max|X|^α / max|W|^(1 − α)`, `x̂ = x / s`, `Ŵ = W·diag(s)`.
//! `α` is the one of 21 from 0 to 1 with the least error of the layer's output (the paper: 0.5 for
//! all layers), or no scale at all where that is better. Stores `s`; at run time a multiplication
//! within the quantizer of the tokens.
//!
//! The form with a shift, `smoothquant-shift`, also subtracts the middle of each channel's range
//! before (Outlier Suppression+, Wei et al., arXiv 2304.09145), where that lowers the error; the
//! shift's part of the output moves into the bias. Choosing both by the error of the output is ours.

use super::Problem;
use super::smoothing::{balanced, middles, scaling};
use crate::quant::{Calibration, InputTransform, QuantizedLayer, WeightSpec};

/// Steps of `α` from 0 to 1.
const ALPHAS: usize = 20;
/// Candidates that are tried with the weight's own rounding.
const FINALISTS: usize = 4;

/// The layer with the best scale; `may_shift` allows a shift as well.
pub(super) fn solve(problem: &Problem<'_>, may_shift: bool) -> QuantizedLayer {
    let smoothed = smoothed(problem);
    let Some(statistics) = problem.observed.overall().filter(|_| may_shift) else {
        return problem.transformed_layer(smoothed);
    };
    let (shift, half_range) = middles(statistics.min(), statistics.max());
    let shifted = |scale| InputTransform { shift: Some(shift.clone()), scale, hadamard: None };
    let w_max = problem.weight_absmax();
    let scales = alphas().map(|alpha| balanced(&half_range, &w_max, alpha));
    let candidates = [InputTransform::NONE, smoothed, shifted(None)]
        .into_iter()
        .chain(scales.map(|s| shifted(Some(s))));
    problem.transformed_layer(best(problem, candidates))
}

/// The best scale for the activations' largest magnitudes, or none.
pub(super) fn smoothed(problem: &Problem<'_>) -> InputTransform {
    let Some(statistics) = problem.observed.overall() else { return InputTransform::NONE };
    let (x_max, w_max) = (statistics.absmax(), problem.weight_absmax());
    let scales = alphas().map(|alpha| scaling(balanced(&x_max, &w_max, alpha)));
    best(problem, std::iter::once(InputTransform::NONE).chain(scales))
}

fn alphas() -> impl Iterator<Item = f32> {
    (0..=ALPHAS).map(|i| i as f32 / ALPHAS as f32)
}

/// The transform of the least output error, the first of equals.
///
/// All are tried with the extremes as ranges of the weight; those that come out ahead, and the
/// first, which does nothing, once more with the weight's own rounding: the search for ranges would
/// take nearly all the time.
pub(super) fn best(
    problem: &Problem<'_>,
    candidates: impl Iterator<Item = InputTransform>,
) -> InputTransform {
    let quick = WeightSpec { calibration: Calibration::MinMax, ..problem.goal.weights };
    let mut tried: Vec<(f64, usize, InputTransform)> = candidates
        .enumerate()
        .map(|(number, transform)| (problem.trial(&transform, quick), number, transform))
        .collect();
    tried.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let first = tried.iter().position(|(_, number, _)| *number == 0);
    let first = first.filter(|&place| place >= FINALISTS).map(|place| tried.swap_remove(place));
    tried.truncate(FINALISTS);
    tried.extend(first);
    let mut best = (f64::INFINITY, 0, InputTransform::NONE);
    for (_, number, transform) in tried {
        let error = problem.trial(&transform, problem.goal.weights);
        if (error, number) < (best.0, best.1) {
            best = (error, number, transform);
        }
    }
    best.2
}
