//! Rows to a table and figures.

use super::figures;
use super::runs::{Kind, Plan, Row};
use anyhow::Context;
use qvgen::train::figures::{Bar, BarFigure, LineFigure, Scale, Series};
use std::fmt::Write;
use std::path::Path;

/// Name, value and number of decimals of a column.
type Column = (&'static str, fn(&Row) -> f64, usize);

const COLUMNS: [Column; 9] = [
    ("caption", |row| 100.0 * row.caption, 0),
    ("shape", |row| 100.0 * row.shape, 0),
    ("color", |row| 100.0 * row.color, 0),
    ("direction", |row| 100.0 * row.direction, 0),
    ("background", |row| 100.0 * row.background, 0),
    ("dynamic degree", |row| row.dynamic, 2),
    ("PSNR", |row| row.psnr, 2),
    ("SSIM", |row| row.ssim, 3),
    ("velocity MSE", |row| 1000.0 * row.velocity, 2),
];

/// Mean and standard deviation.
fn spread(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (values.len().max(2) - 1) as f64).sqrt())
}

/// The kinds that were run, in the order of the plan.
fn kinds(plan: &Plan) -> Vec<Kind> {
    let trained = plan.methods.iter().map(|&method| Kind::Trained(method));
    [Kind::MinMax, Kind::Mse].into_iter().chain(trained).collect()
}

fn rows_of<'a>(rows: &'a [Row], bits: &str, kind: Kind) -> Vec<&'a Row> {
    rows.iter().filter(|row| row.run.bits == bits && row.run.kind == kind).collect()
}

/// Writes `table.md` and the figures, and prints the table.
pub(super) fn write(out: &Path, rows: &[Row], plan: &Plan, device: &str) -> anyhow::Result<()> {
    let mut text = format!(
        "{} steps of {} clips, {} seeds; {device}. Accuracies in percent, velocity MSE in \
         thousandths.\n\n",
        plan.steps, plan.batch, plan.seeds
    );
    let names: Vec<&str> = COLUMNS.iter().map(|(name, ..)| *name).collect();
    writeln!(text, "| bits | method | {} |", names.join(" | "))?;
    writeln!(text, "|---|---|{}", "---|".repeat(COLUMNS.len()))?;
    line(&mut text, "full", Kind::Full, &rows_of(rows, "full", Kind::Full))?;
    for bits in &plan.bits {
        for kind in kinds(plan) {
            line(&mut text, bits, kind, &rows_of(rows, bits, kind))?;
        }
    }
    std::fs::write(out.join("table.md"), &text)?;
    println!("\n{text}");
    std::fs::create_dir_all(figures(out))?;
    for bits in &plan.bits {
        bars(out, rows, plan, bits)?;
        losses(out, rows, plan, bits)?;
    }
    Ok(())
}

fn line(text: &mut String, bits: &str, kind: Kind, rows: &[&Row]) -> anyhow::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    write!(text, "| {bits} | {kind} |")?;
    for (_, value, decimals) in COLUMNS {
        let values: Vec<f64> = rows.iter().map(|row| value(row)).collect();
        let (mean, deviation) = spread(&values);
        write!(text, " {mean:.decimals$}")?;
        if values.len() > 1 {
            write!(text, " ± {deviation:.decimals$}")?;
        }
        write!(text, " |")?;
    }
    writeln!(text)?;
    Ok(())
}

/// How far each method is from full precision.
fn bars(out: &Path, rows: &[Row], plan: &Plan, bits: &str) -> anyhow::Result<()> {
    let bar = |(color, kind): (usize, Kind)| {
        let values: Vec<f64> =
            rows_of(rows, bits, kind).iter().map(|row| 1000.0 * row.velocity).collect();
        let (value, deviation) = spread(&values);
        let spread = (values.len() > 1).then_some(deviation);
        (!values.is_empty()).then(|| Bar { label: kind.to_string(), value, spread, color })
    };
    let figure = BarFigure {
        title: format!("Distance from full precision, {}", bits.to_uppercase()),
        value_label: "velocity MSE on clips no training has seen, thousandths".to_owned(),
        bars: kinds(plan).into_iter().enumerate().filter_map(bar).collect(),
        reference: None,
    };
    figure.write(&figures(out).join(format!("methods-{bits}.svg"))).context("a figure")
}

/// The loss of the methods that are compared by the same loss.
fn losses(out: &Path, rows: &[Row], plan: &Plan, bits: &str) -> anyhow::Result<()> {
    use qvgen::method::qvgen::Method::{QDm, Qvgen, QvgenKept, QvgenOneShot, QvgenStale};
    let compared = [QDm, QvgenKept, Qvgen, QvgenOneShot, QvgenStale];
    let series = compared.iter().enumerate().filter_map(|(color, &method)| {
        let rows = rows_of(rows, bits, Kind::Trained(method));
        let steps = rows.first()?.losses.len();
        let window = (steps / 30).max(1);
        let mean = |start: usize| {
            let of = |row: &&Row| {
                let part = &row.losses[start..(start + window).min(steps)];
                part.iter().map(|&loss| f64::from(loss)).sum::<f64>() / part.len() as f64
            };
            rows.iter().map(of).sum::<f64>() / rows.len() as f64
        };
        let points = (0..steps).step_by(window).map(|start| (start as f64, mean(start))).collect();
        Some(Series { label: method.name().to_owned(), points, color, ..Series::default() })
    });
    let figure = LineFigure {
        title: format!(
            "Distillation loss, {}, mean over {} seeds",
            bits.to_uppercase(),
            plan.seeds
        ),
        x_label: "step".to_owned(),
        y_label: "mean squared difference to the teacher".to_owned(),
        scale: Scale::Logarithmic,
        series: series.collect(),
    };
    figure.write(&figures(out).join(format!("loss-{bits}.svg"))).context("a figure")
}
