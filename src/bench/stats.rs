//! Median and spread of repeated timings.

use serde::{Deserialize, Serialize};

/// A set of timings, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Middle value.
    pub median: f64,
    /// Median absolute deviation from the median.
    pub spread: f64,
    /// Least value.
    pub best: f64,
    /// Number of timings.
    pub count: usize,
}

impl Summary {
    /// The summary of `seconds`; `None` if there are none or one is not finite.
    pub fn of(seconds: &[f64]) -> Option<Self> {
        if seconds.is_empty() || seconds.iter().any(|second| !second.is_finite()) {
            return None;
        }
        let median = median(seconds);
        let deviations: Vec<f64> = seconds.iter().map(|second| (second - median).abs()).collect();
        Some(Self {
            median,
            spread: self::median(&deviations),
            best: seconds.iter().copied().fold(f64::INFINITY, f64::min),
            count: seconds.len(),
        })
    }

    /// Standard error of the median, seconds, if the timings were normally distributed.
    pub fn uncertainty(&self) -> f64 {
        // 1.4826 makes a standard deviation of the deviation, 1.2533 is the median's loss.
        1.4826 * 1.2533 * self.spread / (self.count as f64).sqrt()
    }

    /// How many times faster this is than `other`, and the uncertainty of that by propagation of
    /// the relative spreads.
    pub fn speed_up_over(&self, other: &Self) -> (f64, f64) {
        let ratio = other.median / self.median;
        let relative = (self.spread / self.median).hypot(other.spread / other.median);
        (ratio, ratio * relative)
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_interruption_changes_neither_median_nor_spread_much() {
        let calm = Summary::of(&[1.0, 1.1, 0.9, 1.0, 1.0]).unwrap();
        let disturbed = Summary::of(&[1.0, 1.1, 0.9, 1.0, 50.0]).unwrap();
        assert_eq!((calm.median, calm.best), (1.0, 0.9));
        assert_eq!(disturbed.median, 1.0);
        assert!(disturbed.spread < 0.11);
    }

    #[test]
    fn an_even_number_of_timings_has_its_median_between_two() {
        assert_eq!(Summary::of(&[1.0, 2.0, 3.0, 4.0]).unwrap().median, 2.5);
    }

    #[test]
    fn nothing_and_nan_have_no_summary() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn a_ratio_carries_both_spreads() {
        let fast = Summary { median: 1.0, spread: 0.03, best: 1.0, count: 5 };
        let slow = Summary { median: 2.0, spread: 0.08, best: 2.0, count: 5 };
        let (ratio, uncertainty) = fast.speed_up_over(&slow);
        assert!((ratio - 2.0).abs() < 1e-12 && (uncertainty - 0.1).abs() < 1e-12);
    }
}
