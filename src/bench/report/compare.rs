//! Several devices side by side, without comparing their speed.
//!
//! A ratio of two machines' times says which is larger, which everybody knows. What can be
//! compared is what the *program* makes of each: the fraction of the device's own measured
//! ceilings, and where a case lies between the device's own best and worst case of the suite. A
//! case that is near the best on one device and near the worst on another is a kernel to look at.

use super::table::percent;
use super::{DeviceReport, EntryReport, Report, Table};
use crate::bench::{Identity, Suite};

/// Reports of several devices, compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// What each letter stands for.
    pub devices: Vec<String>,
    /// Facts that make a comparison weaker, in sentences.
    pub warnings: Vec<String>,
    /// A table per suite.
    pub tables: Vec<Table>,
}

/// Compares the devices of all `reports`, each with a name such as its file's.
pub fn compare(reports: &[(String, Report)]) -> Comparison {
    let devices: Vec<(&str, &DeviceReport)> = reports
        .iter()
        .flat_map(|(name, report)| report.devices.iter().map(move |d| (name.as_str(), d)))
        .collect();
    let titles = devices.iter().enumerate().map(|(i, (name, device))| {
        format!("{} = {}, {} [{name}]", letter(i), device.title(), device.driver)
    });
    let tables = Suite::ALL.into_iter().filter_map(|suite| suite_table(suite, &devices));
    Comparison {
        devices: titles.collect(),
        warnings: warnings(reports, &devices),
        tables: tables.collect(),
    }
}

/// A, B, …, Z, A1, B1, …
fn letter(index: usize) -> String {
    let letter = char::from(b'A' + (index % 26) as u8);
    if index < 26 { letter.to_string() } else { format!("{letter}{}", index / 26) }
}

fn warnings(reports: &[(String, Report)], devices: &[(&str, &DeviceReport)]) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut digests: Vec<&str> =
        reports.iter().map(|(_, report)| report.kernels_digest.as_str()).collect();
    digests.dedup();
    if digests.len() > 1 {
        warnings.push("the reports come from programs with different kernels".to_owned());
    }
    for (i, (_, device)) in devices.iter().enumerate() {
        if !device.checksum.is_right {
            warnings.push(format!(
                "{} gets other integers than every conforming device: its numbers mean nothing",
                letter(i)
            ));
        }
        if device.is_software {
            warnings.push(format!("{} is a software device", letter(i)));
        }
    }
    warnings
}

/// The rate by which cases of one suite on one device are ranked.
fn rate(entry: &EntryReport) -> Option<f64> {
    let timed = entry.timed()?;
    let rate = if entry.work.ops() > 0.0 { timed.ops_per_second } else { timed.bytes_per_second };
    Some(rate).filter(|rate| *rate > 0.0)
}

/// Least and largest rate of a suite on a device.
fn range(device: &DeviceReport, suite: Suite) -> Option<(f64, f64)> {
    let entries = device.entries.iter().filter(|entry| entry.identity.suite == suite);
    entries.filter_map(rate).fold(None, |range, rate| {
        let (least, most) = range.unwrap_or((rate, rate));
        Some((rate.min(least), rate.max(most)))
    })
}

fn suite_table(suite: Suite, devices: &[(&str, &DeviceReport)]) -> Option<Table> {
    let mut identities: Vec<&Identity> = Vec::new();
    for (_, device) in devices {
        for entry in device.entries.iter().filter(|entry| entry.identity.suite == suite) {
            if rate(entry).is_some() && !identities.contains(&&entry.identity) {
                identities.push(&entry.identity);
            }
        }
    }
    if identities.is_empty() {
        return None;
    }
    let mut header: Vec<String> =
        ["case", "kernel", "precision"].iter().map(ToString::to_string).collect();
    for i in 0..devices.len() {
        let letter = letter(i);
        header.extend([
            format!("{letter} of ceiling"),
            format!("{letter} of best"),
            format!("{letter} × worst"),
        ]);
    }
    let rows = identities.into_iter().map(|identity| {
        let mut row =
            vec![identity.case.clone(), identity.kernel.clone(), identity.precision.clone()];
        for (_, device) in devices {
            row.extend(cells(device, suite, identity));
        }
        row
    });
    Some(Table {
        title: format!("{suite}: fractions of each device's own limits and own cases"),
        rows: rows.collect(),
        header,
    })
}

fn cells(device: &DeviceReport, suite: Suite, identity: &Identity) -> [String; 3] {
    let entry = device.entries.iter().find(|entry| entry.identity == *identity);
    let found = entry.and_then(|entry| Some((entry.timed()?, rate(entry)?)));
    let (Some((timed, rate)), Some((least, most))) = (found, range(device, suite)) else {
        return Default::default();
    };
    [
        timed.ceiling_fraction.map(percent).unwrap_or_default(),
        percent(rate / most),
        format!("{:.2}", rate / least),
    ]
}
