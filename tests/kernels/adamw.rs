use crate::common::{assert_close, devices};
use crate::fake_quantize_weight::{read, vector};
use crate::{floats, run, values, words};
use qvgen::kernels::adamw::{AdamW, reference};
use qvgen::kernels::{AdamWStep, GRID_WIDTH, Kernel, adamw, linear_grid};

fn step(step: u64) -> AdamWStep {
    AdamWStep {
        step,
        learning_rate: 0.02,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.1,
        grad_scale: 0.5,
    }
}

/// Runs shader and twin on `len` elements, and compares what they return.
fn compare(len: usize) {
    let [mut param, grad, mut m] = [1, 2, 3].map(|seed| values(len, seed));
    let mut v: Vec<f32> = values(len, 4).iter().map(|v| v * v).collect();
    let params = step(3).params(len);
    let inputs = [words(&param), words(&grad), words(&m), words(&v)];
    let grid = linear_grid(len.div_ceil(AdamW.workgroup_size() as usize));
    let actual = run(AdamW, &inputs, &[len; 3], params, grid);
    reference(&mut param, &grad, &mut m, &mut v, params);
    for (name, actual, expected) in
        [("param", &actual[0], &param), ("m", &actual[1], &m), ("v", &actual[2], &v)]
    {
        assert_close(&format!("{name} of {len}"), floats(actual), expected, 1e-5, 1e-6);
    }
}

#[test]
fn adamw_matches_its_twin() {
    for len in [1, 255, 256, 1000] {
        compare(len);
    }
}

#[test]
fn adamw_reaches_the_last_element() {
    // Also the twin's way of many threads.
    compare((GRID_WIDTH * AdamW.workgroup_size()) as usize + 300);
}

/// The formulas of the paper in f64, with corrected moments.
fn precise(param: &mut f64, m: &mut f64, v: &mut f64, grad: f64, at: AdamWStep) {
    let g = at.grad_scale * grad;
    *m = at.beta1 * *m + (1.0 - at.beta1) * g;
    *v = at.beta2 * *v + (1.0 - at.beta2) * g * g;
    let t = at.step as i32;
    let (m, v) = (*m / (1.0 - at.beta1.powi(t)), *v / (1.0 - at.beta2.powi(t)));
    *param -= at.learning_rate * at.weight_decay * *param;
    *param -= at.learning_rate * m / (v.sqrt() + at.eps);
}

#[test]
fn adamw_follows_the_formulas_in_double_precision_for_several_steps() {
    let len = 37;
    let start = values(len, 1);
    for (name, device) in devices() {
        let mut exact: Vec<(f64, f64, f64)> =
            start.iter().map(|&param| (f64::from(param), 0.0, 0.0)).collect();
        let zeros = vec![0.0; len];
        let mut param = vector(&start, &device);
        let (mut m, mut v) = (vector(&zeros, &device), vector(&zeros, &device));
        for t in 1..=8 {
            let grad = values(len, 10 + t as u32);
            for ((param, m, v), &grad) in exact.iter_mut().zip(&grad) {
                precise(param, m, v, f64::from(grad), step(t));
            }
            (param, m, v) = adamw(param, vector(&grad, &device), m, v, step(t));
        }
        let expected: Vec<f32> = exact.iter().map(|(param, ..)| *param as f32).collect();
        assert_close(name, &read(param), &expected, 2e-6, 2e-6);
        let expected: Vec<f32> = exact.iter().map(|(_, m, _)| *m as f32).collect();
        assert_close(name, &read(m), &expected, 1e-5, 1e-7);
        let expected: Vec<f32> = exact.iter().map(|(.., v)| *v as f32).collect();
        assert_close(name, &read(v), &expected, 1e-5, 1e-9);
    }
}

#[test]
fn adamw_leaves_tensors_that_others_hold_as_they_are() {
    for (name, device) in devices() {
        let (param, moment) = (vector(&[1.0, -2.0], &device), vector(&[0.0, 0.0], &device));
        let grad = vector(&[0.5, 0.25], &device);
        let (new, m, _) = adamw(param.clone(), grad, moment.clone(), moment.clone(), step(1));
        assert_close(name, &read(param), &[1.0, -2.0], 0.0, 0.0);
        assert_close(name, &read(moment), &[0.0, 0.0], 0.0, 0.0);
        // The first step is as long as the learning rate, after the decay.
        assert_close(name, &read(new), &[0.998 - 0.02, -1.996 - 0.02], 1e-5, 0.0);
        assert_close(name, &read(m), &[0.025, 0.0125], 1e-6, 0.0);
    }
}

#[test]
fn adamw_shows_a_gradient_that_is_not_finite() {
    for (name, device) in devices() {
        let zeros = || vector(&[0.0, 0.0], &device);
        let grad = vector(&[f32::NAN, 1.0], &device);
        let (param, m, v) = adamw(zeros(), grad, zeros(), zeros(), step(1));
        for values in [read(param), read(m), read(v)] {
            assert!(values[0].is_nan() && values[1].is_finite(), "{name}: {values:?}");
        }
    }
}
