use crate::common::{assert_close, devices};
use crate::{floats, matrix, run, values, words};
use burn::tensor::{Device, Tensor, TensorData};
use qvgen::kernels::layer_norm::{LayerNorm, Params, reference};
use qvgen::kernels::{GRID_WIDTH, layer_norm, linear_grid};

/// `(tokens, k)`: rows that are no multiple of four long, and rows that are; short ones and long ones.
const SHAPES: [(usize, usize); 5] = [(1, 1), (3, 33), (2, 2102), (7, 72), (2, 2100)];
const EPS: f32 = 1e-6;

fn vector(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

#[test]
fn layer_norm_matches_its_twin() {
    for (m, k) in SHAPES {
        let (x, factor, offset) = (values(m * k, 5), values(k, 6), values(k, 7));
        let params = Params { m: m as u32, k: k as u32, eps: EPS };
        let inputs = [words(&x), words(&factor), words(&offset)];
        let y = run(LayerNorm::new(k), &inputs, &[m * k], params, linear_grid(m));
        let expected = reference(&x, &factor, &offset, EPS);
        assert_close(&format!("{params:?}"), floats(&y[0]), &expected, 1e-5, 1e-5);
    }
}

#[test]
fn layer_norm_reaches_the_last_token() {
    let (m, k) = (GRID_WIDTH as usize + 3, 4);
    let (x, factor, offset) = (values(m * k, 5), values(k, 6), values(k, 7));
    let params = Params { m: m as u32, k: k as u32, eps: EPS };
    let inputs = [words(&x), words(&factor), words(&offset)];
    let y = run(LayerNorm::new(k), &inputs, &[m * k], params, linear_grid(m));
    let expected = reference(&x, &factor, &offset, EPS);
    assert_close("y", floats(&y[0]), &expected, 1e-4, 1e-4);
}

#[test]
fn layer_norm_keeps_its_precision_far_from_zero_and_with_outliers() {
    let k = 1536;
    let mut x: Vec<f32> = values(3 * k, 5);
    x[..k].iter_mut().for_each(|value| *value += 500.0);
    x[k] = 3e4;
    x[2 * k..].iter_mut().for_each(|value| *value *= 1e-4);
    let (factor, offset) = (values(k, 6), values(k, 7));
    let exact = |(i, &x): (usize, &f32), mean: f64, deviation: f64| {
        ((f64::from(x) - mean) / deviation * f64::from(factor[i]) + f64::from(offset[i])) as f32
    };
    let expected: Vec<f32> = x
        .chunks(k)
        .flat_map(|row| {
            let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / k as f64;
            let squares = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>();
            let deviation = (squares / k as f64 + f64::from(EPS)).sqrt();
            row.iter().enumerate().map(move |value| exact(value, mean, deviation))
        })
        .collect();
    for (name, device) in devices() {
        let (factor, offset) = (vector(&factor, &device), vector(&offset, &device));
        let y = layer_norm(matrix(&x, k, &device), factor, offset, EPS);
        let y = y.into_data().try_to_vec::<f32>().unwrap();
        assert_close(name, &y, &expected, 1e-4, 2e-4);
    }
}

#[test]
fn no_tokens_are_normalized_to_none() {
    for (_, device) in devices() {
        let row = vector(&[1.0; 5], &device);
        assert_eq!(
            layer_norm(Tensor::empty([0, 5], &device), row.clone(), row, EPS).dims(),
            [0, 5]
        );
    }
}
