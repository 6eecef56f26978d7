//! Quantized products where rounding could go wrong: zero points far from the codes, the longest
//! sums, tokens that are no numbers.

use crate::common::{assert_matches, devices};
use crate::{grid_words, matrix, token_spec, values};
use burn::tensor::{Device, Tensor, TensorData};
use qvgen::kernels::qmatmul::max_in_features;
use qvgen::kernels::{
    PackedTensor, qmatmul, qmatmul_float, qmatvec, quantize_tokens as quantize_on,
};
use qvgen::quant::{self, Bits, Calibration, Grid, PackedRows, Scheme};
use qvgen::quant::{TokenRange, TokenSpec, WeightSpec, pack_rows, words_per_row};

fn vector(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

fn read(y: Tensor<2>) -> Vec<f32> {
    y.into_data().try_to_vec().expect("f32 values")
}

/// `x · wᵀ + bias` of the values that the codes stand for, in f64.
fn exact(x: &PackedRows, w: &PackedRows, bias: &[f32]) -> Vec<f32> {
    // Not `PackedRows::values`: f32 would round `code − zero_point` once more.
    let values = |rows: &PackedRows| -> Vec<f64> {
        let codes = quant::unpack_rows(rows.bits, &rows.codes, rows.in_features);
        let groups = rows.groups();
        let value = |(i, code): (usize, u32)| {
            let column = i % rows.in_features;
            let Grid { scale, zero_point } =
                rows.grids[i / rows.in_features * groups + column / rows.group_size];
            f64::from(scale) * (f64::from(code) - f64::from(zero_point))
        };
        codes.into_iter().enumerate().map(value).collect()
    };
    let (x_values, w_values) = (values(x), values(w));
    x_values
        .chunks(x.in_features)
        .flat_map(|token| {
            w_values.chunks(w.in_features).zip(bias).map(move |(row, &bias)| {
                let dot: f64 = token.iter().zip(row).map(|(x, w)| x * w).sum();
                (dot + f64::from(bias)) as f32
            })
        })
        .collect()
}

/// The product on both devices against [`exact`], relative to the root mean square.
fn check(what: &str, x: &PackedRows, w: &PackedRows, tolerance: f32) {
    let bias = values(w.rows(), 9);
    let expected = exact(x, w, &bias);
    for (name, device) in devices() {
        let [x, w] = [x, w].map(|rows| PackedTensor::from_rows(rows, &device));
        let y = read(qmatmul(&x, &w, vector(&bias, &device)));
        assert_matches(&format!("{what} on {name}"), &y, &expected, tolerance);
    }
}

/// Three rows of `k` values `center + spread · u`.
fn rows_around(center: f32, spread: f32, k: usize) -> Vec<f32> {
    values(3 * k, 4).into_iter().map(|u| center + spread * u).collect()
}

fn weight_of(
    values: &[f32],
    k: usize,
    (bits, scheme): (Bits, Scheme),
    group: Option<usize>,
) -> PackedRows {
    let calibration = Calibration::MinMax;
    quant::quantize_weight(values, k, WeightSpec { bits, scheme, group_size: group, calibration })
}

/// One weight value on many codes, all of one sign, constant: the zero point lies anywhere.
const WEIGHTS: [(f32, f32); 6] =
    [(1.0, 5e-4), (-1.0, 5e-4), (0.5, 0.0), (-0.5, 0.0), (1.0, 0.5), (-1.0, 0.5)];

#[test]
fn zero_points_far_from_the_codes_lose_nothing() {
    let k = 1536;
    let positive: Vec<f32> = values(5 * k, 3).into_iter().map(f32::abs).collect();
    for scheme in [Scheme::AsymmetricReal, Scheme::AsymmetricFree] {
        let x = quant::quantize_tokens(&positive, k, token_spec(Bits::B8));
        for (center, spread) in WEIGHTS {
            let w = weight_of(&rows_around(center, spread, k), k, (Bits::B4, scheme), None);
            check(&format!("{scheme:?} {center} ± {spread}"), &x, &w, 1e-4);
        }
    }
}

#[test]
fn tokens_with_zero_points_far_from_the_codes_lose_nothing() {
    let k = 1536;
    let range = TokenRange::FULL;
    let spec = TokenSpec { bits: Bits::B8, scheme: Scheme::AsymmetricFree, range };
    for (center, spread) in WEIGHTS {
        let x = quant::quantize_tokens(&rows_around(center, spread, k), k, spec);
        for (w_center, w_spread) in [(0.0, 1.0), (1.0, 0.5), (1.0, 5e-4)] {
            let values = rows_around(w_center, w_spread, k);
            let w = weight_of(&values, k, (Bits::B8, Scheme::AsymmetricReal), None);
            check(&format!("x {center} ± {spread}, w {w_center} ± {w_spread}"), &x, &w, 1e-4);
        }
    }
}

#[test]
fn groups_of_any_length_keep_their_own_zero_points() {
    let k = 200;
    let tokens: Vec<f32> = values(5 * k, 3).into_iter().map(|u| u + 0.3).collect();
    for (w_bits, x_bits) in [(Bits::B3, Bits::B4), (Bits::B8, Bits::B8)] {
        let x = quant::quantize_tokens(&tokens, k, token_spec(x_bits));
        for group_size in [32, 64, 96] {
            for (center, spread) in [(0.0, 1.0), (1.0, 5e-4), (-1.0, 0.5), (0.5, 0.0)] {
                let values = rows_around(center, spread, k);
                let form = (w_bits, Scheme::AsymmetricReal);
                let w = weight_of(&values, k, form, Some(group_size));
                assert_eq!(w.groups(), k.div_ceil(group_size));
                check(&format!("W{w_bits} groups of {group_size}, {center}"), &x, &w, 1e-4);
            }
        }
    }
}

#[test]
fn the_longest_sums_of_the_widest_codes_keep_their_precision() {
    let k = 13_824;
    let tokens: Vec<f32> = values(3 * k, 3).into_iter().map(|u| 2.0 * u + 0.7).collect();
    let x = quant::quantize_tokens(&tokens, k, token_spec(Bits::B8));
    let w = weight_of(&rows_around(0.2, 1.0, k), k, (Bits::B8, Scheme::AsymmetricReal), None);
    assert!(w.grids.iter().all(|grid| grid.zero_point.fract() != 0.0));
    check("K = 13824", &x, &w, 1e-5);
    // Every code at its largest: the accumulator holds 255 · 255 · K.
    let ones = vec![255; k];
    let full = |scale, zero_point| PackedRows {
        bits: Bits::B8,
        in_features: k,
        group_size: k,
        codes: pack_rows(Bits::B8, &ones, k),
        grids: vec![Grid { scale, zero_point }],
        code_sums: vec![255 * k as i32],
    };
    check("largest codes", &full(0.01, 0.0), &full(0.003, 101.4), 1e-5);
}

#[test]
#[should_panic(expected = "33056 in_features overflow the accumulator, at most 33025")]
fn sums_that_could_overflow_are_refused() {
    assert_eq!(max_in_features(Bits::B8, Bits::B8), 33_025);
    let rows = PackedRows {
        bits: Bits::B8,
        in_features: 33_056,
        group_size: 33_056,
        codes: vec![u32::MAX; words_per_row(Bits::B8, 33_056)],
        grids: vec![Grid { scale: 1.0, zero_point: 0.0 }],
        code_sums: vec![255 * 33_056],
    };
    let device = Device::flex();
    let rows = PackedTensor::from_rows(&rows, &device);
    qmatmul(&rows, &rows, vector(&[0.0], &device));
}

#[test]
fn tokens_that_are_no_numbers_show_in_every_product() {
    let k = 72;
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, k - 1] {
            let mut x = values(3 * k, 3);
            x[k + at] = bad;
            let w = weight_of(&values(2 * k, 5), k, (Bits::B4, Scheme::AsymmetricReal), None);
            for (name, device) in devices() {
                let packed = quantize_on(matrix(&x, k, &device), token_spec(Bits::B4));
                let y = qmatmul(
                    &packed,
                    &PackedTensor::from_rows(&w, &device),
                    vector(&[0.5, 0.5], &device),
                );
                let what = format!("{bad} at {at} on {name}");
                let scales: Vec<f32> =
                    packed.to_rows().grids.iter().map(|grid| grid.scale).collect();
                assert!(scales[1].is_nan(), "{what}: {scales:?}");
                let y = read(y);
                let finite: Vec<bool> = y.iter().map(|y| y.is_finite()).collect();
                assert_eq!(finite, [true, true, false, false, true, true], "{what}: {y:?}");
            }
        }
    }
}

