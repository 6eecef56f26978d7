//! A comparator that cannot fail proves nothing: these tests make each of them fail.

mod common;

use common::{assert_close, assert_matches, max_error};

#[test]
#[should_panic(expected = "1 of 3 elements differ")]
fn assert_close_rejects_one_wrong_element() {
    assert_close("x", &[1.0, 2.0, 3.0], &[1.0, 2.1, 3.0], 1e-3, 0.0);
}

#[test]
#[should_panic(expected = "1 of 1 elements differ")]
fn assert_close_rejects_nan() {
    assert_close("x", &[f32::NAN], &[f32::NAN], 1e-3, 1.0);
}

#[test]
#[should_panic(expected = "lengths differ")]
fn assert_close_rejects_a_missing_element() {
    assert_close("x", &[1.0], &[1.0, 2.0], 1e-3, 1.0);
}

#[test]
#[should_panic(expected = "tolerance 1e-4")]
fn assert_matches_rejects_one_wrong_element() {
    assert_matches("x", &[1.0, 1.001], &[1.0, 1.0], 1e-4);
}

#[test]
#[should_panic(expected = "= inf")]
fn assert_matches_rejects_nan() {
    assert_matches("x", &[f32::NAN, 1.0], &[1.0, 1.0], 1e-4);
}

#[test]
fn max_error_is_relative_to_the_root_mean_square() {
    assert!((max_error(&[2.0, 2.2], &[2.0, 2.0]) - 0.1).abs() < 1e-6);
}
