//! Reports as tables.

use super::{Bound, DeviceReport, EntryReport, Outcome, Timed};
use crate::bench::{Baseline, Rate, Suite};

/// Text in columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// Names of the columns.
    pub header: Vec<String>,
    /// Cells by row; numbers begin with a digit.
    pub rows: Vec<Vec<String>>,
}

/// The ceilings, then a table per suite, then what every step consists of.
pub fn tables(device: &DeviceReport) -> Vec<Table> {
    let mut tables = vec![ceilings(device)];
    for suite in Suite::ALL {
        let entries: Vec<&EntryReport> =
            device.entries.iter().filter(|entry| entry.identity.suite == suite).collect();
        if !entries.is_empty() {
            tables.push(suite_table(suite, &entries));
        }
    }
    tables.extend(breakdown(device));
    tables
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn ceilings(device: &DeviceReport) -> Table {
    let ceilings = &device.ceilings;
    let row = |what: &str, rate: Option<Rate>, unit: &str| {
        rate.map(|rate| {
            let spread = format!("{:.1} %", 100.0 * rate.relative_spread);
            vec![what.to_owned(), scaled(rate.per_second, unit), spread]
        })
    };
    let codes = if device.kind == "cpu" { "8-bit product" } else { "dot4U8Packed" };
    let rows = [
        row("copy", ceilings.copy_bytes, "B/s"),
        row("f32 multiply-add", ceilings.f32_ops, "FLOP/s"),
        row("f16 multiply-add", ceilings.f16_ops, "FLOP/s"),
        row(codes, ceilings.dot4_ops, "OP/s"),
        row("f16 matrices", ceilings.matrix_ops, "FLOP/s"),
    ];
    Table {
        title: "measured ceilings".to_owned(),
        header: strings(&["rate", "measured", "spread"]),
        rows: rows.into_iter().flatten().collect(),
    }
}

fn suite_table(suite: Suite, entries: &[&EntryReport]) -> Table {
    let timed = || entries.iter().filter_map(|entry| entry.timed());
    let baselines: Vec<Baseline> = [Baseline::F32, Baseline::Burn, Baseline::BurnF16]
        .into_iter()
        .filter(|over| timed().any(|t| t.speed_ups.iter().any(|s| s.over == *over)))
        .collect();
    let has = Columns {
        form: timed().any(|timed| timed.form.is_some()),
        bytes: timed().any(|timed| timed.bytes_per_second > 0.0),
    };
    let mut header = strings(&["case", "kernel", "precision"]);
    header.extend(has.form.then(|| "form".to_owned()));
    header.extend(strings(&["time", "±", "rate"]));
    header.extend(has.bytes.then(|| "memory".to_owned()));
    header.extend(strings(&["of ceiling", "bound"]));
    header.extend(baselines.iter().map(|over| format!("× {}", over.name())));
    let columns = header.len();
    let rows = entries.iter().map(|entry| {
        let identity = &entry.identity;
        let mut row =
            vec![identity.case.clone(), identity.kernel.clone(), identity.precision.clone()];
        match &entry.outcome {
            Outcome::Timed(timed) => row.extend(numbers(entry, timed, &has, &baselines)),
            Outcome::Unverified { reason } => row.push(format!("UNVERIFIED: {reason}")),
            Outcome::Skipped { reason } => row.push(format!("skipped: {reason}")),
        }
        row.truncate(columns);
        row
    });
    Table { title: suite.name().to_owned(), rows: rows.collect(), header }
}

/// Columns that not every suite needs.
struct Columns {
    form: bool,
    bytes: bool,
}

fn numbers(
    entry: &EntryReport,
    timed: &Timed,
    has: &Columns,
    baselines: &[Baseline],
) -> Vec<String> {
    let unit = if entry.work.integer_ops > entry.work.f32_ops + entry.work.f16_ops {
        "OP/s"
    } else {
        "FLOP/s"
    };
    let rate = |rate: f64, unit: &str| {
        if rate > 0.0 { scaled(rate, unit) } else { String::new() }
    };
    let mut row: Vec<String> =
        has.form.then(|| timed.form.clone().unwrap_or_default()).into_iter().collect();
    row.extend([
        time(timed.seconds.median),
        match timed.seconds.count {
            1 => "1 run".to_owned(),
            _ => format!("{:.1} %", 100.0 * timed.seconds.spread / timed.seconds.median),
        },
        rate(timed.ops_per_second, unit),
    ]);
    row.extend(has.bytes.then(|| rate(timed.bytes_per_second, "B/s")));
    row.push(timed.ceiling_fraction.map(percent).unwrap_or_default());
    row.push(match timed.bound {
        Some(Bound::Compute) => "compute".to_owned(),
        Some(Bound::Bandwidth) => "memory".to_owned(),
        None => String::new(),
    });
    row.extend(baselines.iter().map(|over| {
        let speed_up = timed.speed_ups.iter().find(|speed_up| speed_up.over == *over);
        speed_up.map_or_else(String::new, |s| format!("{:.2} ± {:.2}", s.ratio, s.uncertainty))
    }));
    row
}

fn breakdown(device: &DeviceReport) -> Vec<Table> {
    let with = device.entries.iter().filter_map(|entry| {
        entry.timed().and_then(|timed| timed.breakdown.as_ref()).map(|parts| (entry, parts))
    });
    with.map(|(entry, parts)| {
        let explained: f64 = parts.kernels.iter().map(|kernel| kernel.seconds).sum();
        // One dispatch at a time may take longer than all in a row.
        let whole = parts.whole_seconds.max(explained).max(f64::MIN_POSITIVE);
        let mut kernels: Vec<_> = parts.kernels.iter().collect();
        kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let mut rows: Vec<Vec<String>> = kernels
            .into_iter()
            .map(|kernel| {
                let share = percent(kernel.seconds / whole);
                vec![kernel.kernel.clone(), kernel.calls.to_string(), time(kernel.seconds), share]
            })
            .collect();
        let other = parts.other_seconds();
        rows.push(vec![
            "Burn's operations and waiting".to_owned(),
            String::new(),
            time(other),
            percent(other / whole),
        ]);
        let identity = &entry.identity;
        Table {
            title: format!("{} {} {} by kernel", identity.suite, identity.case, identity.precision),
            header: strings(&["kernel", "dispatches", "time", "share"]),
            rows,
        }
    })
    .collect()
}

/// A fraction in percent.
pub(super) fn percent(part: f64) -> String {
    if part < 0.095 { format!("{:.1} %", 100.0 * part) } else { format!("{:.0} %", 100.0 * part) }
}

/// A rate with a decimal prefix and three digits.
pub(in crate::bench) fn scaled(value: f64, unit: &str) -> String {
    let prefixes = ["", "k", "M", "G", "T", "P"];
    let (mut value, mut at) = (value, 0);
    while value >= 999.5 && at + 1 < prefixes.len() {
        value /= 1000.0;
        at += 1;
    }
    format!("{} {}{unit}", three_digits(value), prefixes[at])
}

/// Seconds with a unit and three digits.
pub(in crate::bench) fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{} s", three_digits(s)),
        s if s >= 1e-3 => format!("{} ms", three_digits(s * 1e3)),
        s => format!("{} µs", three_digits(s * 1e6)),
    }
}

fn three_digits(value: f64) -> String {
    let digits = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        let rates = [0.5, 9.99, 99.9, 999.0, 12_345.0, 2.5e13];
        let expected = ["0.50 B/s", "9.99 B/s", "99.9 B/s", "999 B/s", "12.3 kB/s", "25.0 TB/s"];
        assert_eq!(rates.map(|rate| scaled(rate, "B/s")), expected);
        assert_eq!([2.0, 0.0125, 3.2e-6].map(time), ["2.00 s", "12.5 ms", "3.20 µs"]);
        assert_eq!([0.0314, 0.5, 1.2].map(percent), ["3.1 %", "50 %", "120 %"]);
    }
}
