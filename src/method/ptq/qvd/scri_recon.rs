//! SCRI, as we reconstruct it: `scri_recon`.
//!
//! QVD (arXiv 2407.11585) integrates the scattered ranges of channels so that each covers more of
//! the levels of one common range. Its equation was not available to us; **this is our
//! reconstruction**, a member of the family of Outlier Suppression+ (arXiv 2304.09145):
//!
//! ```text
//! z = (max + min) / 2,   h = (max − min) / 2         of each channel
//! s = max(1, h / τ)                                  only outlying channels are integrated
//! x̂ = (x − z) / s,   Ŵ = W·diag(s),   b̂ = b + W·z
//! ```
//!
//! `τ` is the one of 20 quantiles of `h`, with the shift or without, whose layer has the least error
//! of its output, activations and weights quantized; or nothing is done where that is better. Most
//! coverage is not least error: full integration pushes all disparity into the weights. Stores
//! `z` and `s`; at run time a subtraction and a multiplication within the quantizer of the tokens.

use super::super::Problem;
use super::super::smoothing::middles;
use super::super::smoothquant::best;
use crate::quant::{InputTransform, QuantizedLayer};

/// Quantiles of the half ranges that are tried.
const QUANTILES: usize = 20;
/// Scales beyond these would only move the overflow.
const MAX_SCALE: f32 = 1e4;

/// The layer with the best integration.
pub(super) fn solve(problem: &Problem<'_>) -> QuantizedLayer {
    let Some(statistics) = problem.observed.overall() else {
        return problem.transformed_layer(InputTransform::NONE);
    };
    let (middle, half_range) = middles(statistics.min(), statistics.max());
    let forms = [(None, statistics.absmax()), (Some(middle), half_range)];
    let candidates = forms.into_iter().flat_map(|(shift, half_range)| {
        let transform = move |scale| InputTransform { shift: shift.clone(), scale, hadamard: None };
        let scales = thresholds(&half_range).into_iter().map(move |tau| {
            Some(half_range.iter().map(|h| (h / tau).clamp(1.0, MAX_SCALE)).collect())
        });
        std::iter::once(None).chain(scales).map(transform)
    });
    problem.transformed_layer(best(problem, candidates))
}

/// Quantiles of the half ranges, without those that are zero or equal.
fn thresholds(half_range: &[f32]) -> Vec<f32> {
    let mut sorted: Vec<f32> = half_range.iter().copied().filter(|h| h.is_finite()).collect();
    sorted.sort_by(f32::total_cmp);
    let quantile = |i: usize| sorted.get(i * sorted.len().saturating_sub(1) / QUANTILES).copied();
    let mut quantiles: Vec<f32> = (0..QUANTILES).filter_map(quantile).collect();
    quantiles.retain(|&tau| tau > f32::MIN_POSITIVE);
    quantiles.dedup();
    quantiles
}

#[cfg(test)]
mod tests {
    use super::thresholds;

    #[test]
    fn thresholds_are_quantiles_that_can_be_divided_by() {
        let half_range: Vec<f32> = (0..=40_u8).map(f32::from).collect();
        let expected: Vec<f32> = (1..20_u8).map(|i| 2.0 * f32::from(i)).collect();
        assert_eq!(thresholds(&half_range), expected);
        assert_eq!(thresholds(&[3.0; 9]), [3.0]);
        assert!(thresholds(&[0.0; 9]).is_empty() && thresholds(&[]).is_empty());
    }
}
