//! The forms of the CPU device against the plain twins: every one that this processor can run.

use crate::common::assert_close;
use crate::{grid_words, token_spec, values, weight};
use qvgen::kernels::attention::{self, Attention};
use qvgen::kernels::cpu::{self, Form, RowsBuffer};
use qvgen::kernels::{qmatmul::reference, qmatmul_float};
use qvgen::quant::{
    Bits, Calibration, PackedRows, Scheme, TokenRange, TokenSpec, WeightSpec, quantize_tokens,
    quantize_weight,
};

/// `(m, n, k)`: single ones, ragged in every direction, several tiles of any form.
const SHAPES: [(usize, usize, usize); 5] =
    [(1, 1, 1), (1, 130, 33), (7, 17, 64), (13, 70, 200), (400, 80, 40)];

#[track_caller]
fn assert_equal_to_twin(what: &str, x: PackedRows, w: PackedRows) {
    let bias = values(w.rows(), 9);
    let expected = reference(&x, &w, &bias);
    let (x, w) = (RowsBuffer::from(x), RowsBuffer::from(w));
    for form in Form::available() {
        let y = cpu::qmatmul(form, x.view(), w.view(), &bias);
        assert_eq!(y.len(), expected.len(), "{what} by {}", form.name());
        let wrong = y.iter().zip(&expected).position(|(y, e)| y.to_bits() != e.to_bits());
        let shown = wrong.map(|at| (at, y[at], expected[at]));
        assert_eq!(shown, None, "{what} by {}", form.name());
    }
}

#[test]
fn products_of_every_form_equal_the_twin_to_the_last_bit() {
    for w_bits in Bits::ALL {
        for x_bits in Bits::ALL {
            for (m, n, k) in SHAPES {
                for group_size in [None, Some(32)] {
                    let x = quantize_tokens(&values(m * k, 3), k, token_spec(x_bits));
                    let w = weight(n, k, w_bits, group_size.filter(|&size| size < k));
                    let what = format!("W{w_bits}A{x_bits} {m}×{n}×{k} {group_size:?}");
                    assert_equal_to_twin(&what, x, w);
                }
            }
        }
    }
}

#[test]
fn products_of_long_rows_do_not_overflow() {
    // Codes of 255 only: the largest sums that the accumulator is asked to hold, in several spans.
    let k = 13824;
    let ones = |rows: usize| vec![1.0; rows * k];
    let range = TokenRange::Static { min: -1.0, max: 1.0 };
    for scheme in [Scheme::Asymmetric, Scheme::AsymmetricFree] {
        let spec = TokenSpec { bits: Bits::B8, scheme, range };
        let x = quantize_tokens(&ones(7), k, spec);
        assert_equal_to_twin("255 · 255", x.clone(), quantize_tokens(&ones(19), k, spec));
        assert_equal_to_twin("random", x, weight(19, k, Bits::B8, None));
    }
}

#[test]
fn tokens_that_are_no_numbers_make_results_that_are_none() {
    let k = 40;
    let mut x = values(3 * k, 1);
    x[k] = f32::NAN;
    let x = RowsBuffer::from(quantize_tokens(&x, k, token_spec(Bits::B4)));
    let w = RowsBuffer::from(weight(20, k, Bits::B4, None));
    for form in Form::available() {
        let y = cpu::qmatmul(form, x.view(), w.view(), &[0.0; 20]);
        let is_nan: Vec<bool> = y.chunks(20).map(|row| row.iter().all(|y| y.is_nan())).collect();
        assert_eq!(is_nan, [false, true, false], "{}", form.name());
    }
}

