//! Truncated singular value decomposition, judged by the errors of exact ones.

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use common::{Reference, assert_close, devices, fixture};
use qvgen::method::{LowRank, rebalance, truncated_svd};

fn matrix(values: &[f32], columns: usize, device: &Device) -> Tensor<2> {
    let shape = [values.len() / columns, columns];
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

fn read(tensor: &Tensor<2>) -> Vec<f32> {
    tensor.clone().into_data().try_to_vec().unwrap()
}

/// Values in `[-1, 1)` that look random.
fn values(len: usize, seed: u32) -> Vec<f32> {
    (0..len)
        .map(|i| ((i as f64 * 12.9898 + f64::from(seed)).sin() * 43_758.545 % 1.0) as f32)
        .collect()
}

/// `a · b` in f64, `a` `[rows, inner]` and `b` `[inner, columns]`.
fn product(a: &[f32], b: &[f32], inner: usize) -> Vec<f64> {
    let columns = b.len() / inner;
    let mut c = vec![0.0; a.len() / inner * columns];
    for (c, a) in c.chunks_mut(columns).zip(a.chunks(inner)) {
        for (a, b) in a.iter().zip(b.chunks(columns)) {
            c.iter_mut().zip(b).for_each(|(c, b)| *c += f64::from(*a) * f64::from(*b));
        }
    }
    c
}

fn transposed(a: &[f32], columns: usize) -> Vec<f32> {
    (0..a.len())
        .map(|at| a[at % (a.len() / columns) * columns + at / (a.len() / columns)])
        .collect()
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// `‖w − l·r‖` in f64.
fn error(w: &[f32], l: &[f32], r: &[f32], rank: usize) -> f64 {
    norm(product(l, r, rank).into_iter().zip(w).map(|(a, b)| a - f64::from(*b)))
}

/// Whether `error` is that of a good approximation of a matrix of norm `fro`.
fn is_near_optimum(error: f64, optimum: f64, fro: f64) -> bool {
    error <= 1.01 * optimum + 1e-6 * fro
}

struct Case {
    name: String,
    w: Vec<f32>,
    shape: [usize; 2],
    singular_values: Vec<f32>,
    /// The smallest error of each rank, from 0 on.
    optimum: Vec<f64>,
}

fn cases() -> Vec<Case> {
    let reference = Reference::open(&fixture("quant"));
    let suffix = ".singular_values";
    let names = reference.names();
    let names =
        names.iter().filter(|n| n.starts_with("svd.")).filter_map(|n| n.strip_suffix(suffix));
    let cases: Vec<Case> = names
        .map(|name| Case {
            name: name.to_owned(),
            w: reference.f32(&format!("{name}.w")),
            shape: reference.shape(&format!("{name}.w")).try_into().unwrap(),
            singular_values: reference.f32(&format!("{name}{suffix}")),
            optimum: reference.f64(&format!("{name}.fro_error_by_rank")),
        })
        .collect();
    assert_eq!(cases.len(), 13);
    cases
}

/// Asserts what holds for balanced factors: `lᵀ·l = r·rᵀ = S`, descending, with fixed signs.
fn assert_balanced(what: &str, low_rank: &LowRank, singular_values: &[f32]) {
    let rank = low_rank.rank();
    let (l, r) = (read(&low_rank.l), read(&low_rank.r));
    let largest = singular_values[0].max(1e-30);
    assert!(singular_values.is_sorted_by(|a, b| a >= b), "{what}: {singular_values:?}");
    assert!(singular_values.iter().all(|&s| s >= 0.0), "{what}: {singular_values:?}");
    let diagonal: Vec<f32> = (0..rank * rank)
        .map(|at| if at % (rank + 1) == 0 { singular_values[at / rank] } else { 0.0 })
        .collect();
    let columns = r.len() / rank;
    for (side, gram) in [
        ("lᵀ·l", product(&transposed(&l, rank), &l, l.len() / rank)),
        ("r·rᵀ", product(&r, &transposed(&r, columns), columns)),
    ] {
        let gram: Vec<f32> = gram.into_iter().map(|value| value as f32).collect();
        assert_close(&format!("{what}: {side}"), &gram, &diagonal, 0.0, 1e-5 * largest);
    }
    for column in transposed(&l, rank).chunks(l.len() / rank) {
        let extreme = |f: fn(f32, f32) -> f32| column.iter().copied().fold(0.0, f);
        assert!(extreme(f32::max) >= -extreme(f32::min), "{what}: sign");
    }
}

/// Every rank on the CPU; on wgpu, which may be a software driver that compiles products of every
/// width anew, an odd one, one of whole vectors and the full one.
fn ranks(device_name: &str, full: usize) -> Vec<usize> {
    let is_chosen = |rank: usize| device_name == "cpu" || rank == full || [5, 32].contains(&rank);
    (1..=full).filter(|&rank| is_chosen(rank)).collect()
}

#[test]
fn the_error_is_near_the_smallest_possible_at_every_rank() {
    for (device_name, device) in devices() {
        for Case { name, w, shape, singular_values, optimum } in cases() {
            let on_device = matrix(&w, shape[1], &device);
            for rank in ranks(device_name, optimum.len() - 1) {
                let what = format!("{device_name}, {name}, rank {rank}");
                let (low_rank, found) = truncated_svd(on_device.clone(), rank, 7);
                assert_eq!(low_rank.rank(), rank, "{what}");
                let error = error(&w, &read(&low_rank.l), &read(&low_rank.r), rank);
                assert!(
                    is_near_optimum(error, optimum[rank], optimum[0]),
                    "{what}: error {error}, the smallest possible is {}",
                    optimum[rank]
                );
                assert_balanced(&what, &low_rank, &found);
                let largest = singular_values[0];
                assert_close(&what, &found, &singular_values[..rank], 0.01, 2e-6 * largest);
            }
        }
    }
}

#[test]
fn wrong_factors_are_noticed() {
    let case = cases().into_iter().find(|case| case.name == "svd.power_law").unwrap();
    let columns = case.shape[1];
    let rank = 8;
    let (low_rank, _) = truncated_svd(matrix(&case.w, columns, &Device::flex()), rank, 7);
    let (l, r) = (read(&low_rank.l), read(&low_rank.r));
    let passes = |l: &[f32], r: &[f32]| {
        is_near_optimum(error(&case.w, l, r, rank), case.optimum[rank], case.optimum[0])
    };
    assert!(passes(&l, &r));
    let spoiled = |spoil: fn(usize) -> f32| -> Vec<f32> {
        l.iter().enumerate().map(|(at, value)| value * spoil(at % 8)).collect()
    };
    assert!(!passes(&spoiled(|column| if column == 7 { -1.0 } else { 1.0 }), &r), "a sign");
    assert!(!passes(&spoiled(|column| if column == 7 { 0.0 } else { 1.0 }), &r), "a rank less");
    assert!(!passes(&spoiled(|_| 1.1), &r), "too long");
    assert!(!passes(&spoiled(|_| f32::NAN), &r), "not finite");
    assert!(!passes(&transposed(&l, rank), &r), "transposed");
}

#[test]
fn a_seed_gives_the_same_bits_every_time() {
    for (name, device) in devices() {
        let w = matrix(&values(90 * 70, 1), 70, &device);
        let factors = |seed| {
            let (low_rank, s) = truncated_svd(w.clone(), 12, seed);
            (read(&low_rank.l), read(&low_rank.r), s)
        };
        let first = factors(3);
        assert!(factors(3) == first, "{name}: the same seed");
        let other = factors(4);
        assert!(other.0 != first.0, "{name}: another seed starts elsewhere");
        assert_close(name, &other.2, &first.2, 0.05, 0.0);
    }
}

#[test]
fn a_rank_beyond_the_matrix_is_filled_with_zeros() {
    for (name, device) in devices() {
        for shape in [[3, 5], [5, 3], [1, 1]] {
            let w = values(shape[0] * shape[1], 2);
            let (low_rank, s) = truncated_svd(matrix(&w, shape[1], &device), 7, 0);
            let what = format!("{name}, {shape:?}");
            let smaller = shape[0].min(shape[1]);
            assert_eq!((low_rank.l.dims(), low_rank.r.dims()), ([shape[0], 7], [7, shape[1]]));
            assert_eq!(s[smaller..], vec![0.0; 7 - smaller], "{what}");
            assert_balanced(&what, &low_rank, &s);
            assert_close(&what, &read(&low_rank.product()), &w, 0.0, 2e-6);
        }
    }
}

#[test]
fn values_of_any_size_are_decomposed() {
    for (name, device) in devices() {
        for scale in [1e-18_f32, 1e12] {
            let w: Vec<f32> = values(80 * 60, 5).iter().map(|value| value * scale).collect();
            let (low_rank, s) = truncated_svd(matrix(&w, 60, &device), 4, 0);
            let error = error(&w, &read(&low_rank.l), &read(&low_rank.r), 4);
            let fro = norm(w.iter().map(|&value| f64::from(value)));
            let captured: f64 = s.iter().map(|&s| f64::from(s) * f64::from(s)).sum();
            let expected = (fro * fro - captured).sqrt();
            assert!((error / expected - 1.0).abs() < 1e-4, "{name}, {scale}: {error}, {expected}");
        }
    }
}

#[test]
fn values_that_are_not_finite_show() {
    for (name, device) in devices() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut w = values(60 * 50, 5);
            w[777] = bad;
            let (_, s) = truncated_svd(matrix(&w, 50, &device), 4, 0);
            assert!(s.iter().any(|value| !value.is_finite()), "{name}, {bad}: {s:?}");
        }
    }
}

