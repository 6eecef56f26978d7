//! All entries on one device.

use super::conditions::load;
use super::{
    Baseline, Ceilings, ChecksumReport, Conditions, DeviceReport, Drift, Entry, EntryReport,
    Failure, Job, Outcome, Repeats, SpeedUp, Stopwatch, Suite, Timed, WallClock, checksum, measure,
};
use crate::bench::report::{Breakdown, KernelShare};
use crate::kernels::device::OpenDevice;
use crate::kernels::profile_kernels;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Something worth telling while it runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// The device's limits are known.
    Ceilings(&'a Ceilings),
    /// The checksum is known.
    Checksum(&'a ChecksumReport),
    /// An entry begins; `done` of `total` are finished.
    Start {
        /// The entry.
        entry: &'a Entry,
        /// Finished entries.
        done: usize,
        /// All entries.
        total: usize,
    },
    /// An entry is finished.
    Finished(&'a EntryReport),
}

/// Measures the ceilings, the checksum, and all `entries` on a device; `is_cancelled` ends it
/// between two entries.
///
/// Nothing that one entry does, a panic of the driver included, keeps the next from running.
pub fn run_device(
    open: &OpenDevice,
    entries: &[Entry],
    repeats: Repeats,
    is_cancelled: &dyn Fn() -> bool,
    tell: &mut dyn FnMut(Event<'_>),
) -> DeviceReport {
    let start = Instant::now();
    let mut stopwatch = Stopwatch::new(open);
    let mut conditions = Conditions {
        seconds_per_entry: repeats.seconds,
        precision: repeats.precision,
        load_before: load(),
        ..Conditions::default()
    };
    let ceilings = Ceilings::measure(open, &mut stopwatch, repeats);
    tell(Event::Ceilings(&ceilings));
    let checksum = guarded(|| checksum(&open.device)).unwrap_or_else(|failure| {
        log::warn!("the checksum: {failure}");
        ChecksumReport::missing()
    });
    tell(Event::Checksum(&checksum));
    let mut reports: Vec<EntryReport> = Vec::new();
    let mut suite: Option<(Suite, Option<f64>)> = None;
    for (done, entry) in entries.iter().enumerate() {
        if is_cancelled() {
            break;
        }
        if suite.is_none_or(|(suite, _)| suite != entry.identity.suite) {
            end_suite(&mut conditions, suite.take(), open, &mut stopwatch);
            suite = Some((entry.identity.suite, Ceilings::f32_now(open, &mut stopwatch)));
        }
        tell(Event::Start { entry, done, total: entries.len() });
        let outcome = match guarded(|| run_entry(open, entry, repeats, &ceilings, &mut stopwatch)) {
            Ok(timed) => Outcome::Timed(Box::new(timed)),
            Err(Failure::Skipped(reason)) => Outcome::Skipped { reason },
            Err(failure) => Outcome::Unverified { reason: failure.to_string() },
        };
        let identity = entry.identity.clone();
        let report = EntryReport { identity, baseline: entry.baseline, work: entry.work, outcome };
        tell(Event::Finished(&report));
        reports.push(report);
    }
    end_suite(&mut conditions, suite, open, &mut stopwatch);
    add_speed_ups(&mut reports);
    conditions.load_after = load();
    conditions.seconds = start.elapsed().as_secs_f64();
    DeviceReport::new(open, stopwatch.source(), ceilings, checksum, conditions, reports)
}

fn end_suite(
    conditions: &mut Conditions,
    suite: Option<(Suite, Option<f64>)>,
    open: &OpenDevice,
    stopwatch: &mut Stopwatch,
) {
    if let Some((suite, Some(before))) = suite
        && let Some(after) = Ceilings::f32_now(open, stopwatch)
    {
        conditions.drift.push(Drift { suite: suite.name().to_owned(), before, after });
    }
}

/// What `work` returns, or its panic as a failure of the device.
fn guarded<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("it stopped without a reason");
        let words: Vec<&str> = text.split_whitespace().collect();
        Err(Failure::Device(words.join(" ").chars().take(300).collect()))
    })
}

fn run_entry(
    open: &OpenDevice,
    entry: &Entry,
    repeats: Repeats,
    ceilings: &Ceilings,
    stopwatch: &mut Stopwatch,
) -> Result<Timed, Failure> {
    if entry.largest_tensor > open.max_elements() {
        return Err(Failure::Skipped(format!(
            "needs a tensor of {} values, the device binds {}",
            entry.largest_tensor,
            open.max_elements()
        )));
    }
    let mut job = entry.prepare(&open.device)?;
    job.run();
    let verified = job.verify()?;
    let mut sample = |runs| stopwatch.sample(runs, job.as_mut());
    let samples = measure(&mut WallClock::default(), repeats, &mut sample)?;
    // What was timed, and not only what was run first, has to be right.
    let again = job.verify()?;
    let none = || Failure::Device("its clock gave no finite time".to_owned());
    let seconds = samples.summary(|sample| Some(sample.primary)).ok_or_else(none)?;
    if seconds.median <= 0.0 {
        return Err(none());
    }
    let wall = samples.summary(|sample| Some(sample.wall)).ok_or_else(none)?;
    let cpu = samples.summary(|sample| Some(sample.cpu)).ok_or_else(none)?;
    let floor = ceilings.floor(&entry.work);
    let breakdown = if entry.has_breakdown && open.adapter.is_some() {
        Some(breakdown(open, job.as_mut(), seconds.median)?)
    } else {
        None
    };
    Ok(Timed {
        seconds,
        wall_seconds: wall,
        cpu_seconds: cpu,
        runs_per_sample: samples.runs,
        error: verified.error.max(again.error),
        tolerance: verified.tolerance,
        form: job.form(),
        ops_per_second: entry.work.ops() / seconds.median,
        bytes_per_second: entry.work.bytes / seconds.median,
        bound: floor.map(|(_, bound)| bound),
        ceiling_fraction: floor.map(|(least, _)| least / seconds.median),
        speed_ups: Vec::new(),
        breakdown,
    })
}

