use crate::common::{assert_close, devices};
use crate::epilogue::EpilogueValues;
use crate::{floats, half_words, matrix, run, runs, values, words};
use burn::tensor::{Device, Tensor, TensorData};
use qvgen::kernels::matmul::{Matmul, Params, reference};
use qvgen::kernels::{Element, EpilogueKind, FloatForm, Kernel, Rows, matmul};

/// What `run` fills results with.
const SENTINEL: u32 = 0xDEAD_BEEF;

/// `(m, n, k)`: a single value, below a tile, tails on all sides, several tiles.
const SHAPES: [(usize, usize, usize); 4] = [(1, 1, 4), (5, 7, 36), (18, 67, 72), (140, 130, 20)];
/// The same for rows of any length.
const RAGGED: [(usize, usize, usize); 3] = [(1, 1, 1), (5, 7, 33), (67, 66, 19)];

/// Every epilogue after the sums in registers, the longest and none after tiles: the text of the
/// epilogues is the same, and compiling takes time.
pub(crate) fn epilogue_compared(form: FloatForm, epilogue: EpilogueKind) -> bool {
    matches!(form, FloatForm::Registers { .. })
        || matches!(epilogue, EpilogueKind::Bias | EpilogueKind::BranchResidual { .. })
}

#[test]
fn matmul_matches_its_twin() {
    for kernel in Matmul::all().into_iter().filter(|&kernel| runs(kernel)) {
        if !epilogue_compared(kernel.form, kernel.epilogue) {
            continue;
        }
        let shapes = if kernel.rows == Rows::Ragged { &RAGGED[..] } else { &SHAPES };
        for &(m, n, k) in shapes {
            let epilogue = EpilogueValues::new(m, n);
            let operands = [values(m * k, 3), values(n * k, 11)];
            let [(x, x_words), (w, w_words)] = operands.map(|values| match kernel.element {
                Element::F32 => (values.clone(), words(&values).to_vec()),
                Element::F16 => {
                    let (words, rounded) = half_words(&values);
                    (rounded, words)
                }
            });
            let params = Params { m: m as u32, n: n as u32, k: k as u32, first_tile: 0 };
            let inputs =
                [&[&x_words[..], &w_words], &epilogue.inputs(kernel.epilogue)[..]].concat();
            let actual = run(kernel, &inputs, &[m * n], params, kernel.form.grid(m, n));
            let expected = epilogue.after(kernel.epilogue, reference(&x, &w, &epilogue.bias, k));
            let rel = 4.0 * f32::EPSILON * (k as f32).sqrt();
            let what = format!("{kernel:?} {params:?}");
            assert_close(&what, floats(&actual[0]), &expected, rel, 2e-5);
        }
    }
}

#[test]
fn tiles_of_several_dispatches_make_one_product() {
    let (m, n, k) = (150, 9, 8);
    let (x, w, bias) = (values(m * k, 3), values(n * k, 11), values(n, 9));
    let inputs = [&x, &w, &bias].map(|values| words(values));
    let expected = reference(&x, &w, &bias, k);
    for form in FloatForm::ALL {
        let (element, rows, epilogue) = (Element::F32, Rows::Vectors, EpilogueKind::Bias);
        let kernel = Matmul { form, element, rows, epilogue };
        if !runs(kernel) {
            continue;
        }
        let mut actual = vec![0.0; m * n];
        let dispatches = form.dispatches([m, n, k], 1);
        assert!(dispatches.len() > 1, "{form:?}");
        for (first_tile, grid) in dispatches {
            let params = Params { m: m as u32, n: n as u32, k: k as u32, first_tile };
            let part = run(kernel, &inputs, &[m * n], params, grid);
            let part = part[0].iter().zip(&mut actual);
            part.filter(|(word, _)| **word != SENTINEL).for_each(|(word, to)| {
                *to += f32::from_bits(*word); // what two dispatches computed would be twice too large
            });
        }
        assert_close(&format!("{form:?}"), &actual, &expected, 1e-5, 2e-5);
    }
}

/// `x · wᵀ + bias` on `device`.
fn product(x: &[f32], w: &[f32], bias: &[f32], k: usize, device: &Device) -> Vec<f32> {
    let bias = Tensor::<1>::from_data(TensorData::new(bias.to_vec(), [bias.len()]), device);
    matmul(matrix(x, k, device), matrix(w, k, device), bias).into_data().try_to_vec().unwrap()
}

#[test]
fn matmul_agrees_on_all_devices() {
    for (m, n, k) in [(9, 66, 72), (3, 5, 7)] {
        let (x, w, bias) = (values(m * k, 3), values(n * k, 4), values(n, 9));
        let expected = reference(&x, &w, &bias, k);
        for (name, device) in devices() {
            let actual = product(&x, &w, &bias, k, &device);
            assert_close(&format!("{k} columns on {name}"), &actual, &expected, 1e-5, 2e-5);
        }
    }
}

#[test]
fn a_transposed_view_is_multiplied_as_what_it_shows() {
    let (m, n, k) = (6, 9, 12);
    let (x, w) = (values(k * m, 3), values(k * n, 4));
    let turned = |values: &[f32], rows: usize| -> Vec<f32> {
        (0..rows * k).map(|i| values[i % k * rows + i / k]).collect()
    };
    let expected = reference(&turned(&x, m), &turned(&w, n), &vec![0.0; n], k);
    for (name, device) in devices() {
        let [x, w] = [matrix(&x, m, &device), matrix(&w, n, &device)].map(Tensor::transpose);
        let y = matmul(x, w, Tensor::<1>::zeros([n], &device));
        let actual: Vec<f32> = y.into_data().try_to_vec().unwrap();
        assert_close(name, &actual, &expected, 1e-5, 2e-5);
    }
}

#[test]
fn what_is_no_number_stays_in_its_row_and_column() {
    let (m, n, k) = (4, 3, 5);
    let (mut x, w) = (values(m * k, 3), values(n * k, 4));
    x[k] = f32::NAN;
    x[2 * k + 4] = f32::INFINITY;
    for (name, device) in devices() {
        let actual = product(&x, &w, &[0.0; 3], k, &device);
        let rows: Vec<bool> =
            actual.chunks(n).map(|row| row.iter().all(|y| y.is_finite())).collect();
        assert_eq!(rows, [true, false, false, true], "{name}: {actual:?}");
        assert!(actual[2 * n..3 * n].iter().all(|y| y.is_infinite()), "{name}: {actual:?}");
    }
}

#[test]
#[should_panic(expected = "columns of x and in_features")]
fn matmul_refuses_operands_of_different_width() {
    let device = Device::flex();
    let zeros = |shape: [usize; 2]| Tensor::<2>::zeros(shape, &device);
    matmul(zeros([2, 3]), zeros([2, 4]), Tensor::<1>::zeros([2], &device));
}
