//! Scales that move the spread of channels from activations to weights.

use crate::quant::InputTransform;

/// Scales beyond these would only move the overflow.
const LIMITS: (f32, f32) = (1e-4, 1e4);

/// `x_max^alpha / w_max^(1 − alpha)` for each channel, one where either is zero.
///
/// The geometric mean is made 1: a common factor changes nothing but the size of the numbers.
pub(super) fn balanced(x_max: &[f32], w_max: &[f32], alpha: f32) -> Vec<f32> {
    let logarithm = |(&x, &w): (&f32, &f32)| {
        let is_usable = x > f32::MIN_POSITIVE && w > f32::MIN_POSITIVE && x.is_finite();
        is_usable.then(|| alpha * x.ln() - (1.0 - alpha) * w.ln())
    };
    let logarithms: Vec<Option<f32>> = x_max.iter().zip(w_max).map(logarithm).collect();
    let known: Vec<f32> = logarithms.iter().flatten().copied().collect();
    let mean = known.iter().sum::<f32>() / known.len().max(1) as f32;
    let scale = |logarithm: Option<f32>| {
        logarithm.map_or(1.0, |value| (value - mean).exp().clamp(LIMITS.0, LIMITS.1))
    };
    logarithms.into_iter().map(scale).collect()
}

/// `scale` alone.
pub(super) fn scaling(scale: Vec<f32>) -> InputTransform {
    InputTransform { scale: Some(scale), ..InputTransform::NONE }
}

/// Middle and half range of each channel, from its extremes.
pub(super) fn middles(min: &[f32], max: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let pairs = || min.iter().zip(max);
    let middle = pairs().map(|(min, max)| 0.5 * (min + max)).collect();
    (middle, pairs().map(|(min, max)| 0.5 * (max - min)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_balance_the_maxima_and_leave_dead_channels_alone() {
        let scale = balanced(&[16.0, 1.0, 0.0], &[1.0, 1.0, 1.0], 0.5);
        assert!((scale[0] / scale[1] - 4.0).abs() < 1e-5, "{scale:?}");
        assert!((scale[0] * scale[1] - 1.0).abs() < 1e-5, "{scale:?}");
        assert_eq!(scale[2], 1.0);
        // With alpha 1 the activations become equally large, with 0 the weights.
        let x = balanced(&[8.0, 2.0], &[3.0, 5.0], 1.0);
        assert!((8.0 / x[0] - 2.0 / x[1]).abs() < 1e-5);
        let w = balanced(&[8.0, 2.0], &[3.0, 5.0], 0.0);
        assert!((3.0 * w[0] - 5.0 * w[1]).abs() < 1e-5);
    }

    #[test]
    fn extreme_maxima_give_scales_that_can_be_divided_by() {
        let scale = balanced(&[1e30, 1e-30, f32::INFINITY], &[1.0; 3], 1.0);
        assert!(scale.iter().all(|s| (LIMITS.0..=LIMITS.1).contains(s)), "{scale:?}");
    }
}
