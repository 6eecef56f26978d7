use crate::common::{assert_close, devices};
use crate::{floats, matrix, run, values, words};
use burn::tensor::{Device, Tensor};
use qvgen::kernels::fake_quantize_weight::{FakeQuantizeWeight, Params, reference};
use qvgen::kernels::{GRID_WIDTH, Kernel, fake_quantize_weight, linear_grid};
use qvgen::quant::{Bits, Calibration, Grid, Scheme, WeightSpec, calibrate, quantize_weight};

/// One value, ragged rows and workgroups, rows longer than a workgroup.
pub(crate) const SHAPES: [(usize, usize); 4] = [(1, 1), (3, 33), (7, 72), (2, 2100)];

/// The golden weight rows of the released QVGen formulas.
pub(crate) const GOLDEN: [f32; 16] = [
    -0.12, 0.05, 0.031, -0.044, 0.2, 0.013, -0.09, 0.075, //
    0.4, -0.02, 0.01, 0.03, -0.05, 0.06, -0.07, 0.08,
];

/// A weight with a grid per row: some codes lie beyond the grid, and no value near a tie, where a
/// division rounded differently changes the code.
pub(crate) struct Case {
    pub(crate) w: Vec<f32>,
    pub(crate) scale: Vec<f32>,
    pub(crate) zero_point: Vec<f32>,
}

pub(crate) fn case(n: usize, k: usize, bits: Bits, scheme: Scheme) -> Case {
    let top = bits.max_code() as f32;
    let scale: Vec<f32> = values(n, 21).iter().map(|v| 0.05 + 0.03 * v).collect();
    let zero_point: Vec<f32> = match scheme {
        Scheme::Symmetric => vec![(1_u32 << (bits.get() - 1)) as f32; n],
        _ => values(n, 22).iter().map(|v| top * (0.5 + 0.3 * v)).collect(),
    };
    let positions = values(n * k, 23).into_iter().zip(values(n * k, 24));
    let w = positions.enumerate().map(|(i, (code, off))| {
        let position = ((0.5 + 0.7 * code) * top).round() + 0.4 * off;
        (position - zero_point[i / k]) * scale[i / k]
    });
    Case { w: w.collect(), scale, zero_point }
}

/// Each row of `values` on `device`.
pub(crate) fn vector(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_floats(values, device)
}

/// The values of a tensor.
pub(crate) fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec::<f32>().unwrap()
}

#[test]
fn fake_quantize_weight_matches_its_twin() {
    for kernel in FakeQuantizeWeight::all() {
        for (n, k) in SHAPES {
            let Case { w, scale, zero_point } = case(n, k, kernel.bits, kernel.scheme);
            let params = Params { n: n as u32, k: k as u32 };
            let inputs = [words(&w), words(&scale), words(&zero_point)];
            let grid = linear_grid((n * k).div_ceil(kernel.workgroup_size() as usize));
            let actual = run(kernel, &inputs, &[n * k], params, grid);
            let expected = reference(kernel, &w, &scale, &zero_point, params);
            let what = format!("{kernel:?} {params:?}");
            assert_close(&what, floats(&actual[0]), &expected, 1e-6, 1e-7);
        }
    }
}

#[test]
fn fake_quantize_weight_reaches_the_last_element() {
    let kernel = FakeQuantizeWeight { bits: Bits::B4, scheme: Scheme::AsymmetricReal };
    let (n, k) = (2, GRID_WIDTH as usize * kernel.workgroup_size() as usize / 2 + 100);
    let Case { w, scale, zero_point } = case(n, k, kernel.bits, kernel.scheme);
    let params = Params { n: n as u32, k: k as u32 };
    let inputs = [words(&w), words(&scale), words(&zero_point)];
    let grid = linear_grid((n * k).div_ceil(kernel.workgroup_size() as usize));
    assert!(grid[1] > 1, "{grid:?}");
    let actual = run(kernel, &inputs, &[n * k], params, grid);
    // Also the twin's way of many threads.
    let expected = reference(kernel, &w, &scale, &zero_point, params);
    assert_close("y", floats(&actual[0]), &expected, 1e-6, 1e-7);
}

