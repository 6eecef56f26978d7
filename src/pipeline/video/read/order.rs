//! The order in which people number files.

use std::cmp::Ordering;

/// Compares names so that `frame_2` comes before `frame_10`: runs of digits as numbers, of any
/// length, everything else by code point.
pub fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut rest_a, mut rest_b) = (a, b);
    while !rest_a.is_empty() && !rest_b.is_empty() {
        let (run_a, run_b) = (run(rest_a), run(rest_b));
        let is_number = |run: &str| run.starts_with(|c: char| c.is_ascii_digit());
        let order = if is_number(run_a) && is_number(run_b) {
            let [a, b] = [run_a, run_b].map(|run| run.trim_start_matches('0'));
            a.len().cmp(&b.len()).then_with(|| a.cmp(b))
        } else {
            run_a.cmp(run_b)
        };
        if order != Ordering::Equal {
            return order;
        }
        (rest_a, rest_b) = (&rest_a[run_a.len()..], &rest_b[run_b.len()..]);
    }
    // The shorter first; equal numbers with different zeros still need an order.
    rest_a.len().cmp(&rest_b.len()).then_with(|| a.cmp(b))
}

/// The digits that `text` begins with, or what comes before its first digit.
fn run(text: &str) -> &str {
    let is_digit = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != is_digit).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_and_zeros_in_front_do_not() {
        let mut names = ["f10", "f2", "f1", "f02", "g", "f2b", "", "f", "f99999999999999999999999"];
        names.sort_by(|a, b| natural_order(a, b));
        let sorted = ["", "f", "f1", "f02", "f2", "f2b", "f10", "f99999999999999999999999", "g"];
        assert_eq!(names, sorted);
    }
}
