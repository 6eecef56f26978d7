use crate::common::{assert_close, devices};
use crate::epilogue::EpilogueValues;
use crate::{floats, grid_words, half_words, run, runs, values, weight, words};
use burn::tensor::{Tensor, TensorData};
use qvgen::kernels::qmatmul_float::{Params, QMatmulFloat, TILE, reference};
use qvgen::kernels::{EpilogueKind, Kernel, PackedTensor, Tier, qmatmul_float};
use qvgen::quant::Bits;

/// `(m, n, k, group_size)`: below a tile, one more than a tile, several tiles with tails, groups.
const SHAPES: [(usize, usize, usize, Option<usize>); 4] =
    [(1, 1, 24, None), (5, 7, 33, None), (65, 66, 72, Some(32)), (70, 130, 200, Some(64))];

/// Every width with a bias, and every form of a width whose codes straddle words: compiling takes
/// longer than running.
fn compared(kernel: &QMatmulFloat) -> bool {
    let is_usual = kernel.epilogue == EpilogueKind::Bias && kernel.tier() == Tier::Core;
    kernel.w_bits == Bits::B3 || is_usual
}

#[test]
fn qmatmul_float_matches_its_twin() {
    for kernel in QMatmulFloat::all().into_iter().filter(compared).filter(|&kernel| runs(kernel)) {
        for (m, n, k, group_size) in SHAPES {
            let w = weight(n, k, kernel.w_bits, group_size);
            let epilogue = EpilogueValues::new(m, n);
            let mut x = values(m * k, 3);
            let mut input = words(&x).to_vec();
            if kernel.tier() == Tier::Half {
                (input, x) = half_words(&x);
            }
            let params =
                Params { m: m as u32, n: n as u32, k: k as u32, group_size: w.group_size as u32 };
            let grid = [n.div_ceil(TILE) as u32, m.div_ceil(TILE) as u32, 1];
            let w_grid = grid_words(&w);
            let tensors = [&input[..], &w.codes, &w_grid];
            let inputs = [&tensors[..], &epilogue.inputs(kernel.epilogue)].concat();
            let actual = run(kernel, &inputs, &[m * n], params, grid);
            let rel = 4.0 * f32::EPSILON * (k as f32).sqrt();
            let product = reference(&x, &w, &epilogue.bias);
            let expected = epilogue.after(kernel.epilogue, product);
            assert_close(
                &format!("{kernel:?} {params:?}"),
                floats(&actual[0]),
                &expected,
                rel,
                2e-5,
            );
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
