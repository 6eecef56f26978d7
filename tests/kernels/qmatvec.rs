use crate::common::{assert_close, devices};
use crate::epilogue::EpilogueValues;
use crate::{floats, grid_words, half_words, run, runs, values, weight, words};
use burn::tensor::{Tensor, TensorData};
use qvgen::kernels::qmatmul_float::reference;
use qvgen::kernels::qmatvec::{Params, QMatvec};
use qvgen::kernels::{Kernel, PackedTensor, Rows, Tier, qmatvec};
use qvgen::quant::Bits;

/// `(n, k, group_size)`.
const SHAPES: [(usize, usize, Option<usize>); 6] = [
    (1, 24, None),
    (7, 36, None),
    (131, 600, None),
    (7, 33, Some(32)),
    (66, 72, Some(32)),
    (130, 600, Some(64)),
];

/// Every width for the most tokens, and every form of a width whose codes straddle words for the fewest
/// and the most: compiling takes longer than running.
fn compared(kernel: &QMatvec) -> bool {
    let is_usual = *kernel == QMatvec::plain(kernel.w_bits, 8, kernel.split);
    let is_end = kernel.tokens == 8 || (kernel.tokens == 1 && kernel.split);
    is_usual || (kernel.w_bits == Bits::B3 && is_end)
}

/// Whether the kernel is for rows of that length with such grids.
fn takes(kernel: &QMatvec, k: usize, group_size: Option<usize>) -> bool {
    kernel.grouped == group_size.is_some() && (kernel.rows == Rows::Ragged || k.is_multiple_of(4))
}

#[test]
fn qmatvec_matches_its_twin() {
    for kernel in QMatvec::all().into_iter().filter(compared).filter(|&kernel| runs(kernel)) {
        let shapes = SHAPES.into_iter().filter(|&(_, k, group_size)| takes(&kernel, k, group_size));
        for (n, k, group_size) in shapes {
            for m in [(kernel.tokens as usize - 1).max(1), kernel.tokens as usize] {
                let w = weight(n, k, kernel.w_bits, group_size);
                let epilogue = EpilogueValues::new(m, n);
                let mut x = values(m * k, 3);
                let mut input = words(&x).to_vec();
                if kernel.tier() == Tier::Half {
                    (input, x) = half_words(&x);
                }
                let params = Params {
                    m: m as u32,
                    n: n as u32,
                    k: k as u32,
                    group_size: w.group_size as u32,
                };
                let w_grid = grid_words(&w);
                let tensors = [&input[..], &w.codes, &w_grid];
                let inputs = [&tensors[..], &epilogue.inputs(kernel.epilogue)].concat();
                let actual = run(kernel, &inputs, &[m * n], params, kernel.grid(n));
                let rel = 4.0 * f32::EPSILON * (k as f32).sqrt();
                // A rounding of the sum of all terms, which nearly cancel.
                let abs = 2e-5 + f32::EPSILON * k as f32 / 2.0;
                let product = reference(&x, &w, &epilogue.bias);
                let expected = epilogue.after(kernel.epilogue, product);
                let what = format!("{kernel:?} {params:?}");
                assert_close(&what, floats(&actual[0]), &expected, rel, abs);
            }
        }
    }
}

#[test]
fn qmatvec_agrees_on_all_devices() {
    for bits in Bits::ALL {
        let w = weight(66, 72, bits, None);
        let [cpu, wgpu] = devices().map(|(_, device)| {
            let x = Tensor::<2>::from_data(TensorData::new(values(7 * 72, 3), [7, 72]), &device);
            let bias = Tensor::<1>::from_data(TensorData::new(values(66, 9), [66]), &device);
            let y = qmatvec(x, &PackedTensor::from_rows(&w, &device), bias);
            y.into_data().try_to_vec::<f32>().unwrap()
        });
        assert_close(&format!("{bits} bits"), &wgpu, &cpu, 1e-5, 2e-5);
    }
}