#[test]
fn no_tokens_give_no_results() {
    let w = weight_of(&values(3 * 40, 5), 40, (Bits::B4, Scheme::AsymmetricReal), None);
    for (name, device) in devices() {
        let w = PackedTensor::from_rows(&w, &device);
        let (x, bias) = (Tensor::<2>::empty([0, 40], &device), vector(&[0.0; 3], &device));
        let packed = quantize_on(x.clone(), token_spec(Bits::B4));
        assert_eq!((packed.rows(), packed.groups()), (0, 1), "{name}");
        assert_eq!(qmatmul(&packed, &w, bias.clone()).dims(), [0, 3], "{name}");
        assert_eq!(qmatmul_float(x.clone(), &w, bias.clone()).dims(), [0, 3], "{name}");
        assert_eq!(qmatvec(x, &w, bias).dims(), [0, 3], "{name}");
    }
}

#[test]
#[should_panic(expected = "group size 0")]
fn an_empty_group_is_refused() {
    let device = Device::flex();
    let w = weight_of(&values(3 * 40, 5), 40, (Bits::B4, Scheme::AsymmetricReal), None);
    assert_eq!(grid_words(&w).len(), 9);
    let mut w = PackedTensor::from_rows(&w, &device);
    w.group_size = 0;
    qmatvec(matrix(&[1.0; 40], 40, &device), &w, vector(&[0.0; 3], &device));
}
