use crate::common::{assert_close, devices};
use crate::fake_quantize_tokens::{FACTORS, GOLDEN, GOLDEN_CLIP, tokens};
use crate::fake_quantize_weight::{SHAPES, read, vector};
use crate::fake_quantize_weight_backward::GOLDEN_GRAD;
use crate::{floats, matrix, run, values, words};
use qvgen::kernels::fake_quantize_tokens_backward::{
    FakeQuantizeTokensBackward, Params, reference,
};
use qvgen::kernels::linear_grid;
use qvgen::kernels::{FakeQuantTokens, GRID_WIDTH, Kernel, fake_quantize_tokens_backward};
use qvgen::quant::{Bits, Grid, Scheme};

/// Runs shader and twin on `m` tokens of `k`, and compares what they return.
fn compare(kernel: FakeQuantizeTokensBackward, m: usize, k: usize) {
    let x = tokens(m, k, kernel.bits, kernel.scheme);
    let grad = values(m * k, 51);
    let params = Params { m: m as u32, k: k as u32 };
    let inputs = [words(&x), words(&FACTORS), words(&grad)];
    let actual = run(kernel, &inputs, &[m * k, 2 * m], params, linear_grid(m));
    let expected = reference(kernel, &x, &FACTORS, &grad, params);
    let what = format!("{kernel:?} {params:?}");
    // Sums of k terms in another order reach the extremes and the factors.
    let slack = 1e-6 + 2e-7 * k as f32;
    assert_close(&format!("{what} d_x"), floats(&actual[0]), &expected[0], 1e-5, slack);
    assert_close(&format!("{what} d_factors"), floats(&actual[1]), &expected[1], 1e-5, slack);
}

#[test]
fn fake_quantize_tokens_backward_matches_its_twin() {
    for kernel in FakeQuantizeTokensBackward::all() {
        for (m, k) in SHAPES {
            compare(kernel, m, k);
        }
    }
}

#[test]
fn fake_quantize_tokens_backward_reaches_the_last_token() {
    let (bits, scheme) = (Bits::B4, Scheme::Asymmetric);
    compare(FakeQuantizeTokensBackward { bits, scheme }, GRID_WIDTH as usize + 3, 33);
}

#[test]
fn fake_quantize_tokens_backward_reproduces_the_golden_gradients() {
    let golden = [
        (
            Bits::B4,
            [0.208_458, 0.022_700],
            Some([-0.871_853, -1.0, 0.5, 0.871_853, -0.5, 0.25, -2.0, 1.0]),
        ),
        (Bits::B3, [0.068_809, -0.047_743], None),
    ];
    for (bits, d_clips, d_x) in golden {
        let scheme = Scheme::AsymmetricClamped;
        let spec = FakeQuantTokens { bits, scheme, clip_ratio: 0.95 };
        for (name, device) in devices() {
            let gradients = fake_quantize_tokens_backward(
                matrix(&GOLDEN, 8, &device),
                vector(&[GOLDEN_CLIP; 2], &device),
                matrix(&GOLDEN_GRAD, 8, &device),
                spec,
            );
            let what = format!("{bits} bits on {name}");
            assert_close(&what, &read(gradients.clips), &d_clips, 0.0, 3e-6);
            if let Some(expected) = d_x {
                assert_close(&what, &read(gradients.x)[..8], &expected, 0.0, 3e-6);
            }
        }
    }
}

/// Scale of a token, in f64.
fn scale(scheme: Scheme, bits: Bits, x: &[f64], factors: [f64; 2]) -> f64 {
    let most = factors[0] * x.iter().copied().fold(f64::MIN, f64::max);
    let least = factors[1] * x.iter().copied().fold(f64::MAX, f64::min);
    let top = f64::from(bits.max_code());
    match scheme {
        Scheme::Symmetric => most.abs().max(least.abs()) / ((top - 1.0) / 2.0),
        Scheme::Asymmetric => (most.max(0.0) - least.min(0.0)) / top,
        _ => (most - least) / top,
    }
}

/// `Σ G · scale · (code − zero_point)` of a token in f64, where rounding has been replaced by
/// adding what it added at `base`.
struct StraightThrough<'a> {
    scheme: Scheme,
    bits: Bits,
    base: &'a [f64],
    grad: &'a [f32],
    zero_point: f64,
}

impl StraightThrough<'_> {
    fn value(&self, x: &[f64], factors: [f64; 2]) -> f64 {
        let at = scale(self.scheme, self.bits, self.base, FACTORS.map(f64::from));
        let s = scale(self.scheme, self.bits, x, factors);
        let low = if self.scheme == Scheme::Symmetric { 1.0 } else { 0.0 };
        let top = f64::from(self.bits.max_code());
        let term = |i: usize| {
            let residual = (self.base[i] / at).round_ties_even() - self.base[i] / at;
            let code = (self.base[i] / at).round_ties_even() + self.zero_point;
            let inside = (low..=top).contains(&code);
            let offset = code.clamp(low, top) - self.zero_point;
            let offset = if inside { x[i] / s + residual } else { offset };
            f64::from(self.grad[i]) * s * offset
        };
        (0..x.len()).map(term).sum()
    }
}

