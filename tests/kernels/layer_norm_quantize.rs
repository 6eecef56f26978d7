use crate::common::devices;
use crate::quantize_tokens::{assert_same, rows_from};
use crate::{matrix, run, token_spec, values, words};
use burn::tensor::{Device, Tensor, TensorData};
use qvgen::kernels::layer_norm::reference;
use qvgen::kernels::layer_norm_quantize::LayerNormQuantize;
use qvgen::kernels::{
    GRID_WIDTH, GRID_WORDS, Kernel, RowTransform, Rows, layer_norm_quantize, linear_grid,
};
use qvgen::quant::{self, Bits, Scheme, TokenRange, TokenSpec, words_per_row};

/// Rows that are no multiple of four long, and rows that are.
const SHAPES: [(usize, usize); 5] = [(1, 1), (3, 33), (2, 2102), (7, 72), (2, 2100)];
/// Rows of whole blocks: less than a tile, a tile and a block, several tiles.
const BLOCK_SHAPES: [(usize, usize); 3] = [(3, 128), (2, 1152), (2, 2176)];
const EPS: f32 = 1e-6;
/// What a sum in another order moves a value by, relative to the largest of its token.
const ERROR: f32 = 4e-6;

fn vector(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

#[test]
fn layer_norm_quantize_matches_its_twin() {
    // All schemes and transforms at one width are enough: compiling takes longer than running.
    let compared = |kernel: &LayerNormQuantize| {
        let is_usual = kernel.scheme == Scheme::Asymmetric && !kernel.static_range;
        let is_whole = kernel.transform == RowTransform::NONE && kernel.rows == Rows::Vectors;
        kernel.bits == Bits::B3 || is_usual && is_whole
    };
    for kernel in LayerNormQuantize::all().into_iter().filter(compared) {
        let has_blocks = kernel.transform.hadamard > 1;
        for &(m, k) in if has_blocks { &BLOCK_SHAPES[..] } else { &SHAPES } {
            let range = if kernel.static_range {
                TokenRange::Static { min: -0.6, max: 0.9 }
            } else {
                TokenRange::Dynamic { clip_upper: 0.9, clip_lower: 0.95 }
            };
            let spec = TokenSpec { bits: kernel.bits, scheme: kernel.scheme, range };
            let (specialized, params) = LayerNormQuantize::new(spec, m, k, EPS);
            if (specialized.rows, specialized.invocations) != (kernel.rows, kernel.invocations) {
                continue;
            }
            assert_eq!(LayerNormQuantize { transform: kernel.transform, ..specialized }, kernel);
            let (x, factor, offset) = (values(m * k, 5), values(k, 6), values(k, 7));
            let inputs = [words(&x), words(&factor), words(&offset)];
            let lens = [m * words_per_row(kernel.bits, k), m * GRID_WORDS];
            let outputs = run(kernel, &inputs, &lens, params, linear_grid(m));
            let mut y = reference(&x, &factor, &offset, EPS);
            if has_blocks {
                quant::hadamard(&mut y, kernel.transform.hadamard as usize);
            }
            let expected = quant::quantize_tokens(&y, k, spec);
            let actual = rows_from(&outputs, kernel.bits, k);
            assert_same(&format!("{kernel:?} {params:?}"), &y, ERROR, &actual, &expected);
        }
    }
}

#[test]
fn layer_norm_quantize_reaches_the_last_token() {
    let (m, k) = (GRID_WIDTH as usize + 3, 4);
    let spec = token_spec(Bits::B4);
    let (kernel, params) = LayerNormQuantize::new(spec, m, k, EPS);
    let (x, factor, offset) = (values(m * k, 5), values(k, 6), values(k, 7));
    let inputs = [words(&x), words(&factor), words(&offset)];
    let lens = [m * words_per_row(Bits::B4, k), m * GRID_WORDS];
    let outputs = run(kernel, &inputs, &lens, params, linear_grid(m));
    let y = reference(&x, &factor, &offset, EPS);
    let expected = quant::quantize_tokens(&y, k, spec);
    // A token of four values may be any multiple of its deviation: its error is larger.
    assert_same("all", &y, 1e-4, &rows_from(&outputs, Bits::B4, k), &expected);
}

#[test]
fn tokens_that_are_no_numbers_get_a_grid_that_is_none() {
    let k = 72;
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = values(3 * k, 3);
        x[k + 7] = bad;
        for (name, device) in devices() {
            let row = vector(&vec![1.0; k], &device);
            let x = matrix(&x, k, &device);
            let packed = layer_norm_quantize(x, row.clone(), row, EPS, None, token_spec(Bits::B4));
            let scales = packed.to_rows().grids.into_iter().map(|grid| grid.scale.is_nan());
            assert_eq!(scales.collect::<Vec<_>>(), [false, true, false], "{bad} on {name}");
        }
    }
}

#[test]
fn constant_tokens_become_their_offset() {
    let k = 40;
    for (name, device) in devices() {
        let x = matrix(&vec![3.0; 2 * k], k, &device);
        let (factor, offset) = (vector(&vec![2.0; k], &device), vector(&vec![0.75; k], &device));
        let packed = layer_norm_quantize(x, factor, offset, EPS, None, token_spec(Bits::B8));
        let values = packed.to_rows().values();
        assert!(values.iter().all(|value| (value - 0.75).abs() < 1e-5), "{name}: {values:?}");
    }
}

#[test]
fn no_tokens_give_no_codes() {
    for (_, device) in devices() {
        let row = vector(&[1.0; 40], &device);
        let x = Tensor::empty([0, 40], &device);
        let packed = layer_norm_quantize(x, row.clone(), row, EPS, None, token_spec(Bits::B4));
        assert_eq!((packed.rows(), packed.groups()), (0, 1));
    }
}
