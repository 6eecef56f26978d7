use crate::common::{assert_close, devices};
use crate::{floats, matrix, run, values, words};
use burn::tensor::Device;
use qvgen::kernels::orthonormalize::{Orthonormalize, Params, orthonormalize, reference};

/// `(rows, len)`: one value, fewer than a block, one row beyond a block, less and more elements
/// than invocations.
const SHAPES: [(u32, u32); 6] = [(1, 1), (3, 5), (9, 64), (17, 203), (8, 256), (30, 1031)];

#[test]
fn orthonormalize_matches_its_twin() {
    for (rows, len) in SHAPES {
        let params = Params { rows, len };
        let mut x = values((rows * len) as usize, 1);
        // A row of zeros in the middle, and one of very small values.
        let (zeros, small) = (rows as usize / 2, rows as usize / 3);
        let len = len as usize;
        x[zeros * len..(zeros + 1) * len].fill(0.0);
        x[small * len..(small + 1) * len].iter_mut().for_each(|value| *value *= 1e-30);
        let actual = run(Orthonormalize, &[words(&x)], &[x.len()], params, [1, 1, 1]);
        let expected = reference(&x, params);
        assert_close(&format!("{params:?}"), floats(&actual[0]), &expected, 1e-5, 2e-6);
    }
}

/// What is wrong with `q` as an orthonormal basis of the rows of `x`, at a precision of 1e-5.
fn basis_error(q: &[f32], x: &[f32], len: usize) -> Option<String> {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let differs = |a: f64, b: f64, tolerance: f64| {
        let within = (a - b).abs() <= tolerance;
        !within // also true for NaN
    };
    for (i, a) in q.chunks(len).enumerate() {
        let is_zero = a.iter().all(|&value| value == 0.0);
        for (j, b) in q.chunks(len).enumerate().take(i + 1) {
            let expected = f64::from(u8::from(i == j && !is_zero));
            if differs(dot(a, b), expected, 1e-5) {
                return Some(format!("rows {i} and {j}: {} and not {expected}", dot(a, b)));
            }
        }
    }
    for (j, x) in x.chunks(len).enumerate() {
        let scale = f64::from(x.iter().fold(0.0_f32, |m, value| m.max(value.abs())));
        let mut rest: Vec<f64> = x.iter().map(|&value| f64::from(value)).collect();
        for q in q.chunks(len).take(j + 1) {
            let product: f64 = q.iter().zip(x).map(|(q, x)| f64::from(*q) * f64::from(*x)).sum();
            rest.iter_mut().zip(q).for_each(|(rest, q)| *rest -= product * f64::from(*q));
        }
        if let Some(at) = rest.iter().position(|&rest| differs(rest, 0.0, 1e-5 * scale)) {
            return Some(format!("row {j} of x is not spanned: {} remains at {at}", rest[at]));
        }
    }
    None
}

fn on(device: &Device, x: &[f32], len: usize) -> Vec<f32> {
    orthonormalize(matrix(x, len, device)).into_data().try_to_vec().unwrap()
}

/// Inputs that break naive orthogonalization, with the number of vectors that must remain.
fn hard_inputs() -> Vec<(&'static str, Vec<f32>, usize, usize)> {
    let len = 70;
    let base = values(12 * len, 3);
    let combine = |f: &dyn Fn(usize, usize) -> f32| -> Vec<f32> {
        (0..12 * len).map(|at| f(at / len, at % len)).collect()
    };
    let row = |i: usize, k: usize| base[i * len + k];
    vec![
        ("zeros", vec![0.0; 12 * len], len, 0),
        ("all rows equal", combine(&|_, k| row(0, k)), len, 1),
        ("every row twice", combine(&|i, k| row(i / 2, k)), len, 6),
        ("rows of all magnitudes", combine(&|i, k| row(i, k) * 1e-3_f32.powi(i as i32)), len, 12),
        ("large rows", combine(&|i, k| row(i, k) * 1e37), len, 12),
        ("almost equal rows", combine(&|i, k| row(0, k) + 1e-3 * row(i, k)), len, 12),
        ("unit vectors", combine(&|i, k| f32::from(u8::from(i == k))), len, 12),
        ("more vectors than dimensions", base[..12 * 5].to_vec(), 5, 5),
    ]
}

#[test]
fn any_vectors_get_an_orthonormal_basis_of_what_they_span() {
    for (name, device) in devices() {
        for (what, x, len, rank) in hard_inputs() {
            let q = on(&device, &x, len);
            if let Some(error) = basis_error(&q, &x, len) {
                panic!("{name}, {what}: {error}");
            }
            let remaining = q.chunks(len).filter(|q| q.iter().any(|&value| value != 0.0)).count();
            assert_eq!(remaining, rank, "{name}, {what}");
            assert_eq!(on(&device, &x, len), q, "{name}, {what}: a second call differs");
        }
    }
}

#[test]
fn a_wrong_basis_is_noticed() {
    let (len, x) = (20, values(5 * 20, 7));
    let good = on(&Device::flex(), &x, len);
    assert_eq!(basis_error(&good, &x, len), None);
    type Spoil = fn(&mut [f32]);
    let wrong: [(&str, Spoil); 5] = [
        ("too long", |q| q[..20].iter_mut().for_each(|value| *value *= 1.0001)),
        ("not orthogonal", |q| q[25] += 1e-3),
        ("a vector missing", |q| q[40..60].fill(0.0)),
        ("not finite", |q| q[99] = f32::NAN),
        ("another subspace", |q| q.rotate_right(1)),
    ];
    for (what, spoil) in wrong {
        let mut q = good.clone();
        spoil(&mut q);
        assert!(basis_error(&q, &x, len).is_some(), "{what}");
    }
}

#[test]
fn a_value_that_is_not_finite_shows() {
    for (name, device) in devices() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = values(4 * 30, 1);
            x[2 * 30 + 17] = bad;
            let q = on(&device, &x, 30);
            assert!(q[..60].iter().all(|value| value.is_finite()), "{name}, {bad}");
            assert!(q[60..90].iter().any(|value| !value.is_finite()), "{name}, {bad}");
        }
    }
}
