//! The portable benchmark: how fast a device is, verified, repeated, with its spread.
//!
//! An [`Entry`] is verified against the plain-Rust twin (or an f64 computation of the same formula)
//! at the size that is timed, before and after it is timed; unverified means no number. What is
//! timed comes with its work in operations and bytes, and the same run measures what the device
//! reaches at most ([`Ceilings`]), so that every number is a fraction of something measured there.
//!
//! | to find | open |
//! |---|---|
//! | what a suite runs | `suites/<suite>.rs` |
//! | when a measurement is long enough | [`measure()`] |
//! | which clock is believed on which device | [`Stopwatch`] |
//! | the format of `--json` | [`Report`] and the structures in it |
//! | how machines are compared | [`compare`] |
//!
//! The clock is a trait, so that all of this is tested without a device and without waiting.

mod ceilings;
mod checksum;
mod conditions;
mod entry;
pub mod html;
mod identity;
mod measure;
mod models;
mod random;
mod report;
mod run;
mod stats;
mod stopwatch;
mod suites;
mod weights;

pub use ceilings::{Ceilings, Rate};
pub use checksum::{CHECKSUM, ChecksumReport, checksum, twin_checksum};
pub use conditions::{Conditions, Drift, Machine};
pub use entry::{Entry, Failure, Job, Verified, relative_difference};
pub use identity::{Baseline, Identity, Suite, Work};
pub use measure::{Clock, CpuClock, Repeats, Samples, WallClock, measure};
pub use models::Model;
pub use report::{
    Bound, Comparison, DeviceReport, EntryReport, Outcome, ReadError, Report, SCHEMA,
    SCHEMA_VERSION, SpeedUp, Table, Timed, compare, read_report, tables,
};
pub use run::{Event, run_device};
pub use stats::Summary;
pub use stopwatch::{Sample, Stopwatch, TimeSource};
pub use suites::{Selection, entries};
pub use weights::RandomWeights;
