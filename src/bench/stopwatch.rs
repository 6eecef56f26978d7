//! Times of one job on one device, by the best clock there is.

use super::{Clock, CpuClock, Failure, Job, WallClock};
use crate::kernels::device::OpenDevice;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

/// Which clock's times are reported and compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeSource {
    /// Timestamps that the GPU writes before and after the work.
    GpuTimestamps,
    /// The clock on the wall, between two waits for the device.
    WallClock,
    /// Time that all processors together spent on this process: seconds of one core. For devices
    /// that are processors, because other programs do not change it.
    CpuTime,
}

impl TimeSource {
    /// Name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::GpuTimestamps => "GPU timestamps",
            Self::WallClock => "wall clock",
            Self::CpuTime => "CPU time of the process (seconds of one core)",
        }
    }
}

/// Seconds of one run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// By the stopwatch's [`TimeSource`].
    pub primary: f64,
    /// On the wall.
    pub wall: f64,
    /// Of all processors.
    pub cpu: f64,
}

impl Sample {
    /// A sample of a clock that knows one time.
    pub fn of_primary(primary: f64) -> Self {
        Self { primary, wall: primary, cpu: primary }
    }
}

/// Measures jobs on a device.
#[derive(Debug)]
pub struct Stopwatch {
    device: Device,
    source: TimeSource,
    wall: WallClock,
    cpu: CpuClock,
}

impl Stopwatch {
    /// The stopwatch for a device: CPU time where a CPU does the work, else timestamps if the
    /// device has them, else the wall clock.
    pub fn new(open: &OpenDevice) -> Self {
        let source = match &open.adapter {
            None => TimeSource::CpuTime,
            Some(adapter) if adapter.is_software() => TimeSource::CpuTime,
            Some(adapter) if adapter.has_timestamps => TimeSource::GpuTimestamps,
            Some(_) => TimeSource::WallClock,
        };
        let mut cpu = CpuClock::default();
        cpu.now();
        Self { device: open.device.clone(), source, wall: WallClock::default(), cpu }
    }

    /// Which clock it believes.
    pub fn source(&self) -> TimeSource {
        self.source
    }

    /// The time of one run out of `runs` in a row.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn sample(&mut self, runs: usize, job: &mut dyn Job) -> Result<Sample, Failure> {
        self.device.sync().map_err(Failure::device)?;
        let (wall, cpu) = (self.wall.now(), self.cpu.now());
        let stamped = if self.source == TimeSource::GpuTimestamps {
            Some(self.stamped(runs, job)?)
        } else {
            (0..runs).for_each(|_| job.run());
            None
        };
        self.device.sync().map_err(Failure::device)?;
        let per_run = |seconds: f64| seconds / runs as f64;
        let (wall, cpu) = (per_run(self.wall.now() - wall), per_run(self.cpu.now() - cpu));
        let primary = match self.source {
            TimeSource::GpuTimestamps => per_run(stamped.unwrap_or(f64::NAN)),
            TimeSource::WallClock => wall,
            TimeSource::CpuTime => cpu,
        };
        Ok(Sample { primary, wall, cpu })
    }

    fn stamped(&self, runs: usize, job: &mut dyn Job) -> Result<f64, Failure> {
        let (_, duration) =
            self.device.profile(|| (0..runs).for_each(|_| job.run())).map_err(Failure::device)?;
        let ticks = pollster::block_on(duration.resolve());
        let ticks = ticks.ok_or_else(|| Failure::Device("it wrote no timestamps".to_owned()))?;
        Ok(ticks.duration().as_secs_f64())
    }
}
