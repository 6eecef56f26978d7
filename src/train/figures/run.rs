//! The figures of one training, from its measurements.

use super::{LineFigure, Marks, Scale, Series};
use crate::pipeline::atomic::OutputError;
use crate::train::TrainError;
use crate::train::metrics::{Metric, StepMetric, ValidationMetric, read_metrics};
use std::fs;
use std::path::Path;

const STEPS: &str = "update";

/// Draws `loss.svg`, `gradient.svg`, `schedule.svg` and, with Φ, `spectrum.svg` of the measurements
/// at `metrics` into `folder`, which is created.
///
/// # Errors
///
/// If a file cannot be read or written.
pub fn write_run_figures(metrics: &Path, folder: &Path) -> Result<(), TrainError> {
    fs::create_dir_all(folder).map_err(OutputError::io("create", folder))?;
    let metrics = read_metrics(metrics)?;
    let steps: Vec<&StepMetric> = metrics
        .iter()
        .filter_map(|metric| match metric {
            Metric::Step(step) => Some(step),
            _ => None,
        })
        .collect();
    let validations: Vec<&ValidationMetric> = metrics
        .iter()
        .filter_map(|metric| match metric {
            Metric::Validation(validation) => Some(validation),
            _ => None,
        })
        .collect();
    loss(&steps, &validations).write(&folder.join("loss.svg"))?;
    gradient(&steps).write(&folder.join("gradient.svg"))?;
    LineFigure::write_stack(&schedule(&steps), &folder.join("schedule.svg"))?;
    let spectrum = spectrum(&metrics);
    if !spectrum.series.is_empty() {
        spectrum.write(&folder.join("spectrum.svg"))?;
    }
    Ok(())
}

/// Values over updates, counted from 1.
fn over(steps: &[&StepMetric], value: impl Fn(&StepMetric) -> Option<f64>) -> Vec<(f64, f64)> {
    steps.iter().filter_map(|step| Some((step.step as f64 + 1.0, value(step)?))).collect()
}

/// Means over a window of a fiftieth of the curve, centered.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let half = points.len() / 100 + 1;
    let mean = |at: usize| {
        let window = &points[at.saturating_sub(half)..(at + half + 1).min(points.len())];
        window.iter().map(|point| point.1).sum::<f64>() / window.len() as f64
    };
    points.iter().enumerate().map(|(at, point)| (point.0, mean(at))).collect()
}

/// A curve and its smoothed form, in one color.
fn with_mean(label: &str, points: Vec<(f64, f64)>, color: usize) -> [Series; 2] {
    let mean = smoothed(&points);
    [
        Series { points, marks: Marks::Faint, color, ..Series::default() },
        Series { label: label.to_owned(), points: mean, color, ..Series::default() },
    ]
}

fn loss(steps: &[&StepMetric], validations: &[&ValidationMetric]) -> LineFigure {
    let mut series = with_mean("training", over(steps, |step| Some(step.loss)), 0).to_vec();
    let mut held_out = |label: &str, color, value: fn(&ValidationMetric) -> Option<f64>| {
        let points: Vec<(f64, f64)> = validations
            .iter()
            .filter_map(|metric| Some((metric.step as f64 + 1.0, value(metric)?)))
            .collect();
        if !points.is_empty() {
            series.push(Series { label: label.to_owned(), points, marks: Marks::Points, color });
        }
    };
    held_out("held out", 1, |metric| Some(metric.loss));
    held_out("held out, without Φ", 2, |metric| metric.loss_without_phi);
    LineFigure {
        title: "Loss".to_owned(),
        x_label: STEPS.to_owned(),
        y_label: "mean squared error of the velocity".to_owned(),
        scale: Scale::Logarithmic,
        series,
    }
}

fn gradient(steps: &[&StepMetric]) -> LineFigure {
    let norms = over(steps, |step| Some(step.gradient_norm));
    LineFigure {
        title: "Gradient norm before clipping".to_owned(),
        x_label: STEPS.to_owned(),
        y_label: "‖mean gradient‖".to_owned(),
        scale: Scale::Logarithmic,
        series: with_mean("all parameters", norms, 0).to_vec(),
    }
}

/// Learning rate and, with Φ, rank and `u`.
fn schedule(steps: &[&StepMetric]) -> Vec<LineFigure> {
    let panel = |title: &str, y_label: &str, color, value: fn(&StepMetric) -> Option<f64>| {
        let points = over(steps, value);
        let series = vec![Series { points, color, ..Series::default() }];
        LineFigure {
            title: title.to_owned(),
            x_label: STEPS.to_owned(),
            y_label: y_label.to_owned(),
            scale: Scale::FromZero,
            series,
        }
    };
    let rate = panel("Learning rate of the weights", "rate", 0, |step| Some(step.learning_rate));
    let rank = panel("Rank of Φ", "rank", 1, |step| step.rank.map(|rank| rank as f64));
    let u = panel("Factor of the directions that go next", "u", 2, |step| step.u.map(f64::from));
    let has_points = |panel: &LineFigure| panel.series.iter().any(|s| !s.points.is_empty());
    [rate, rank, u].into_iter().filter(has_points).collect()
}

/// Singular values at the start of every phase, each layer's divided by its largest one at the
/// very start, averaged over layers.
fn spectrum(metrics: &[Metric]) -> LineFigure {
    let spectra: Vec<_> = metrics
        .iter()
        .filter_map(|metric| match metric {
            Metric::Spectrum { rank, singular_values, .. } => Some((rank, singular_values)),
            _ => None,
        })
        .collect();
    let largest = |layer: &str| {
        let first = spectra.first().and_then(|(_, values)| values.get(layer)?.first().copied());
        first.filter(|&value| value > 0.0).map_or(1.0, f64::from)
    };
    let series = spectra.iter().enumerate().map(|(phase, (rank, layers))| {
        let mean = |index: usize| {
            let values: Vec<f64> = layers
                .iter()
                .filter_map(|(layer, values)| Some(f64::from(*values.get(index)?) / largest(layer)))
                .collect();
            values.iter().sum::<f64>() / values.len().max(1) as f64
        };
        Series {
            label: format!("phase {}, rank {rank}", phase + 1),
            points: (0..**rank).map(|index| (index as f64 + 1.0, mean(index))).collect(),
            marks: Marks::Points,
            color: phase,
        }
    });
    LineFigure {
        title: "Singular values of Φ at the start of each phase, mean of all layers".to_owned(),
        x_label: "direction".to_owned(),
        y_label: "σ / first σ at the start".to_owned(),
        scale: Scale::Logarithmic,
        series: series.collect(),
    }
}
