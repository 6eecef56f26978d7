use crate::common::{assert_close, devices};
use crate::epilogue::EpilogueValues;
use crate::matmul::epilogue_compared;
use crate::{floats, grid_words, half_words, run, runs, values, weight, words};
use burn::tensor::{Tensor, TensorData};
use qvgen::kernels::qmatmul_float::{Params, QMatmulFloat, reference};
use qvgen::kernels::{Element, Kernel, PackedTensor, Rows, qmatmul_float};
use qvgen::quant::Bits;

/// `(m, n, k)`: below a tile, tails on all sides, several tiles.
const SHAPES: [(usize, usize, usize); 4] = [(1, 1, 24), (5, 7, 36), (18, 67, 72), (140, 130, 200)];
/// The same for rows of any length.
const RAGGED: [(usize, usize, usize); 2] = [(5, 7, 33), (67, 66, 131)];

#[test]
fn qmatmul_float_matches_its_twin() {
    for kernel in QMatmulFloat::all().into_iter().filter(|&kernel| runs(kernel)) {
        if !epilogue_compared(kernel.form, kernel.epilogue) {
            continue;
        }
        let shapes = if kernel.rows == Rows::Ragged { &RAGGED[..] } else { &SHAPES };
        for &(m, n, k) in shapes {
            let w = weight(n, k, kernel.w_bits, kernel.grouped.then_some(32));
            let epilogue = EpilogueValues::new(m, n);
            let mut x = values(m * k, 3);
            let mut input = words(&x).to_vec();
            if kernel.element == Element::F16 {
                (input, x) = half_words(&x);
            }
            let params = Params {
                m: m as u32,
                n: n as u32,
                k: k as u32,
                group_size: w.group_size as u32,
                first_tile: 0,
            };
            let w_grid = grid_words(&w);
            let tensors = [&input[..], &w.codes, &w_grid];
            let inputs = [&tensors[..], &epilogue.inputs(kernel.epilogue)].concat();
            let actual = run(kernel, &inputs, &[m * n], params, kernel.form.grid(m, n));
            let rel = 4.0 * f32::EPSILON * (k as f32).sqrt();
            let product = reference(&x, &w, &epilogue.bias);
            let expected = epilogue.after(kernel.epilogue, product);
            let what = format!("{kernel:?} {params:?}");
            assert_close(&what, floats(&actual[0]), &expected, rel, 2e-5);
        }
    }
}

#[test]
fn qmatmul_float_agrees_on_all_devices() {
    for bits in Bits::ALL {
        let w = weight(66, 72, bits, None);
        let [cpu, wgpu] = devices().map(|(_, device)| {
            let x = Tensor::<2>::from_data(TensorData::new(values(9 * 72, 3), [9, 72]), &device);
            let bias = Tensor::<1>::from_data(TensorData::new(values(66, 9), [66]), &device);
            let y = qmatmul_float(x, &PackedTensor::from_rows(&w, &device), bias);
            y.into_data().try_to_vec::<f32>().unwrap()
        });
        assert_close(&format!("{bits} bits"), &wgpu, &cpu, 1e-5, 2e-5);
    }
}
