//! What else has an influence on a measurement.

use serde::{Deserialize, Serialize};

/// The computer and the program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Operating system.
    pub os: String,
    /// Architecture of the processor.
    pub arch: String,
    /// Name of the processor, if the system tells.
    pub cpu: Option<String>,
    /// Threads that this process may use.
    pub threads: usize,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        Self {
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            cpu: cpu_name(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

/// The rate of the same f32 multiply-adds before and after a suite: clocks that fall show here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// Which suite ran in between.
    pub suite: String,
    /// Operations per second before it.
    pub before: f64,
    /// Operations per second after it.
    pub after: f64,
}

impl Drift {
    /// Relative change of the rate; negative is slower.
    pub fn change(&self) -> f64 {
        self.after / self.before - 1.0
    }

    /// Whether the numbers of the suite suffer.
    pub fn is_large(&self) -> bool {
        !(-0.1..=0.1).contains(&self.change())
    }
}

/// Circumstances of the measurements on one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conditions {
    /// Seconds that may be spent on the samples of an entry.
    pub seconds_per_entry: f64,
    /// Relative uncertainty of a median at which sampling ends early.
    pub precision: f64,
    /// Processes that waited for a processor on average over a minute before the start, if the
    /// system tells.
    pub load_before: Option<f64>,
    /// The same at the end.
    pub load_after: Option<f64>,
    /// Stability of the clocks, by suite.
    pub drift: Vec<Drift>,
    /// Seconds of the whole run on this device, on the wall.
    pub seconds: f64,
}

/// The load of the last minute, where the system tells.
pub(super) fn load() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_that_falls_by_more_than_a_tenth_is_noticed() {
        let drift = |after| Drift { suite: String::new(), before: 10.0, after };
        assert!(!drift(9.5).is_large());
        assert!(drift(8.0).is_large() && drift(12.0).is_large() && drift(f64::NAN).is_large());
    }
}
