//! What can be timed, and how it proves itself first.

use super::{Baseline, Identity, Work};
use burn::tensor::Device;
use std::fmt;

/// Why there is no number.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    /// The device computes something else than the twin.
    #[error(
        "differs from its twin by {error:.1e} where {tolerance:.1e} is allowed, so it was not timed"
    )]
    Differs {
        /// The difference, relative to the largest result.
        error: f64,
        /// What would have passed.
        tolerance: f64,
    },
    /// The device returned nothing, or stopped.
    #[error("the device failed: {0}")]
    Device(String),
    /// It cannot run there, which is no fault.
    #[error("{0}")]
    Skipped(String),
}

impl Failure {
    /// A device's own report, in a line.
    pub fn device(message: impl fmt::Debug) -> Self {
        let text = format!("{message:?}");
        let words: Vec<&str> = text.split_whitespace().collect();
        Self::Device(words.join(" ").chars().take(300).collect())
    }
}

/// That a result is right.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verified {
    /// Largest difference from the twin, relative to the largest result.
    pub error: f64,
    /// What would still have passed.
    pub tolerance: f64,
}

impl Verified {
    /// A comparison of sampled values.
    ///
    /// # Errors
    ///
    /// If they differ by more than `tolerance`, are not finite, or one is missing.
    pub fn compare(actual: &[f32], expected: &[f32], tolerance: f64) -> Result<Self, Failure> {
        Self::within(relative_difference(actual, expected), tolerance)
    }

    /// An error that was computed elsewhere.
    ///
    /// # Errors
    ///
    /// If it exceeds `tolerance` or is NaN.
    pub fn within(error: f64, tolerance: f64) -> Result<Self, Failure> {
        let passes = error <= tolerance; // false for NaN
        if passes {
            Ok(Self { error, tolerance })
        } else {
            Err(Failure::Differs { error, tolerance })
        }
    }
}

/// The largest difference relative to the largest expected value; infinite if one is not finite
/// or missing.
pub fn relative_difference(actual: &[f32], expected: &[f32]) -> f64 {
    if actual.len() != expected.len() {
        return f64::INFINITY;
    }
    let largest = expected.iter().fold(f32::MIN_POSITIVE, |most, value| most.max(value.abs()));
    let worst = actual.iter().zip(expected).fold(0.0_f64, |most, (a, e)| {
        let difference = f64::from((a - e).abs());
        if difference.is_finite() { most.max(difference) } else { f64::INFINITY }
    });
    worst / f64::from(largest)
}

/// Work on a device, with its inputs there.
pub trait Job: Send {
    /// Enqueues the work once and keeps its result.
    fn run(&mut self);

    /// Compares the result of the last [`Job::run`] with the twin.
    ///
    /// # Errors
    ///
    /// If it differs, or the device fails.
    fn verify(&mut self) -> Result<Verified, Failure>;

    /// Which of several forms of the work the last [`Job::run`] took, if there are several.
    fn form(&self) -> Option<String> {
        None
    }
}

/// Makes a [`Job`] on a device.
type Prepare = Box<dyn Fn(&Device) -> Result<Box<dyn Job>, Failure>>;

/// Something to verify and time.
pub struct Entry {
    /// What it is.
    pub identity: Identity,
    /// What it takes at least.
    pub work: Work,
    /// What it is to others.
    pub baseline: Option<Baseline>,
    /// Elements of its largest tensor.
    pub largest_tensor: usize,
    /// Whether its time is also split by kernel.
    pub has_breakdown: bool,
    prepare: Prepare,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Entry {
    /// An entry that is no baseline.
    pub fn new(
        identity: Identity,
        work: Work,
        largest_tensor: usize,
        prepare: impl Fn(&Device) -> Result<Box<dyn Job>, Failure> + 'static,
    ) -> Self {
        Self {
            identity,
            work,
            baseline: None,
            largest_tensor,
            has_breakdown: false,
            prepare: Box::new(prepare),
        }
    }

    /// The same as something that others are compared with.
    #[must_use]
    pub fn as_baseline(mut self, baseline: Baseline) -> Self {
        self.baseline = Some(baseline);
        self
    }

    /// The same, with its time split by kernel.
    #[must_use]
    pub fn with_breakdown(mut self) -> Self {
        self.has_breakdown = true;
        self
    }

    /// Its inputs on `device`.
    ///
    /// # Errors
    ///
    /// If the device cannot run it.
    pub fn prepare(&self, device: &Device) -> Result<Box<dyn Job>, Failure> {
        (self.prepare)(device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_comparison_rejects_a_wrong_value_a_nan_an_infinity_and_a_missing_one() {
        let expected = [1.0, -2.0];
        assert_eq!(relative_difference(&[1.0, -2.0], &expected), 0.0);
        for wrong in [&[1.0, -2.1][..], &[f32::NAN, -2.0], &[f32::INFINITY, -2.0], &[1.0]] {
            assert!(Verified::compare(wrong, &expected, 1e-4).is_err(), "{wrong:?}");
        }
        assert!(Verified::within(f64::NAN, 1.0).is_err());
    }

    #[test]
    fn an_expectation_that_is_not_finite_verifies_nothing() {
        assert!(Verified::compare(&[f32::NAN], &[f32::NAN], 1.0).is_err());
        assert!(Verified::compare(&[f32::INFINITY], &[f32::INFINITY], 1.0).is_err());
    }
}
