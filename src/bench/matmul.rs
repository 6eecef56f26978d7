//! The packed product of a linear layer: quantize the tokens, multiply, correct.

use super::{Clock, Repeats, Summary, measure};
use crate::kernels::qmatmul::reference;
use crate::kernels::{PackedTensor, qmatmul, quantize_tokens};
use crate::quant::{self, Bits, Calibration, Scheme, TokenRange, TokenSpec, WeightSpec};
use burn::tensor::{Device, Tensor, TensorData};
use serde::Serialize;

/// Largest difference from the twin that passes, relative to the largest result.
const TOLERANCE: f32 = 1e-4;

/// A layer and its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatmulCase {
    /// Width of weights and activations.
    pub bits: Bits,
    /// Tokens.
    pub tokens: usize,
    /// Rows of the weight.
    pub out_features: usize,
    /// Columns of the weight.
    pub in_features: usize,
}

/// A verified timing.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Measured {
    /// Seconds of quantizing the tokens and multiplying, on the wall clock.
    pub seconds: Summary,
    /// Integer operations per second at the median, two per product.
    pub operations_per_second: f64,
    /// Largest difference from the twin, relative to the largest result.
    pub error: f32,
}

/// Why there is no number.
#[derive(Debug, thiserror::Error)]
pub enum Unverified {
    /// The device computes something else than the twin.
    #[error("{case:?} differs from its twin by {error:e} of the largest result: not timed")]
    Differs {
        /// What was computed.
        case: MatmulCase,
        /// The difference.
        error: f32,
    },
    /// The device returned nothing.
    #[error("the device failed: {0}")]
    Device(String),
}

/// Verifies `case` on `device`, then times it.
///
/// # Errors
///
/// If the device fails or the result is not the twin's.
pub fn measure_matmul(
    case: MatmulCase,
    device: &Device,
    clock: &mut impl Clock,
    repeats: Repeats,
) -> Result<Measured, Unverified> {
    let MatmulCase { bits, tokens, out_features, in_features } = case;
    let wave = |len: usize, step: f32| (0..len).map(|i| (i as f32 * step).sin()).collect();
    let (x, w): (Vec<f32>, Vec<f32>) =
        (wave(tokens * in_features, 0.37), wave(out_features * in_features, 0.73));
    let weight_spec = WeightSpec {
        bits,
        scheme: Scheme::AsymmetricReal,
        group_size: None,
        calibration: Calibration::MinMax,
    };
    let spec = TokenSpec { bits, scheme: Scheme::Asymmetric, range: TokenRange::FULL };
    let packed = quant::quantize_weight(&w, in_features, weight_spec);
    let weight = PackedTensor::from_rows(&packed, device);
    let bias = Tensor::<1>::zeros([out_features], device);
    let data = TensorData::new(x, [tokens, in_features]);
    let x = Tensor::<2>::from_data(data, device);
    let product = || qmatmul(&quantize_tokens(x.clone(), spec), &weight, bias.clone());

    // The twin gets the device's own codes: a tie may round either way in the quantizer.
    let codes = quantize_tokens(x.clone(), spec).to_rows();
    let twin = reference(&codes, &packed, &vec![0.0; out_features]);
    let error = relative_difference(&read(product())?, &twin);
    let is_same = error <= TOLERANCE; // false for NaN
    if !is_same {
        return Err(Unverified::Differs { case, error });
    }
    let seconds = measure(clock, repeats, &mut || read(product()).map(drop))?;
    let operations = 2.0 * (tokens * out_features * in_features) as f64;
    Ok(Measured { seconds, operations_per_second: operations / seconds.median, error })
}

fn read(y: Tensor<2>) -> Result<Vec<f32>, Unverified> {
    let failed = |message: String| Unverified::Device(message);
    let data = y.try_into_data().map_err(|err| failed(format!("{err:?}")))?;
    data.try_to_vec().map_err(|err| failed(format!("{err:?}")))
}

/// The largest difference relative to the largest expected value; infinite if one is NaN.
fn relative_difference(actual: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(f32::MIN_POSITIVE, |most, value| most.max(value.abs()));
    let differences = actual.iter().zip(expected).map(|(a, e)| (a - e).abs());
    let worst = differences.fold(0.0, |most: f32, difference| {
        if difference.is_nan() { f32::INFINITY } else { most.max(difference) }
    });
    if actual.len() == expected.len() { worst / largest } else { f32::INFINITY }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::WallClock;

    #[test]
    fn the_comparison_rejects_a_wrong_value_a_nan_and_a_missing_one() {
        let expected = [1.0, -2.0];
        assert_eq!(relative_difference(&[1.0, -2.0], &expected), 0.0);
        for wrong in [&[1.0, -2.1][..], &[f32::NAN, -2.0], &[1.0]] {
            assert!(relative_difference(wrong, &expected) > TOLERANCE, "{wrong:?}");
        }
    }

    #[test]
    fn a_small_case_is_verified_and_timed_on_the_cpu() {
        let case = MatmulCase { bits: Bits::B3, tokens: 3, out_features: 5, in_features: 40 };
        let repeats = Repeats { warm_up: 0, least: 2, most: 2, seconds: 0.0 };
        let mut clock = WallClock::default();
        let measured = measure_matmul(case, &Device::flex(), &mut clock, repeats).unwrap();
        assert_eq!(measured.seconds.count, 2);
        assert!(measured.operations_per_second > 0.0);
    }
}
