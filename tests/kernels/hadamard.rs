use crate::common::{assert_close, devices};
use crate::{floats, matrix, run, values, words};
use burn::tensor::{Device, Tensor, TensorData};
use qvgen::kernels::cpu::{self, Form};
use qvgen::kernels::hadamard::Hadamard;
use qvgen::kernels::{Kernel, TokenTransform, hadamard};
use qvgen::quant::{affine_hadamard, hadamard_factor};

/// `(rows, k)`: less than a tile, one block more than a tile, several tiles that end within a row.
const SHAPES: [(usize, usize); 4] = [(1, 128), (9, 128), (3, 1152), (2, 2176)];

fn vector(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

/// Values of an affine step: no factor is zero.
fn affine(k: usize) -> (Vec<f32>, Vec<f32>) {
    (values(k, 6), values(k, 7).into_iter().map(|value| 1.5 + value).collect())
}

#[test]
fn hadamard_matches_its_twin() {
    for kernel in Hadamard::all() {
        for (m, k) in SHAPES {
            let (x, (offset, factor)) = (values(m * k, 5), affine(k));
            let (params, grid) = Hadamard::call(m * k, k);
            let mut inputs = vec![words(&x)];
            let mut expected = x.clone();
            let block = Some(kernel.transform.hadamard as usize);
            if kernel.transform.affine {
                inputs.extend([words(&offset), words(&factor)]);
                affine_hadamard(&mut expected, k, Some(&offset), Some(&factor), block);
            } else {
                affine_hadamard(&mut expected, k, None, None, block);
            }
            let y = run(kernel, &inputs, &[m * k], params, grid);
            assert_close(&format!("{kernel:?} {m}×{k}"), floats(&y[0]), &expected, 1e-5, 1e-5);
        }
    }
}

#[test]
fn the_factors_of_the_shader_are_those_of_the_twin() {
    assert_eq!([64, 128].map(hadamard_factor), [0.125, 0.088_388_346]);
}

#[test]
fn every_device_and_form_transforms_alike() {
    for block in [None, Some(64), Some(128)] {
        for (m, k) in [(3, 384), (70, 1152)] {
            for is_affine in [false, true] {
                let (x, (offset, factor)) = (values(m * k, 5), affine(k));
                let mut expected = x.clone();
                let rows = is_affine.then_some([&offset[..], &factor[..]]);
                affine_hadamard(
                    &mut expected,
                    k,
                    rows.map(|rows| rows[0]),
                    rows.map(|rows| rows[1]),
                    block,
                );
                for form in Form::available() {
                    let mut y = x.clone();
                    cpu::transform(form, &mut y, k, rows, block);
                    assert_eq!(y, expected, "{} {m}×{k}, {block:?}", form.name());
                }
                for (name, device) in devices() {
                    let affine = rows.map(|rows| rows.map(|row| vector(row, &device)));
                    let transform = TokenTransform { affine, hadamard: block };
                    let y = hadamard(matrix(&x, k, &device), &transform).into_data();
                    let y = y.try_to_vec::<f32>().unwrap();
                    assert_close(&format!("{name} {m}×{k}"), &y, &expected, 1e-5, 1e-5);
                }
            }
        }
    }
}

#[test]
fn no_rows_stay_no_rows() {
    for (_, device) in devices() {
        let transform = TokenTransform { affine: None, hadamard: Some(64) };
        assert_eq!(hadamard(Tensor::empty([0, 64], &device), &transform).dims(), [0, 64]);
    }
}

#[test]
#[should_panic(expected = "no multiple of hadamard 64")]
fn rows_of_other_lengths_are_refused() {
    let transform = TokenTransform { affine: None, hadamard: Some(64) };
    hadamard(Tensor::zeros([1, 72], &Device::flex()), &transform);
}
