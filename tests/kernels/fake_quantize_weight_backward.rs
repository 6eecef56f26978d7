use crate::common::{Reference, assert_close, devices, fixture};
use crate::fake_quantize_weight::{Case, GOLDEN, SHAPES, case, read, vector};
use crate::{floats, matrix, run, values, words};
use qvgen::kernels::fake_quantize_weight_backward::{
    FakeQuantizeWeightBackward, Params, gradient_scale, reference,
};
use qvgen::kernels::{GRID_WIDTH, Kernel, fake_quantize_weight_backward, linear_grid};
use qvgen::quant::{Bits, Calibration, Scheme, calibrate};

/// The upstream gradient of the golden vectors.
pub(crate) const GOLDEN_GRAD: [f32; 16] =
    [1.0, -1.0, 0.5, 2.0, -0.5, 0.25, -2.0, 1.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8];

/// Runs shader and twin on `n` rows of `k`, and compares what they return.
fn compare(kernel: FakeQuantizeWeightBackward, n: usize, k: usize) {
    let Case { w, scale, zero_point } = case(n, k, kernel.bits, kernel.scheme);
    let grad = values(n * k, 31);
    let params = Params { n: n as u32, k: k as u32, gradient_scale: 0.3 };
    let inputs = [words(&w), words(&scale), words(&zero_point), words(&grad)];
    let actual = run(kernel, &inputs, &[n * k, n, n], params, linear_grid(n));
    let expected = reference(kernel, &w, &scale, &zero_point, &grad, params);
    let what = format!("{kernel:?} {params:?}");
    assert_close(&format!("{what} d_w"), floats(&actual[0]), &expected[0], 0.0, 0.0);
    // Sums of k terms up to the largest code, in another order.
    let slack = 2e-7 * k as f32 * kernel.bits.max_code() as f32;
    assert_close(&format!("{what} d_scale"), floats(&actual[1]), &expected[1], 1e-5, slack);
    assert_close(&format!("{what} d_zero"), floats(&actual[2]), &expected[2], 1e-5, slack);
}

#[test]
fn fake_quantize_weight_backward_matches_its_twin() {
    for kernel in FakeQuantizeWeightBackward::all() {
        for (n, k) in SHAPES {
            compare(kernel, n, k);
        }
    }
}

#[test]
fn fake_quantize_weight_backward_reaches_the_last_row() {
    let (bits, scheme) = (Bits::B4, Scheme::AsymmetricReal);
    compare(FakeQuantizeWeightBackward { bits, scheme }, GRID_WIDTH as usize + 3, 3);
}

/// The fixtures give scale and integer zero point; their symmetric codes are centered on zero.
#[test]
fn fake_quantize_weight_backward_reproduces_the_reference_gradients_on_all_devices() {
    let reference = Reference::open(&fixture("quant"));
    for (key, scheme) in [("sym", Scheme::Symmetric), ("asym", Scheme::AsymmetricReal)] {
        let stored = |bits: &Bits| reference.has(&format!("ste.{key}.b{bits}.x"));
        let widths: Vec<Bits> = Bits::ALL.into_iter().filter(stored).collect();
        assert!(widths.len() >= 4, "only {widths:?}");
        for bits in widths {
            let get = |what: &str| reference.f32(&format!("ste.{key}.b{bits}.{what}"));
            let k = reference.shape(&format!("ste.{key}.b{bits}.x"))[1];
            for (name, device) in devices() {
                let gradients = fake_quantize_weight_backward(
                    matrix(&get("x"), k, &device),
                    vector(&get("scale"), &device),
                    vector(&get("zero"), &device),
                    matrix(&get("grad_y"), k, &device),
                    bits,
                    scheme,
                    false,
                );
                let what = |part: &str| format!("{key} b{bits} on {name}: {part}");
                let d_w = read(gradients.weight);
                assert_close(&what("d_w"), &d_w, &get("grad_x"), 0.0, 0.0);
                let d_scale = read(gradients.scale);
                assert_close(&what("d_scale"), &d_scale, &get("grad_scale"), 2e-5, 1e-4);
                let d_zero = read(gradients.zero_point);
                let expected = match scheme {
                    Scheme::Symmetric => vec![0.0; d_zero.len()],
                    _ => get("grad_zero"),
                };
                assert_close(&what("d_zero"), &d_zero, &expected, 2e-5, 1e-6);
            }
        }
    }
}

