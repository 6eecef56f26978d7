//! Reports that someone else wrote.

use super::{Outcome, Report, SCHEMA, SCHEMA_VERSION};
use serde_json::Value;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Longest file that is read: a report of every suite has a few hundred kilobytes.
const MAX_BYTES: u64 = 64 << 20;

/// Why a file is no report that this program can use.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("{source}: {}", path.display())]
    Io {
        /// The system's words.
        source: std::io::Error,
        /// Which file.
        path: PathBuf,
    },
    /// It is something else.
    #[error("this is no report of `qvgen bench --json` ({message}): {}", path.display())]
    Foreign {
        /// What is missing or wrong.
        message: String,
        /// Which file.
        path: PathBuf,
    },
    /// A later program wrote it.
    #[error(
        "the report has version {found} of its format and this program reads {SCHEMA_VERSION}; \
         use the program that wrote it ({program}): {}",
        path.display()
    )]
    OtherVersion {
        /// Version in the file.
        found: u64,
        /// Version of the program in the file.
        program: String,
        /// Which file.
        path: PathBuf,
    },
}

/// Reads a report; numbers that no measurement gives are refused.
///
/// # Errors
///
/// If the file cannot be read, is no report, or is of another version.
pub fn read_report(path: &Path) -> Result<Report, ReadError> {
    let io = |source| ReadError::Io { source, path: path.to_owned() };
    let foreign = |message: String| ReadError::Foreign { message, path: path.to_owned() };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(io)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(foreign(format!("it is longer than {} MiB", MAX_BYTES >> 20)));
    }
    let value: Value = serde_json::from_slice(&bytes).map_err(|err| foreign(err.to_string()))?;
    if value.get("schema").and_then(Value::as_str) != Some(SCHEMA) {
        return Err(foreign(format!("its \"schema\" is not \"{SCHEMA}\"")));
    }
    let found = value.get("schema_version").and_then(Value::as_u64).unwrap_or(0);
    if found != SCHEMA_VERSION {
        let program = value.get("program_version").and_then(Value::as_str).unwrap_or("unknown");
        let program = printable(program);
        return Err(ReadError::OtherVersion { found, program, path: path.to_owned() });
    }
    let mut report: Report =
        serde_json::from_value(value).map_err(|err| foreign(printable(&err.to_string())))?;
    check(&report).map_err(foreign)?;
    clean(&mut report);
    Ok(report)
}

fn check(report: &Report) -> Result<(), String> {
    for device in &report.devices {
        for entry in &device.entries {
            let Some(timed) = entry.timed() else { continue };
            let is_time = |value: f64| value.is_finite() && value > 0.0;
            let is_amount = |value: f64| value.is_finite() && value >= 0.0;
            let work = entry.work;
            let is_sound = is_time(timed.seconds.median)
                && is_amount(timed.seconds.spread)
                && [work.f32_ops, work.f16_ops, work.integer_ops, work.bytes]
                    .into_iter()
                    .all(is_amount)
                && is_amount(timed.ops_per_second)
                && is_amount(timed.bytes_per_second)
                && timed.ceiling_fraction.is_none_or(is_amount);
            if !is_sound {
                return Err(format!("impossible numbers for {}", printable_identity(entry)));
            }
        }
    }
    Ok(())
}

fn printable_identity(entry: &super::EntryReport) -> String {
    printable(&entry.identity.to_string())
}

/// Text without the control characters that move a terminal's cursor, and of bounded length.
fn printable(text: &str) -> String {
    let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    text.trim().to_owned()
}

fn clean(report: &mut Report) {
    for device in &mut report.devices {
        for text in [&mut device.name, &mut device.backend, &mut device.kind, &mut device.driver] {
            *text = printable(text);
        }
        for entry in &mut device.entries {
            let identity = &mut entry.identity;
            for text in [&mut identity.case, &mut identity.kernel, &mut identity.precision] {
                *text = printable(text);
            }
            if let Outcome::Timed(timed) = &mut entry.outcome
                && let Some(form) = &mut timed.form
            {
                *form = printable(form);
            }
        }
    }
}