/// The time of one more run by kernel. Waiting after each dispatch makes that run longer, so the
/// whole is that of the runs that were timed; what the kernels leave of it is Burn's.
fn breakdown(
    open: &OpenDevice,
    job: &mut dyn Job,
    whole_seconds: f64,
) -> Result<Breakdown, Failure> {
    let (result, kernels) = profile_kernels(&open.device, || {
        job.run();
        open.device.sync()
    });
    result.map_err(Failure::device)?;
    let shares = kernels.iter().map(|kernel| KernelShare {
        kernel: kernel.name.to_owned(),
        calls: kernel.calls,
        seconds: kernel.seconds,
    });
    Ok(Breakdown { kernels: shares.collect(), whole_seconds })
}

/// Compares every entry with the baselines of the same case.
fn add_speed_ups(reports: &mut [EntryReport]) {
    let baselines: Vec<_> = reports
        .iter()
        .filter_map(|report| {
            let timed = report.timed()?;
            Some((report.baseline?, report.identity.clone(), timed.seconds))
        })
        .collect();
    for report in reports {
        let (identity, own) = (report.identity.clone(), report.baseline);
        let Outcome::Timed(timed) = &mut report.outcome else { continue };
        let others = baselines
            .iter()
            .filter(|(baseline, other, _)| identity.is_comparable(other) && own != Some(*baseline));
        timed.speed_ups = others
            .map(|(baseline, _, seconds)| {
                let (ratio, uncertainty) = timed.seconds.speed_up_over(seconds);
                SpeedUp { over: *baseline, ratio, uncertainty }
            })
            .collect();
        timed.speed_ups.sort_by_key(|speed_up| order(speed_up.over));
    }
}

fn order(baseline: Baseline) -> u8 {
    match baseline {
        Baseline::F32 => 0,
        Baseline::Burn => 1,
        Baseline::BurnF16 => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Identity, Verified, Work};

    /// Work that takes no time and is right or not.
    struct Nothing(f64);

    impl Job for Nothing {
        fn run(&mut self) {
            assert!(self.0 < 2.0, "the driver stops");
            std::hint::black_box((0..2000).sum::<u64>());
        }

        fn verify(&mut self) -> Result<Verified, Failure> {
            Verified::within(self.0, 0.5)
        }
    }

    fn entry(kernel: &str, error: f64, largest: usize) -> Entry {
        let identity = Identity::new(Suite::Matmul, "case", kernel, "w4a4", &[("tokens", 1)]);
        let work = Work { f32_ops: 1.0, ..Work::default() };
        Entry::new(identity, work, largest, move |_| Ok(Box::new(Nothing(error))))
    }

    fn run(entries: &[Entry]) -> DeviceReport {
        let repeats = Repeats { warm_up: 0, least: 2, most: 2, seconds: 0.0, ..Repeats::default() };
        run_device(&OpenDevice::cpu(), entries, repeats, &|| false, &mut |_| ())
    }

    #[test]
    fn wrong_results_and_panics_give_no_number_and_do_not_stop_the_others() {
        let entries = [
            entry("wrong", 1.0, 1),
            entry("nan", f64::NAN, 1),
            entry("panics", 3.0, 1),
            entry("right", 0.1, 1),
            entry("base", 0.0, 1).as_baseline(Baseline::Burn),
        ];
        let report = run(&entries);
        let timed: Vec<bool> = report.entries.iter().map(|e| e.timed().is_some()).collect();
        assert_eq!(timed, [false, false, false, true, true]);
        assert!(report.has_failures());
        let reason = |i: usize| match &report.entries[i].outcome {
            Outcome::Unverified { reason } => reason.clone(),
            other => panic!("{other:?}"),
        };
        assert!(reason(0).contains("differs") && reason(2).contains("the driver stops"));
        let speed_ups = &report.entries[3].timed().unwrap().speed_ups;
        assert_eq!((speed_ups.len(), speed_ups[0].over), (1, Baseline::Burn));
        assert!(report.entries[4].timed().unwrap().speed_ups.is_empty());
        assert_eq!(report.conditions.drift.len(), 1);
    }

    #[test]
    fn cancelling_ends_the_run_between_entries() {
        let (entries, repeats) = ([entry("a", 0.0, 1)], Repeats::default());
        let report = run_device(&OpenDevice::cpu(), &entries, repeats, &|| true, &mut |_| ());
        assert!(report.entries.is_empty());
    }
}
