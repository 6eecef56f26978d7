use crate::common::{Reference, devices, fixture, wgpu_device};
use crate::{matrix, run, values, words};
use burn::tensor::{DType, Device, Tensor, TensorData};
use qvgen::kernels::quantize_weight::{Params, QuantizeWeight, quantize_weight_within};
use qvgen::kernels::{GRID_WORDS, Kernel, linear_grid, quantize_weight};
use qvgen::quant::{self, Bits, Calibration, Grid, PackedRows, Scheme, WeightSpec, mse_error};
use qvgen::quant::{pack_rows, unpack_rows, words_per_row};

/// `(n, k, group_size)`: one ragged block, several, groups, and more blocks than a workgroup has
/// invocations.
const SHAPES: [(usize, usize, Option<usize>); 4] =
    [(1, 24, None), (5, 72, None), (3, 100, Some(32)), (2, 2100, None)];

/// Every form of the search for the scheme of the method, and one width for the others: each of
/// these shaders takes a software renderer a second to compile.
fn compared(kernel: &QuantizeWeight) -> bool {
    let QuantizeWeight { bits, scheme, calibration } = *kernel;
    calibration == Calibration::MinMax || scheme == Scheme::AsymmetricReal || bits == Bits::B2
}

/// The property the search promises: an error no worse than the twin's, and codes, sums and
/// padding that belong to the grid it chose. Two candidates of nearly equal error may swap.
#[test]
fn quantize_weight_is_as_good_as_its_twin() {
    for kernel in QuantizeWeight::all().into_iter().filter(compared) {
        let QuantizeWeight { bits, scheme, calibration } = kernel;
        for (n, k, group_size) in SHAPES {
            let w = values(n * k, 7);
            let spec = WeightSpec { bits, scheme, group_size, calibration };
            let expected = quant::quantize_weight(&w, k, spec);
            let groups = expected.groups();
            let params =
                Params { n: n as u32, k: k as u32, group_size: expected.group_size as u32 };
            let lens = [n * words_per_row(bits, k), n * groups * GRID_WORDS];
            let outputs = run(kernel, &[words(&w)], &lens, params, linear_grid(n * groups));
            let what = format!("{kernel:?} {params:?}");

            let codes = unpack_rows(bits, &outputs[0], k);
            assert_eq!(pack_rows(bits, &codes, k), outputs[0], "{what}: padding is not zero");
            for (at, words) in outputs[1].chunks(GRID_WORDS).enumerate() {
                let grid =
                    Grid { scale: f32::from_bits(words[0]), zero_point: f32::from_bits(words[1]) };
                let start = at / groups * k + at % groups * expected.group_size;
                let end = (start + expected.group_size).min((at / groups + 1) * k);
                let group = &w[start..end];
                let error = |grid| mse_error(grid, scheme, bits, group);
                let (actual, best) = (error(grid), error(expected.grids[at]));
                assert!(actual <= best * 1.001 + 1e-9, "{what}: error {actual}, twin {best}");
                let sum: u32 = codes[start..end].iter().sum();
                assert_eq!(words[2], sum, "{what}: code sum of group {at}");
                for (i, &value) in group.iter().enumerate() {
                    let code = grid.code(scheme, bits, value);
                    assert!(code.abs_diff(codes[start + i]) <= 1, "{what}: code {i} of {at}");
                    let off = (grid.value(codes[start + i]) - value).abs();
                    let nearest = (grid.value(code) - value).abs();
                    assert!(off <= nearest + 1e-5 * grid.scale.max(1e-6), "{what}: code {i}");
                }
            }
        }
    }
}

#[test]
fn quantize_weight_reproduces_the_reference_groups_on_all_devices() {
    let reference = Reference::open(&fixture("quant"));
    let x = reference.f32("quant.weights.x");
    let [_, k] = reference.shape("quant.weights.x")[..] else { panic!("a matrix") };
    for (key, scheme) in [("sym", Scheme::Symmetric), ("asym", Scheme::Asymmetric)] {
        let get = |what: &str| reference.i64(&format!("quant_group32.weights.{key}.b4.{what}"));
        let (q, near) = (get("q"), get("near"));
        let shape = reference.shape(&format!("quant_group32.weights.{key}.b4.q"));
        assert_eq!(shape[1], k);
        let offset = if scheme == Scheme::Symmetric { 8 } else { 0 };
        for (name, device) in devices() {
            let spec = WeightSpec {
                bits: Bits::B4,
                scheme,
                group_size: Some(32),
                calibration: Calibration::MinMax,
            };
            let w = TensorData::new(x[..shape[0] * k].to_vec(), [shape[0], k]);
            let packed = quantize_weight(Tensor::<2>::from_data(w, &device), spec).to_rows();
            let codes = unpack_rows(Bits::B4, &packed.codes, k);
            for i in (0..q.len()).filter(|&i| near[i] == 0) {
                assert_eq!(i64::from(codes[i]) - offset, q[i], "{key} on {name}: element {i}");
            }
        }
    }
}

/// Values whose sums of twelve are nearly Gaussian, with standard deviation one.
fn bell(len: usize) -> Vec<f32> {
    values(12 * len, 21).chunks(12).map(|chunk| 0.5 * chunk.iter().sum::<f32>()).collect()
}

#[test]
fn quantize_weight_is_as_good_as_its_twin_when_one_value_rules_the_error() {
    let mut w = bell(4096);
    w[1234] = 100.0;
    for scheme in Scheme::ALL {
        let (bits, calibration) = (Bits::B2, Calibration::Mse);
        let spec = WeightSpec { bits, scheme, group_size: None, calibration };
        let error = |rows: PackedRows| mse_error(rows.grids[0], scheme, bits, &w);
        let expected = error(quant::quantize_weight(&w, 4096, spec));
        for (name, device) in devices() {
            let actual = error(quantize_weight(matrix(&w, 4096, &device), spec).to_rows());
            let what = format!("{scheme:?} on {name}: error {actual}, twin {expected}");
            assert!(actual <= expected * 1.001, "{what}");
        }
    }
}

#[test]
fn a_weight_split_over_dispatches_has_the_codes_of_the_whole() {
    let (rows, k) = (11, 72);
    let w = values(rows * k, 7);
    for (name, device) in devices() {
        for group_size in [None, Some(32)] {
            let spec = WeightSpec {
                bits: Bits::B3,
                scheme: Scheme::AsymmetricReal,
                group_size,
                calibration: Calibration::Mse,
            };
            let quantized =
                |most| quantize_weight_within(matrix(&w, k, &device), spec, most).to_rows();
            let whole = quantized(usize::MAX);
            for most in [1, 3 * k, 11 * k] {
                assert_eq!(quantized(most), whole, "{name}, at most {most} values");
            }
        }
    }
}

#[test]
#[should_panic(expected = "group size 0")]
fn quantize_weight_refuses_empty_groups() {
    let spec = WeightSpec {
        bits: Bits::B4,
        scheme: Scheme::Asymmetric,
        group_size: Some(0),
        calibration: Calibration::MinMax,
    };
    quantize_weight(matrix(&[0.0; 32], 32, &Device::flex()), spec);
}

#[test]
#[should_panic(expected = "element type of a kernel's input")]
fn a_kernel_refuses_another_element_type() {
    let spec = WeightSpec {
        bits: Bits::B4,
        scheme: Scheme::Asymmetric,
        group_size: None,
        calibration: Calibration::MinMax,
    };
    let w = matrix(&[0.0; 32], 32, &wgpu_device()).cast(DType::F16);
    quantize_weight(w, spec);
}
