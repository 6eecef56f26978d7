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

/// Every run of a plan once, whatever its seed.
fn kinds(plan: &Plan) -> Vec<(String, Kind)> {
    let mut seen = Vec::new();
    for run in plan.runs() {
        let key = (run.bits, run.kind);
        if !seen.contains(&key) {
            seen.push(key);
        }
    }
    seen
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
    for (bits, kind) in kinds(plan) {
        let rows = of(rows, &bits, &kind);
        if !rows.is_empty() {
            let cells: Vec<String> = COLUMNS.iter().map(|column| cell(&rows, column)).collect();
            writeln!(text, "| {bits} | {kind} | {} |", cells.join(" | "))?;
        }
    }
    let (name, ..) = COLUMNS[0];
    writeln!(text, "\n{name}, methods by precision:\n")?;
    by_precision(&mut text, rows, plan)?;
    Ok(text)
}

/// The first column alone, one line for each method.
fn by_precision(text: &mut String, rows: &[Row], plan: &Plan) -> anyhow::Result<()> {
    writeln!(text, "| method | {} |", plan.bits.join(" | "))?;
    writeln!(text, "|---|{}", "---|".repeat(plan.bits.len()))?;
    let mut methods: Vec<Kind> = Vec::new();
    for (_, kind) in kinds(plan) {
        if kind != Kind::Full && !methods.contains(&kind) {
            methods.push(kind);
        }
    }
    for kind in methods {
        let cells: Vec<String> = plan
            .bits
            .iter()
            .map(|bits| match of(rows, bits, &kind) {
                rows if rows.is_empty() => "–".to_owned(),
                rows => cell(&rows, &COLUMNS[0]),
            })
            .collect();
        writeln!(text, "| {kind} | {} |", cells.join(" | "))?;
    }
    Ok(())
}

fn of<'a>(rows: &'a [Row], bits: &str, kind: &Kind) -> Vec<&'a Row> {
    rows.iter().filter(|row| row.run.bits == bits && row.run.kind == *kind).collect()
}

/// Mean and deviation of a column.
fn cell(rows: &[&Row], (_, value, decimals): &Column) -> String {
    let values: Vec<f64> = rows.iter().map(|row| value(row)).collect();
    let (mean, deviation) = spread(&values);
    if values.len() > 1 && deviation > 0.0 {
        format!("{mean:.decimals$} ± {deviation:.decimals$}")
    } else {
        format!("{mean:.decimals$}")
    }
}