#[test]
fn a_matrix_on_an_autodiff_device_is_taken_without_its_gradient() {
    for (name, device) in devices() {
        let w = values(30 * 20, 1);
        let tracked = matrix(&w, 20, &device.clone().autodiff()).require_grad();
        let (factors, _) = truncated_svd(tracked, 5, 0);
        let (expected, _) = truncated_svd(matrix(&w, 20, &device), 5, 0);
        assert!(read(&factors.l) == read(&expected.l) && !factors.l.is_autodiff(), "{name}");
    }
}

/// Factors as training leaves them: neither orthogonal, sorted nor balanced.
fn trained(out_features: usize, in_features: usize, rank: usize) -> (Vec<f32>, Vec<f32>) {
    let scale = |j: usize| 2.0_f32.powi((j * 5 % 7) as i32 - 3);
    let l = values(out_features * rank, 11);
    let l = l.iter().enumerate().map(|(at, value)| value * scale(at % rank)).collect();
    let r = values(rank * in_features, 13);
    (l, r.iter().enumerate().map(|(at, v)| v / scale(at / in_features + 2)).collect())
}

#[test]
fn rebalancing_keeps_the_product_and_sorts_it() {
    for (name, device) in devices() {
        for [n, m, rank] in [[40, 30, 8], [200, 333, 16], [5, 9, 1], [6, 300, 32]] {
            let (l, r) = trained(n, m, rank);
            let what = format!("{name}, {n} x {m} of rank {rank}");
            let (low_rank, s) = rebalance(matrix(&l, rank, &device), matrix(&r, m, &device));
            assert_balanced(&what, &low_rank, &s);
            let expected: Vec<f32> = product(&l, &r, rank).iter().map(|&v| v as f32).collect();
            let error = error(&expected, &read(&low_rank.l), &read(&low_rank.r), rank);
            let fro = norm(expected.iter().map(|&value| f64::from(value)));
            assert!(error <= 1e-6 * fro, "{what}: {error} of {fro}");
            // Exact: the leading triples alone are as good as those of the product itself.
            let kept = (rank / 2).max(1);
            let half = low_rank.l.clone().narrow(1, 0, kept).matmul(low_rank.r.narrow(0, 0, kept));
            let off = norm(read(&half).iter().zip(&expected).map(|(a, b)| f64::from(a - b)));
            let rest = norm(s[kept..].iter().map(|&s| f64::from(s)));
            assert!((off - rest).abs() <= 1e-5 * fro, "{what}: {off} and not {rest}");
        }
    }
}

