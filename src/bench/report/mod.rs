//! What a run found: the format of `--json`.
//!
//! One document is one [`Report`]. Times are seconds, rates are per second, sizes are bytes;
//! absent values are `null`. A field is never given another meaning: then
//! [`SCHEMA_VERSION`] rises, and older programs refuse the file.

mod compare;
mod read;
mod table;

pub use compare::{Comparison, compare};
pub use read::{ReadError, read_report};
pub use table::{Table, tables};
pub(super) use table::{scaled, time};

use super::{
    Baseline, CHECKSUM, Ceilings, ChecksumReport, Conditions, Identity, Machine, Summary,
    TimeSource, Work,
};
use crate::kernels::device::OpenDevice;
use crate::kernels::{Kernel, KernelVisitor, for_each_kernel};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::time::{SystemTime, UNIX_EPOCH};

/// Name of the format.
pub const SCHEMA: &str = "qvgen-bench";
/// Version of the format.
pub const SCHEMA_VERSION: u64 = 1;

/// Everything that one call of `qvgen bench` measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// [`SCHEMA_VERSION`].
    pub schema_version: u64,
    /// Version of the program.
    pub program_version: String,
    /// First 16 hexadecimal digits of SHA-256 over the text of every shader: equal digests run
    /// equal kernels.
    pub kernels_digest: String,
    /// Seconds since 1970 when it began.
    pub created_unix_seconds: u64,
    /// Where.
    pub machine: Machine,
    /// Adapter by adapter.
    pub devices: Vec<DeviceReport>,
}

impl Report {
    /// A report of `devices`, measured on this machine by this program.
    pub fn new(devices: Vec<DeviceReport>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            schema: SCHEMA.to_owned(),
            schema_version: SCHEMA_VERSION,
            program_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernels_digest: kernels_digest(),
            created_unix_seconds: now.map_or(0, |time| time.as_secs()),
            machine: Machine::here(),
            devices,
        }
    }

    /// Whether something was not verified, or a checksum is wrong.
    pub fn has_failures(&self) -> bool {
        self.devices.iter().any(DeviceReport::has_failures)
    }
}

fn kernels_digest() -> String {
    struct Texts(Sha256);
    impl KernelVisitor for Texts {
        fn visit<K: Kernel>(&mut self) {
            for kernel in K::all() {
                self.0.update(kernel.wgsl());
            }
        }
    }
    let mut texts = Texts(Sha256::new());
    for_each_kernel(&mut texts);
    texts.0.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Everything about one device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// Name of the adapter, or `CPU`.
    pub name: String,
    /// Graphics interface, or `none`.
    pub backend: String,
    /// discrete, integrated, virtual, software, other, or cpu.
    pub kind: String,
    /// Driver and version.
    pub driver: String,
    /// Whether a processor does the work: such numbers say nothing about a GPU.
    pub is_software: bool,
    /// What it offers, in words.
    pub tier: String,
    /// Clock of `seconds`, rates, fractions and ratios.
    pub time_source: TimeSource,
    /// What it reaches at most.
    pub ceilings: Ceilings,
    /// The integers of the fixed workload.
    pub checksum: ChecksumReport,
    /// Circumstances.
    pub conditions: Conditions,
    /// What was asked for, in order.
    pub entries: Vec<EntryReport>,
}

impl DeviceReport {
    /// A report about an open device.
    pub(super) fn new(
        open: &OpenDevice,
        time_source: TimeSource,
        ceilings: Ceilings,
        checksum: ChecksumReport,
        conditions: Conditions,
        entries: Vec<EntryReport>,
    ) -> Self {
        let adapter = open.adapter.as_ref();
        let text = |value: Option<&String>, other: &str| {
            value.map_or_else(|| other.to_owned(), String::clone)
        };
        Self {
            name: text(adapter.map(|a| &a.name), "CPU"),
            backend: text(adapter.map(|a| &a.backend), "none"),
            kind: text(adapter.map(|a| &a.kind), "cpu"),
            driver: text(adapter.map(|a| &a.driver), "plain Rust"),
            is_software: adapter.is_none_or(|a| a.is_software()),
            tier: adapter.map_or("cpu", |a| a.tier()).to_owned(),
            time_source,
            ceilings,
            checksum,
            conditions,
            entries,
        }
    }