#[test]
fn fake_quantize_weight_backward_reproduces_the_golden_gradients() {
    let expected = [
        (Bits::B4, 0.091_287_1, [0.133_084, 0.036_515]),
        (Bits::B3, 0.133_630_6, [-0.091_975, -0.068_363]),
    ];
    let scheme = Scheme::AsymmetricReal;
    for (bits, factor, d_scale) in expected {
        assert_close("factor", &[gradient_scale(8, bits, scheme)], &[factor], 1e-6, 0.0);
        let grids =
            [&GOLDEN[..8], &GOLDEN[8..]].map(|row| calibrate(Calibration::Mse, scheme, bits, row));
        for (name, device) in devices() {
            let gradients = fake_quantize_weight_backward(
                matrix(&GOLDEN, 8, &device),
                vector(&grids.map(|grid| grid.scale), &device),
                vector(&grids.map(|grid| grid.zero_point), &device),
                matrix(&GOLDEN_GRAD, 8, &device),
                bits,
                scheme,
                true,
            );
            assert_close(name, &read(gradients.scale), &d_scale, 0.0, 2e-6);
            assert_close(name, &read(gradients.zero_point), &[0.0, 0.0], 0.0, 0.0);
            assert_close(name, &read(gradients.weight), &GOLDEN_GRAD, 0.0, 0.0);
        }
    }
}

/// `Σ G · scale · (code − zero_point)` in f64, where rounding has been replaced by adding what it
/// added at the given point.
#[test]
fn gradients_are_the_slopes_of_the_straight_through_value() {
    let (n, k) = (4, 50);
    for scheme in [Scheme::Symmetric, Scheme::AsymmetricReal] {
        let bits = Bits::B3;
        let Case { w, scale, zero_point } = case(n, k, bits, scheme);
        let grad = values(n * k, 31);
        let kernel = FakeQuantizeWeightBackward { bits, scheme };
        let params = Params { n: n as u32, k: k as u32, gradient_scale: 1.0 };
        let [_, d_scale, d_zero] = reference(kernel, &w, &scale, &zero_point, &grad, params);
        let low = if scheme == Scheme::Symmetric { 1.0 } else { 0.0 };
        for row in 0..n {
            let at = (f64::from(scale[row]), f64::from(zero_point[row]));
            let value = |s: f64, z: f64| -> f64 {
                let term = |i: usize| {
                    let w = f64::from(w[i]);
                    let position = w / at.0 + at.1;
                    let rounded = position.round_ties_even();
                    let top = f64::from(bits.max_code());
                    let code = if (low..=top).contains(&rounded) {
                        w / s + z + (rounded - position)
                    } else {
                        rounded.clamp(low, top)
                    };
                    f64::from(grad[i]) * s * (code - z)
                };
                (row * k..(row + 1) * k).map(term).sum()
            };
            let h = 1e-6;
            let slope_s = (value(at.0 + h, at.1) - value(at.0 - h, at.1)) / (2.0 * h);
            assert_close("d_scale", &d_scale[row..=row], &[slope_s as f32], 1e-4, 1e-4);
            let slope_z = (value(at.0, at.1 + h) - value(at.0, at.1 - h)) / (2.0 * h);
            let expected = if scheme == Scheme::Symmetric { 0.0 } else { slope_z as f32 };
            assert_close("d_zero", &d_zero[row..=row], &[expected], 1e-4, 1e-4);
        }
    }
}