#[test]
fn rebalancing_survives_columns_of_zeros_and_repeated_ones() {
    let (n, m, rank) = (50, 60, 8);
    for (name, device) in devices() {
        let (mut l, mut r) = trained(n, m, rank);
        l.iter_mut().skip(2).step_by(rank).for_each(|value| *value = 0.0);
        r[5 * m..6 * m].fill(0.0);
        let first: Vec<f32> = l.iter().copied().step_by(rank).collect();
        l.iter_mut().skip(7).step_by(rank).zip(first).for_each(|(value, first)| *value = first);
        let (low_rank, s) = rebalance(matrix(&l, rank, &device), matrix(&r, m, &device));
        assert_balanced(name, &low_rank, &s);
        assert!(s[4] > 1e-3 * s[0] && s[5] <= 1e-6 * s[0], "{name}: {s:?}");
        let expected: Vec<f32> = product(&l, &r, rank).iter().map(|&v| v as f32).collect();
        assert_close(name, &read(&low_rank.product()), &expected, 0.0, 1e-6 * s[0]);

        let zero = |shape| Tensor::<2>::zeros(shape, &device);
        let (low_rank, s) = rebalance(zero([n, 3]), zero([3, m]));
        assert_eq!((s, read(&low_rank.l)), (vec![0.0; 3], vec![0.0; n * 3]), "{name}");
    }
}

#[test]
fn rebalancing_what_is_balanced_changes_nothing() {
    for (name, device) in devices() {
        let (first, s) = truncated_svd(matrix(&values(90 * 70, 1), 70, &device), 12, 0);
        let (second, again) = rebalance(first.l.clone(), first.r.clone());
        assert_close(name, &again, &s, 1e-5, 0.0);
        assert_close(name, &read(&second.product()), &read(&first.product()), 0.0, 1e-6 * s[0]);
        assert_close(name, &read(&second.l), &read(&first.l), 0.0, 1e-3);
    }
}
