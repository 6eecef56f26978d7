//! How long something takes: warm-up, repeats, and a clock that tests can replace.

use super::Summary;
use std::time::Instant;

/// Where time comes from.
pub trait Clock {
    /// Seconds since any fixed moment.
    fn now(&mut self) -> f64;
}

/// The clock on the wall.
#[derive(Debug)]
pub struct WallClock(Instant);

impl Default for WallClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for WallClock {
    fn now(&mut self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

/// How often work is repeated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Repeats {
    /// Runs before the first timing: they compile shaders and wake the device.
    pub warm_up: usize,
    /// Fewest timings.
    pub least: usize,
    /// Most timings.
    pub most: usize,
    /// Seconds to spend on timings once the fewest are there.
    pub seconds: f64,
}

impl Default for Repeats {
    fn default() -> Self {
        Self { warm_up: 2, least: 5, most: 100, seconds: 1.0 }
    }
}

/// Times `work`, which must wait until the device is done.
///
/// # Errors
///
/// What `work` returns.
///
/// # Panics
///
/// If `repeats` asks for no timing at all.
pub fn measure<E>(
    clock: &mut impl Clock,
    repeats: Repeats,
    work: &mut dyn FnMut() -> Result<(), E>,
) -> Result<Summary, E> {
    for _ in 0..repeats.warm_up {
        work()?;
    }
    let start = clock.now();
    let mut timings = Vec::new();
    loop {
        let before = clock.now();
        work()?;
        let after = clock.now();
        timings.push(after - before);
        let is_enough = timings.len() >= repeats.least && after - start >= repeats.seconds;
        if is_enough || timings.len() >= repeats.most.max(1) {
            break;
        }
    }
    Ok(Summary::of(&timings).expect("a clock gives finite times and there is at least one"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::convert::Infallible;

    /// A clock that only work moves.
    struct FakeClock<'a>(&'a Cell<f64>);

    impl Clock for FakeClock<'_> {
        fn now(&mut self) -> f64 {
            self.0.get()
        }
    }

    fn run(repeats: Repeats, durations: &[f64]) -> (Summary, usize) {
        let (time, runs) = (Cell::new(0.0), Cell::new(0));
        let mut work = || {
            let duration = durations[runs.get().min(durations.len() - 1)];
            time.set(time.get() + duration);
            runs.set(runs.get() + 1);
            Ok::<_, Infallible>(())
        };
        let summary = measure(&mut FakeClock(&time), repeats, &mut work).unwrap();
        (summary, runs.get())
    }

    #[test]
    fn warm_up_is_not_timed() {
        let repeats = Repeats { warm_up: 1, least: 3, most: 3, seconds: 0.0 };
        let (summary, runs) = run(repeats, &[100.0, 1.0, 1.0, 1.0]);
        assert_eq!((summary.median, summary.count, runs), (1.0, 3, 4));
    }

    #[test]
    fn timings_go_on_until_the_time_is_spent_or_the_most_are_there() {
        let repeats = Repeats { warm_up: 0, least: 2, most: 10, seconds: 4.0 };
        assert_eq!(run(repeats, &[1.0]).0.count, 4);
        assert_eq!(run(repeats, &[0.001]).0.count, 10);
        assert_eq!(run(repeats, &[60.0]).0.count, 2);
    }

    #[test]
    fn an_error_ends_the_measurement() {
        let mut clock = WallClock::default();
        let result = measure(&mut clock, Repeats::default(), &mut || Err("lost"));
        assert_eq!(result, Err("lost"));
    }
}
