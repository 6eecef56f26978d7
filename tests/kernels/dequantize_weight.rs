use crate::common::{assert_close, devices};
use crate::{floats, grid_words, run, weight};
use qvgen::kernels::dequantize_weight::{DequantizeWeight, Params, dequantize_weight};
use qvgen::kernels::{Kernel, PackedTensor, linear_grid};

/// `(n, k, group_size)`: one row, ragged rows, groups, several workgroups with a tail.
const SHAPES: [(usize, usize, Option<usize>); 4] =
    [(1, 24, None), (5, 72, None), (7, 96, Some(32)), (33, 200, Some(64))];

#[test]
fn dequantize_weight_matches_its_twin() {
    for kernel in DequantizeWeight::all() {
        for (n, k, group_size) in SHAPES {
            let w = weight(n, k, kernel.bits, group_size);
            let params = Params { n: n as u32, k: k as u32, group_size: w.group_size as u32 };
            let actual = run(
                kernel,
                &[&w.codes, &grid_words(&w)],
                &[n * k],
                params,
                linear_grid((n * k).div_ceil(kernel.workgroup_size() as usize)),
            );
            let what = format!("{kernel:?} {params:?}");
            assert_close(&what, floats(&actual[0]), &w.values(), 1e-6, 1e-6);
        }
    }
}

#[test]
fn dequantize_weight_agrees_on_all_devices() {
    for kernel in DequantizeWeight::all() {
        let w = weight(5, 72, kernel.bits, Some(32));
        for (name, device) in devices() {
            let packed = PackedTensor::from_rows(&w, &device);
            assert_eq!(packed.to_rows(), w, "{name}: upload and download");
            let actual = dequantize_weight(&packed).into_data().try_to_vec::<f32>().unwrap();
            assert_close(&format!("{kernel:?} on {name}"), &actual, &w.values(), 1e-6, 1e-6);
        }
    }
}