    /// Whether an entry was not verified, or the checksum is wrong.
    pub fn has_failures(&self) -> bool {
        let failed = |entry: &EntryReport| matches!(entry.outcome, Outcome::Unverified { .. });
        !self.checksum.is_right || self.entries.iter().any(failed)
    }

    /// Name, interface and, for software, a mark.
    pub fn title(&self) -> String {
        let mark = if self.is_software { ", software" } else { "" };
        format!("{} ({}{mark})", self.name, self.backend)
    }
}

impl ChecksumReport {
    /// Of a device that computed none.
    pub(super) fn missing() -> Self {
        Self { actual: "none".to_owned(), expected: format!("{CHECKSUM:016x}"), is_right: false }
    }
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EntryReport {
    /// What it is.
    pub identity: Identity,
    /// What it is to others.
    pub baseline: Option<Baseline>,
    /// The least that it takes.
    pub work: Work,
    /// What came out.
    pub outcome: Outcome,
}

impl EntryReport {
    /// Its times, if there are any.
    pub fn timed(&self) -> Option<&Timed> {
        match &self.outcome {
            Outcome::Timed(timed) => Some(timed),
            _ => None,
        }
    }
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum Outcome {
    /// Verified and timed.
    Timed(Box<Timed>),
    /// Wrong, or the device failed: no number.
    Unverified {
        /// Why, as the end of a sentence about it.
        reason: String,
    },
    /// The device cannot run it.
    Skipped {
        /// Why.
        reason: String,
    },
}

/// What limits an entry at the ceilings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// Arithmetic.
    Compute,
    /// Memory.
    Bandwidth,
}

/// How many times faster than something else.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SpeedUp {
    /// Than what.
    pub over: Baseline,
    /// Time of the other over time of this.
    pub ratio: f64,
    /// By propagation of both spreads.
    pub uncertainty: f64,
}

/// Times of a verified entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timed {
    /// By the device's time source.
    pub seconds: Summary,
    /// On the wall, waiting for the device included.
    pub wall_seconds: Summary,
    /// Of all processors together.
    pub cpu_seconds: Summary,
    /// Runs that one sample averages over.
    pub runs_per_sample: usize,
    /// Largest difference from the twin, relative to the largest result.
    pub error: f64,
    /// What would still have passed.
    pub tolerance: f64,
    /// The form in which the device computed it: no part of its identity, because each device and
    /// each measurement may choose another.
    #[serde(default)]
    pub form: Option<String>,
    /// Multiplications and additions.
    pub ops_per_second: f64,
    /// Bytes that the work needs at least, over the time.
    pub bytes_per_second: f64,
    /// What limits it at the ceilings.
    pub bound: Option<Bound>,
    /// The least time at the ceilings over the time.
    pub ceiling_fraction: Option<f64>,
    /// Against the baselines of the same case, in the same run.
    pub speed_ups: Vec<SpeedUp>,
    /// Time by kernel.
    pub breakdown: Option<Breakdown>,
}

/// The time of a run by kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Breakdown {
    /// This crate's kernels, each dispatch timed on its own.
    pub kernels: Vec<KernelShare>,
    /// The whole, of the runs without that, by the device's time source, as the kernels' seconds.
    /// What the kernels leave is Burn's own operations and waiting.
    pub whole_seconds: f64,
}

impl Breakdown {
    /// Seconds that no kernel of this crate explains, at least 0.
    pub fn other_seconds(&self) -> f64 {
        let explained: f64 = self.kernels.iter().map(|kernel| kernel.seconds).sum();
        (self.whole_seconds - explained).max(0.0)
    }
}

/// All dispatches of one kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelShare {
    /// Its name.
    pub kernel: String,
    /// Dispatches.
    pub calls: usize,
    /// Seconds of all of them.
    pub seconds: f64,
}
