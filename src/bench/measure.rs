//! How long something takes: warm-up, repeats, and a clock that tests can replace.

use super::{Sample, Summary};
use cpu_time::ProcessTime;
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

/// The time that all processors together spent on this process: what other programs do hardly
/// changes it.
#[derive(Debug, Default)]
pub struct CpuClock(Option<ProcessTime>);

impl Clock for CpuClock {
    /// 0 where the system does not tell.
    fn now(&mut self) -> f64 {
        match &self.0 {
            Some(start) => start.try_elapsed().map_or(0.0, |elapsed| elapsed.as_secs_f64()),
            None => {
                self.0 = ProcessTime::try_now().ok();
                0.0
            }
        }
    }
}

/// How often work is repeated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Repeats {
    /// Samples before the first that counts: they compile shaders and wake the device.
    pub warm_up: usize,
    /// Fewest samples.
    pub least: usize,
    /// Most samples.
    pub most: usize,
    /// Seconds to spend on samples once the fewest are there.
    pub seconds: f64,
    /// Relative uncertainty of the median below which there are enough.
    pub precision: f64,
    /// Seconds that a sample should last; shorter work is run several times per sample.
    pub sample_seconds: f64,
    /// Seconds of a run from which one is enough.
    pub long_seconds: f64,
}

impl Default for Repeats {
    fn default() -> Self {
        Self {
            warm_up: 1,
            least: 3,
            most: 200,
            seconds: 0.5,
            precision: 0.005,
            sample_seconds: 0.005,
            long_seconds: 5.0,
        }
    }
}

/// The samples of one entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    /// Runs in each sample.
    pub runs: usize,
    /// Times of one run, by sample.
    pub samples: Vec<Sample>,
}

impl Samples {
    /// The summary of what `time` takes of each sample; `None` if one has none.
    pub fn summary(&self, time: impl Fn(&Sample) -> Option<f64>) -> Option<Summary> {
        let times: Option<Vec<f64>> = self.samples.iter().map(time).collect();
        times.and_then(|times| Summary::of(&times))
    }
}

/// Takes samples until the uncertainty of their median is small or the time is spent.
///
/// `sample(runs)` returns the time of one run out of `runs`; `clock` says how much time the whole
/// takes.
///
/// # Errors
///
/// What `sample` returns.
pub fn measure<E>(
    clock: &mut impl Clock,
    repeats: Repeats,
    sample: &mut dyn FnMut(usize) -> Result<Sample, E>,
) -> Result<Samples, E> {
    let (mut runs, mut least, mut samples) = (1, repeats.least, Vec::new());
    for _ in 0..repeats.warm_up {
        let before = clock.now();
        let first = sample(1)?;
        let seconds = clock.now() - before;
        if seconds > repeats.long_seconds {
            // Nothing that lasts so long needs to be warmed up, or run often.
            samples.push(first);
            least = 1;
            break;
        }
        if seconds > 0.0 {
            runs = ((repeats.sample_seconds / seconds).ceil() as usize).clamp(1, 1000);
        }
    }
    let start = clock.now();
    loop {
        let is_spent = samples.len() >= least && clock.now() - start >= repeats.seconds;
        let is_long = !samples.is_empty() && least < repeats.least;
        let is_most = samples.len() >= repeats.most.max(1);
        if !samples.is_empty() && (is_spent || is_long || is_most || is_precise(&samples, repeats))
        {
            return Ok(Samples { runs, samples });
        }
        samples.push(sample(runs)?);
    }
}

/// Whether the median is known well enough.
fn is_precise(samples: &[Sample], repeats: Repeats) -> bool {
    let times: Vec<f64> = samples.iter().map(|sample| sample.primary).collect();
    times.len() >= repeats.least.max(3)
        && Summary::of(&times).is_some_and(|s| s.uncertainty() <= repeats.precision * s.median)
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

    const EXACT: Repeats = Repeats {
        warm_up: 0,
        least: 2,
        most: 10,
        seconds: 4.0,
        precision: -1.0,
        sample_seconds: 0.0,
        long_seconds: f64::INFINITY,
    };

    /// Samples of runs that take `durations`, the last for ever, and the number of all runs.
    fn run(repeats: Repeats, durations: &[f64]) -> (Samples, usize) {
        let (time, count) = (Cell::new(0.0), Cell::new(0));
        let mut sample = |runs: usize| {
            let before = time.get();
            for _ in 0..runs {
                time.set(time.get() + durations[count.get().min(durations.len() - 1)]);
                count.set(count.get() + 1);
            }
            let seconds = (time.get() - before) / runs as f64;
            Ok::<_, Infallible>(Sample::of_primary(seconds))
        };
        let samples = measure(&mut FakeClock(&time), repeats, &mut sample).unwrap();
        (samples, count.get())
    }

    fn median(samples: &Samples) -> f64 {
        samples.summary(|sample| Some(sample.primary)).unwrap().median
    }

    #[test]
    fn warm_up_is_not_timed() {
        let repeats = Repeats { warm_up: 1, least: 3, most: 3, seconds: 1000.0, ..EXACT };
        let (samples, runs) = run(repeats, &[100.0, 1.0, 1.0, 1.0]);
        assert_eq!((median(&samples), samples.samples.len(), runs), (1.0, 3, 4));
    }

    #[test]
    fn timings_go_on_until_the_time_is_spent_or_the_most_are_there() {
        assert_eq!(run(EXACT, &[1.0]).0.samples.len(), 4);
        assert_eq!(run(EXACT, &[0.001]).0.samples.len(), 10);
        assert_eq!(run(EXACT, &[60.0]).0.samples.len(), 2);
    }

    #[test]
    fn calm_timings_end_early_and_noisy_ones_do_not() {
        let repeats = Repeats { precision: 0.01, least: 4, most: 100, seconds: 1e9, ..EXACT };
        assert_eq!(run(repeats, &[1.0]).0.samples.len(), 4);
        let noisy: Vec<f64> = (0..200).map(|i| 1.0 + 0.2 * f64::from(i * 7 % 5)).collect();
        assert_eq!(run(repeats, &noisy).0.samples.len(), 100);
    }

    #[test]
    fn short_work_is_run_several_times_per_sample() {
        let repeats = Repeats { warm_up: 1, most: 2, sample_seconds: 0.02, ..EXACT };
        let (samples, runs) = run(repeats, &[0.001]);
        assert_eq!((samples.runs, runs), (20, 1 + 2 * 20));
        assert!((median(&samples) - 0.001).abs() < 1e-9);
    }

    #[test]
    fn work_that_lasts_for_ever_is_run_once() {
        let repeats = Repeats { warm_up: 1, long_seconds: 5.0, ..EXACT };
        let (samples, runs) = run(repeats, &[30.0]);
        assert_eq!((median(&samples), samples.samples.len(), runs), (30.0, 1, 1));
    }

    #[test]
    fn an_error_ends_the_measurement() {
        let mut clock = WallClock::default();
        let result = measure(&mut clock, Repeats::default(), &mut |_| Err("lost"));
        assert_eq!(result, Err("lost"));
    }
}