#[test]
fn float_products_and_values_of_every_form_match_the_twin() {
    for bits in Bits::ALL {
        for (m, n, k) in SHAPES.into_iter().chain([(3, 20, 1300)]) {
            for group_size in [None, Some(32)] {
                let w = weight(n, k, bits, group_size.filter(|&size| size < k));
                let (x, bias) = (values(m * k, 3), values(n, 9));
                let expected = qmatmul_float::reference(&x, &w, &bias);
                let rows = RowsBuffer::from(w.clone());
                for form in Form::available() {
                    let what = format!("W{bits} {m}×{n}×{k} {group_size:?} by {}", form.name());
                    let y = cpu::qmatmul_float(form, &x, rows.view(), &bias);
                    assert_close(&what, &y, &expected, 1e-5, 3e-5);
                    assert_eq!(cpu::dequantize(form, rows.view()), w.values(), "{what}");
                }
            }
        }
    }
}

/// Tokens of every kind: ordinary, not finite, of one sign, constant, zero.
fn tokens(k: usize) -> Vec<f32> {
    let mut x = values(9 * k, 4);
    x[k + k / 2] = f32::NAN;
    x[2 * k] = f32::NEG_INFINITY;
    x[4 * k - 1] = f32::INFINITY;
    x[4 * k..5 * k].iter_mut().for_each(|x| *x = x.abs() + 0.5);
    x[5 * k..6 * k].iter_mut().for_each(|x| *x = -x.abs());
    x[6 * k..7 * k].fill(3.0);
    x[7 * k..8 * k].fill(0.0);
    x
}

#[test]
fn quantized_tokens_of_every_form_equal_the_twin() {
    let ranges = [
        TokenRange::FULL,
        TokenRange::Dynamic { clip_upper: 0.9, clip_lower: 0.8 },
        TokenRange::Static { min: -0.3, max: 0.4 },
    ];
    for bits in Bits::ALL {
        for scheme in Scheme::ALL {
            for range in ranges {
                for k in [1, 33, 200] {
                    let spec = TokenSpec { bits, scheme, range };
                    let twin = quantize_tokens(&tokens(k), k, spec);
                    for form in Form::available() {
                        let (codes, grid) = cpu::quantize_tokens(form, &tokens(k), k, spec);
                        assert_eq!(codes, twin.codes, "{spec:?} {k} by {}", form.name());
                        assert_eq!(grid, grid_words(&twin), "{spec:?} {k} by {}", form.name());
                    }
                }
            }
        }
    }
}

#[test]
fn quantized_weights_of_every_form_equal_the_twin() {
    let (n, k) = (5, 72);
    let w = values(n * k, 5);
    for bits in Bits::ALL {
        for scheme in Scheme::ALL {
            for group_size in [None, Some(32)] {
                for calibration in [Calibration::MinMax, Calibration::Mse] {
                    let spec = WeightSpec { bits, scheme, group_size, calibration };
                    let twin = quantize_weight(&w, k, spec);
                    for form in Form::available() {
                        let (codes, grid) = cpu::quantize_weight(form, &w, k, spec);
                        assert_eq!(codes, twin.codes, "{spec:?} by {}", form.name());
                        assert_eq!(grid, grid_words(&twin), "{spec:?} by {}", form.name());
                    }
                }
            }
        }
    }
}

#[test]
fn attention_of_every_form_matches_the_twin() {
    for (queries, keys, heads) in [(1, 1, 1), (1, 40, 2), (17, 33, 3), (65, 130, 2), (40, 1000, 1)]
    {
        for head_dim in [5, 16, 128, 384] {
            let len = |tokens: u32| (tokens * heads * head_dim) as usize;
            let (q, k, v) = (values(len(queries), 1), values(len(keys), 2), values(len(keys), 3));
            let scale = 1.7 / (head_dim as f32).sqrt();
            let params = attention::Params { queries, keys, heads, scale };
            let (o, lse) = attention::reference(Attention { head_dim }, &q, &k, &v, params);
            for form in Form::available() {
                let what = format!("{params:?} of {head_dim} by {}", form.name());
                let y = cpu::attention(form, head_dim as usize, [&q, &k, &v], params);
                assert_close(&what, &y.0, &o, 1e-5, 1e-5);
                assert_close(&what, &y.1, &lse, 1e-5, 1e-5);
            }
        }
    }
}
