use crate::common::{assert_close, devices};
use crate::{matrix, values};
use burn::tensor::{Device, Tensor};
use qvgen::kernels::matmul_nt;

/// `(m, n, k)`: single values, ragged ones, several tiles.
const SHAPES: [(usize, usize, usize); 4] = [(1, 1, 1), (5, 7, 3), (17, 66, 33), (130, 70, 64)];

fn read(x: Tensor<2>) -> Vec<f32> {
    x.into_data().try_to_vec().expect("f32 values")
}

/// `Σ_i a(row, i) · b(column, i)` by row and column.
fn sums(
    [rows, columns, len]: [usize; 3],
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Vec<f32> {
    let sum = |row: usize, column: usize| (0..len).map(|i| a(row, i) * b(column, i)).sum::<f32>();
    (0..rows * columns).map(|at| sum(at / columns, at % columns)).collect()
}

#[test]
fn matmul_nt_and_its_gradients_are_those_of_the_definition_on_all_devices() {
    for (m, n, k) in SHAPES {
        let (x, w, d_y) = (values(m * k, 1), values(n * k, 2), values(m * n, 3));
        let y = sums([m, n, k], |t, i| x[t * k + i], |o, i| w[o * k + i]);
        let d_x = sums([m, k, n], |t, o| d_y[t * n + o], |i, o| w[o * k + i]);
        let d_w = sums([n, k, m], |o, t| d_y[t * n + o], |i, t| x[t * k + i]);
        for (name, device) in devices() {
            let what = format!("{name} {m}×{n}×{k}");
            let tracked = device.clone().autodiff();
            let x = matrix(&x, k, &tracked).require_grad();
            let w = matrix(&w, k, &tracked).require_grad();
            let product = matmul_nt(x.clone(), w.clone());
            assert_close(&what, &read(product.clone().inner()), &y, 1e-5, 1e-5);
            let loss = product * Tensor::from_inner(matrix(&d_y, n, &device));
            let grads = loss.sum().backward();
            let gradient = |x: &Tensor<2>| read(x.grad(&grads).expect("a gradient"));
            assert_close(&format!("{what}: d_x"), &gradient(&x), &d_x, 1e-5, 1e-5);
            assert_close(&format!("{what}: d_w"), &gradient(&w), &d_w, 1e-5, 1e-5);
        }
    }
}

#[test]
fn matmul_nt_takes_views_and_gives_only_gradients_that_are_wanted() {
    for (name, device) in devices() {
        let tracked = device.clone().autodiff();
        let x = matrix(&values(6 * 4, 1), 6, &tracked).transpose(); // [6, 4]
        let w = matrix(&values(5 * 4, 2), 4, &tracked).require_grad();
        let y = matmul_nt(x.clone(), w.clone());
        let expected = read(x.clone().matmul(w.clone().transpose()).inner());
        assert_close(name, &read(y.clone().inner()), &expected, 1e-5, 1e-5);
        let grads = y.sum().backward();
        assert!(w.grad(&grads).is_some() && x.grad(&grads).is_none(), "{name}");
    }
}

#[test]
#[should_panic(expected = "columns of x and in_features")]
fn matmul_nt_refuses_sizes_that_differ() {
    let device = Device::flex();
    matmul_nt(matrix(&[1.0, 2.0], 2, &device), matrix(&[1.0, 2.0, 3.0], 3, &device));
}
