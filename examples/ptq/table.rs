//! Rows to a table.

use super::models::{Kind, Plan, Row};
use std::fmt::Write;

/// Name, value and number of decimals of a column.
type Column = (&'static str, fn(&Row) -> f64, usize);

const COLUMNS: [Column; 10] = [
    ("velocity MSE", |row| 1000.0 * row.velocity, 2),
    ("PSNR", |row| row.psnr, 2),
    ("SSIM", |row| row.ssim, 3),
    ("caption", |row| 100.0 * row.caption, 0),
    ("shape", |row| 100.0 * row.shape, 0),
    ("color", |row| 100.0 * row.color, 0),
    ("direction", |row| 100.0 * row.direction, 0),
    ("background", |row| 100.0 * row.background, 0),
    ("output error", |row| 100.0 * row.output_error, 2),
    ("stored bits", |row| row.stored_bits, 2),
];

/// Mean and standard deviation.
pub(super) fn spread(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (values.len().max(2) - 1) as f64).sqrt())
}

/// The table of all rows, by precision and method in the order of the plan.
pub(super) fn of_models(rows: &[Row], plan: &Plan, device: &str) -> anyhow::Result<String> {
    let mut text = format!(
        "{}. Mean and standard deviation over seeds; velocity MSE in thousandths, accuracies and \
         errors of layer outputs in percent.\n\n",
        plan.describe(device)
    );
    let names: Vec<&str> = COLUMNS.iter().map(|(name, ..)| *name).collect();
    writeln!(text, "| bits | method | {} |", names.join(" | "))?;
    writeln!(text, "|---|---|{}", "---|".repeat(COLUMNS.len()))?;
    let mut seen: Vec<(String, Kind)> = Vec::new();
    for run in plan.runs() {
        let key = (run.bits, run.kind);
        if !seen.contains(&key) {
            line(&mut text, &key, rows)?;
            seen.push(key);
        }
    }
    Ok(text)
}

fn line(text: &mut String, (bits, kind): &(String, Kind), rows: &[Row]) -> anyhow::Result<()> {
    let rows: Vec<&Row> =
        rows.iter().filter(|row| row.run.bits == *bits && row.run.kind == *kind).collect();
    if rows.is_empty() {
        return Ok(());
    }
    write!(text, "| {bits} | {kind} |")?;
    for (_, value, decimals) in COLUMNS {
        let values: Vec<f64> = rows.iter().map(|row| value(row)).collect();
        let (mean, deviation) = spread(&values);
        write!(text, " {mean:.decimals$}")?;
        if values.len() > 1 && deviation > 0.0 {
            write!(text, " ± {deviation:.decimals$}")?;
        }
        write!(text, " |")?;
    }
    writeln!(text)?;
    Ok(())
}