#[test]
fn fake_quantize_weight_gives_the_values_that_the_packed_weight_stands_for() {
    let (n, k) = (5, 72);
    for kernel in FakeQuantizeWeight::all() {
        let FakeQuantizeWeight { bits, scheme } = kernel;
        let w = case(n, k, bits, scheme).w;
        for calibration in [Calibration::MinMax, Calibration::Mse] {
            let spec = WeightSpec { bits, scheme, group_size: None, calibration };
            let packed = quantize_weight(&w, k, spec);
            let scale: Vec<f32> = packed.grids.iter().map(|grid| grid.scale).collect();
            let zero_point: Vec<f32> = packed.grids.iter().map(|grid| grid.zero_point).collect();
            for (name, device) in devices() {
                let actual = read(fake_quantize_weight(
                    matrix(&w, k, &device),
                    vector(&scale, &device),
                    vector(&zero_point, &device),
                    bits,
                    scheme,
                ));
                let what = format!("{kernel:?} {calibration:?} on {name}");
                assert_close(&what, &actual, &packed.values(), 0.0, 0.0);
            }
        }
    }
}

#[test]
fn fake_quantize_weight_ignores_the_zero_point_of_a_symmetric_grid() {
    for (name, device) in devices() {
        let w = matrix(&[0.1, -0.33, 0.2, 9.0], 2, &device);
        let scale = vector(&[0.1, 0.2], &device);
        let zero_point = vector(&[-3.0, 77.0], &device);
        let y = fake_quantize_weight(w, scale, zero_point, Bits::B3, Scheme::Symmetric);
        assert_close(name, &read(y), &[0.1, -0.3, 0.2, 0.6], 1e-6, 0.0);
    }
}

#[test]
fn fake_quantize_weight_reproduces_the_golden_row() {
    let bits = Bits::B4;
    let scheme = Scheme::AsymmetricReal;
    let grid = calibrate(Calibration::Mse, scheme, bits, &GOLDEN[..8]);
    let expected = [-0.1188, 0.05016, 0.02904, -0.03432, 0.198, 0.00792, -0.09768, 0.07128];
    for (name, device) in devices() {
        let w = matrix(&GOLDEN[..8], 8, &device);
        let [scale, zero] = [grid.scale, grid.zero_point].map(|value| vector(&[value], &device));
        let y = fake_quantize_weight(w, scale, zero, bits, scheme);
        assert_close(name, &read(y), &expected, 1e-5, 1e-6);
    }
}

#[test]
fn fake_quantize_weight_keeps_nan_and_cuts_infinity() {
    let (bits, scheme) = (Bits::B4, Scheme::AsymmetricReal);
    let grid = Grid { scale: 0.5, zero_point: 3.25 };
    for (name, device) in devices() {
        let w = matrix(&[0.5, f32::NAN, f32::INFINITY, -1e30], 4, &device);
        let [scale, zero] = [grid.scale, grid.zero_point].map(|value| vector(&[value], &device));
        let y = read(fake_quantize_weight(w, scale, zero, bits, scheme));
        assert!(y[1].is_nan(), "{name}: {y:?}");
        let expected = [4, 15, 0].map(|code| grid.value(code));
        assert_close(name, &[y[0], y[2], y[3]], &expected, 1e-6, 0.0);
    }
}

#[test]
#[should_panic(expected = "a learned grid is no Asymmetric")]
fn fake_quantize_weight_rejects_a_scheme_without_learned_parameters() {
    let device = Device::flex();
    let row = || vector(&[1.0], &device);
    fake_quantize_weight(matrix(&[1.0], 1, &device), row(), row(), Bits::B4, Scheme::Asymmetric);
}