#[test]
fn gradients_are_the_slopes_of_the_straight_through_value() {
    // Tokens 0 to 2, whose extremes are single.
    let (m, k, h) = (3, 40, 1e-6);
    for kernel in FakeQuantizeTokensBackward::all() {
        let FakeQuantizeTokensBackward { bits, scheme } = kernel;
        let x = tokens(m, k, bits, scheme);
        let grad = values(m * k, 51);
        let params = Params { m: m as u32, k: k as u32 };
        let [d_x, d_factors] = reference(kernel, &x, &FACTORS, &grad, params);
        for token in 0..m {
            let span = token * k..(token + 1) * k;
            let (min, max) = qvgen::quant::range(&x[span.clone()]);
            let grid = Grid::from_range(scheme, bits, FACTORS[1] * min, FACTORS[0] * max);
            let base: Vec<f64> = x[span.clone()].iter().map(|&x| f64::from(x)).collect();
            let zero_point = f64::from(grid.zero_point);
            let of = StraightThrough {
                scheme,
                bits,
                base: &base,
                grad: &grad[span.clone()],
                zero_point,
            };
            let factors = FACTORS.map(f64::from);
            let slope_x = |i: usize| {
                let moved = |by: f64| {
                    let mut x = base.clone();
                    x[i] += by;
                    of.value(&x, factors)
                };
                ((moved(h) - moved(-h)) / (2.0 * h)) as f32
            };
            let slope_factor = |i: usize| {
                let moved = |by: f64| {
                    let mut factors = factors;
                    factors[i] += by;
                    of.value(&base, factors)
                };
                ((moved(h) - moved(-h)) / (2.0 * h)) as f32
            };
            let expected: Vec<f32> = (0..k).map(slope_x).collect();
            let what = format!("{kernel:?} token {token}");
            assert_close(&format!("{what} d_x"), &d_x[span], &expected, 1e-4, 1e-4);
            let expected = [0, 1].map(slope_factor);
            let actual = &d_factors[2 * token..2 * token + 2];
            assert_close(&format!("{what} d_factors"), actual, &expected, 1e-4, 1e-4);
        }
    }
}

#[test]
fn equal_extremes_share_the_gradient_and_widened_ends_get_none() {
    let spec = FakeQuantTokens::new(Bits::B3);
    // The upstream gradient reaches only values that stay; the range's gradient is what is left.
    let x = [2.0, 2.0, -1.0, 0.33, 1.0, 3.0, 0.5, 0.2];
    let grad = [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    for (name, device) in devices() {
        let clips = vector(&[30.0, 30.0], &device);
        let gradients = fake_quantize_tokens_backward(
            matrix(&x, 4, &device),
            clips,
            matrix(&grad, 4, &device),
            spec,
        );
        let d_x = read(gradients.x);
        let residual = |x: f32, scale: f32| (x / scale).round() - x / scale;
        // Scale (2 − (−1)) / 7, then (3 − 0) / 7 with the lower end widened to zero.
        let end = residual(0.33, 3.0 / 7.0) / 7.0;
        assert_close(name, &d_x[..4], &[end / 2.0, end / 2.0, -end, 1.0], 1e-5, 1e-6);
        let end = residual(0.2, 3.0 / 7.0) / 7.0;
        assert_close(name, &d_x[4..], &[0.0, end, 0.0, 1.0], 1e-5, 1e-6);
    }
}

#[test]
fn a_token_of_zeros_passes_its_gradient_and_one_that_is_not_finite_has_none() {
    let k = 5;
    for scheme in [Scheme::Symmetric, Scheme::Asymmetric, Scheme::AsymmetricClamped] {
        let mut x = values(3 * k, 52);
        x[..k].fill(0.0);
        x[k + 3] = f32::NAN;
        let grad = values(3 * k, 53);
        let spec = FakeQuantTokens { scheme, ..FakeQuantTokens::new(Bits::B4) };
        for (name, device) in devices() {
            let gradients = fake_quantize_tokens_backward(
                matrix(&x, k, &device),
                vector(&[1.0; 2], &device),
                matrix(&grad, k, &device),
                spec,
            );
            let d_x = read(gradients.x);
            let what = format!("{scheme:?} on {name}");
            assert_close(&what, &d_x[..k], &grad[..k], 0.0, 0.0);
            assert!(d_x[k..2 * k].iter().all(|d| d.is_nan()), "{what}: {d_x:?}");
            assert!(d_x[2 * k..].iter().all(|d| d.is_finite()), "{what}: {d_x:?}");
            assert!(read(gradients.clips).iter().all(|d| d.is_nan()), "{what}");
        }
    }
}
