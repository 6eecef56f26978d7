//! Activation functions, in forms whose intermediate values stay finite.
//!
//! One kernel where no gradients are asked for, otherwise the steps that gradients are known of.

use crate::kernels::{Activation, activate};
use burn::tensor::Tensor;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

/// Largest exponent whose exponential is finite in f32; beyond it both functions are zero anyway.
const EXPONENT_MAX: f64 = 88.0;

/// `x · sigmoid(x)`.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !x.is_autodiff() {
        return activate(x, Activation::Silu);
    }
    x.clone() / (x.neg().clamp_max(EXPONENT_MAX).exp() + 1.0)
}

/// The tanh form of GELU, `x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`.
///
/// Computed as `x · sigmoid(2u)` with the same `u`: equal, and some drivers' `tanh` is NaN for
/// large arguments.
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    const TWO_SQRT_2_OVER_PI: f64 = 2.0 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
    if !x.is_autodiff() {
        return activate(x, Activation::GeluTanh);
    }
    let square = x.clone() * x.clone();
    let exponent = x.clone() * (square * (-0.044_715 * TWO_SQRT_2_OVER_PI) - TWO_SQRT_2_OVER_PI);
    x / (exponent.clamp_max(EXPONENT_MAX).exp() + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn check(f: impl Fn(Tensor<1>) -> Tensor<1>, exact: impl Fn(f64) -> f64) {
        let x: Vec<f32> = vec![-1e4, -90.0, -5.5, -1.0, -1e-3, 0.0, 0.7, 2.0, 14.0, 1e4];
        for device in [Device::flex(), Device::flex().autodiff()] {
            let y = f(Tensor::from_floats(x.as_slice(), &device)).into_data();
            for (x, y) in x.iter().zip(y.try_to_vec::<f32>().expect("f32 values")) {
                let expected = exact(f64::from(*x));
                let error = (f64::from(y) - expected).abs();
                assert!(error <= 1e-6 * (1.0 + expected.abs()), "at {x}: {y}, expected {expected}");
            }
        }
    }

    #[test]
    fn silu_is_exact_from_minus_to_plus_ten_thousand() {
        check(silu, |x| x / (1.0 + (-x).exp()));
    }

    #[test]
    fn gelu_tanh_is_exact_from_minus_to_plus_ten_thousand() {
        let root = (2.0 / std::f64::consts::PI).sqrt();
        check(gelu_tanh, |x| 0.5 * x * (1.0 + (root * (x + 0.044_715 * x.powi(3))).tanh()));
    }
}
