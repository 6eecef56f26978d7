//! The only place that prints.

use serde::Serialize;
use std::io::{self, Write as _};

/// Text of results. Whoever closed the pipe (`| head`) has seen enough: no error.
pub(super) fn line(text: &str) {
    if writeln!(io::stdout().lock(), "{text}").is_err() {
        std::process::exit(0);
    }
}

/// A line about the work, not part of the results.
pub(super) fn note(text: &str) {
    // Nothing can be said when stderr is gone.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// The error that ends the program.
pub(super) fn error(text: &str) {
    note(&format!("error: {text}"));
}

/// The one JSON document of a command.
///
/// # Errors
///
/// If a value cannot be represented, which plain data always can.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Columns padded to their widest cell; numbers (cells that start with a digit) to the right.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |row: &Vec<String>, i: usize| row.get(i).map_or(0, |cell| cell.chars().count());
    let widths: Vec<usize> = (0..header.len())
        .map(|i| rows.iter().map(|row| cell(row, i)).max().unwrap_or(0).max(header[i].len()))
        .collect();
    let is_number: Vec<bool> = (0..header.len())
        .map(|i| {
            let mut cells =
                rows.iter().filter_map(|row| row.get(i)).filter(|cell| !cell.is_empty());
            cells.all(|cell| cell.starts_with(|c: char| c.is_ascii_digit() || c == '-'))
        })
        .collect();
    let format = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(i, (cell, width))| {
            if is_number[i] { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let header: Vec<String> = header.iter().map(ToString::to_string).collect();
    let lines = std::iter::once(format(&header)).chain(rows.iter().map(|row| format(row)));
    lines.collect::<Vec<_>>().join("\n")
}

/// A number of bytes with a binary unit.
pub(super) fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// Seconds as people say them.
pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.round().max(0.0) as u64;
    match (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s:02} s"),
        (0, h, m, _) => format!("{h} h {m:02} min"),
        (d, h, _, _) => format!("{d} d {h:02} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_words_left_and_numbers_right() {
        let rows = vec![vec!["a".into(), "10.5".into()], vec!["long".into(), "7".into()]];
        assert_eq!(table(&["name", "n"], &rows), "name     n\na     10.5\nlong     7");
    }

    #[test]
    fn durations_have_two_units_at_most() {
        let durations = [0.4, 59.6, 3599.0, 3600.0 * 30.0];
        assert_eq!(durations.map(duration), ["0 s", "1 min 00 s", "59 min 59 s", "1 d 06 h"]);
    }

    #[test]
    fn bytes_have_units() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(3 << 29), "1.5 GiB");
    }
}
