use crate::common::{assert_close, devices};
use crate::{floats, matrix, run, values, words};
use qvgen::kernels::activate::{Activate, Params, reference};
use qvgen::kernels::{Activation, GRID_WIDTH, Kernel, activate, linear_grid};

/// From far below zero to far above, all that matters in between.
fn inputs(len: usize) -> Vec<f32> {
    let spread = [0.01, 1.0, 5.0, 30.0, 1e4];
    values(len, 7).iter().zip(spread.iter().cycle()).map(|(u, spread)| u * spread).collect()
}

#[test]
fn activate_matches_its_twin() {
    for kernel in Activate::all() {
        for len in [1, 63, 256, 3001] {
            let x = inputs(len);
            let grid = linear_grid(len.div_ceil(4 * kernel.workgroup_size() as usize));
            let y = run(kernel, &[words(&x)], &[len], Params { len: len as u32 }, grid);
            let expected = reference(kernel.activation, &x);
            assert_close(&format!("{kernel:?} {len}"), floats(&y[0]), &expected, 1e-5, 1e-7);
        }
    }
}

#[test]
fn activate_reaches_the_last_element() {
    let kernel = Activate { activation: Activation::Silu };
    let per_workgroup = 4 * kernel.workgroup_size() as usize;
    let len = GRID_WIDTH as usize * per_workgroup + 1030;
    let x = values(len, 7);
    let grid = linear_grid(len.div_ceil(per_workgroup));
    let y = run(kernel, &[words(&x)], &[len], Params { len: len as u32 }, grid);
    let expected = reference(kernel.activation, &x[len - 1100..]);
    assert_close("y", &floats(&y[0])[len - 1100..], &expected, 1e-5, 1e-7);
}

#[test]
fn activations_are_their_formulas_on_all_devices() {
    let x = inputs(500);
    let root = (2.0 / std::f64::consts::PI).sqrt();
    let formula = |activation, x: f64| match activation {
        Activation::Identity => x,
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => 0.5 * x * (1.0 + (root * (x + 0.044_715 * x.powi(3))).tanh()),
    };
    for activation in Activation::ALL {
        let expected: Vec<f32> =
            x.iter().map(|&x| formula(activation, f64::from(x)) as f32).collect();
        for (name, device) in devices() {
            let y = activate(matrix(&x, 5, &device), activation);
            let y = y.into_data().try_to_vec::<f32>().unwrap();
            assert_close(&format!("{activation:?} on {name}"), &y, &expected, 2e-5, 1e-6);
        }
    }
}

#[test]
fn what_is_no_number_stays_none() {
    for (name, device) in devices() {
        for activation in Activation::ALL {
            let y = activate(matrix(&[f32::NAN, 1.0], 2, &device), activation);
            let y = y.into_data().try_to_vec::<f32>().unwrap();
            assert!(y[0].is_nan() && y[1].is_finite(), "{activation:?} on {name}: {y:?}");
        }
    }
}
