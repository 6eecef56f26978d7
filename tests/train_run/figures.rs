//! Figures: there for every input, with their words in them. They stay in the build folder's `tmp`
//! to be looked at.

use qvgen::train::figures::{Bar, BarFigure, LineFigure, Marks, Scale, Series, write_run_figures};
use qvgen::train::{Metric, MetricsFile, StepMetric, ValidationMetric};
use std::f64::consts::PI;
use std::fs;
use std::path::PathBuf;

fn place(name: &str) -> PathBuf {
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("figures").join(name);
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).expect("a folder");
    place
}

/// A training with Φ that looks like one.
fn metrics(steps: usize) -> Vec<Metric> {
    let phases = [16_usize, 8, 4, 2, 1];
    let phase_steps = (steps / 6).max(1);
    let wobble = |step: usize| ((step * 7919 % 97) as f64 / 97.0 - 0.5) * 0.4;
    let mut metrics = Vec::new();
    for step in 0..steps {
        let (phase, within) = (step / phase_steps, step % phase_steps);
        let rank = phases.get(phase).copied().unwrap_or(0);
        let share = step as f64 / steps as f64;
        if within == 0 && rank > 0 {
            let value = |layer: f64, i: usize| {
                (layer * (-0.18 * i as f64).exp() * 0.8_f64.powi(phase as i32)) as f32
            };
            let values = |layer| (0..rank).map(|i| value(layer, i)).collect();
            let singular_values =
                [("a".to_owned(), values(1.0)), ("b".to_owned(), values(0.4))].into();
            metrics.push(Metric::Spectrum { step, rank, singular_values });
        }
        metrics.push(Metric::Step(StepMetric {
            step,
            loss: 0.02 * (-3.0 * share).exp() * (1.0 + wobble(step)),
            gradient_norm: 0.4 * (-2.0 * share).exp() * (1.0 + wobble(step + 3)),
            learning_rate: 3e-5 * (1.0 + (PI * share).cos()) / 2.0,
            rank: Some(rank),
            u: Some(((1.0 + (PI * within as f64 / phase_steps as f64).cos()) / 2.0) as f32),
            seconds: 1.0,
        }));
        if step % 50 == 49 {
            metrics.push(Metric::Validation(ValidationMetric {
                step,
                loss: 0.019 * (-2.9 * share).exp(),
                loss_without_phi: Some(0.019 * (-2.9 * share).exp() + 0.03 * (-6.0 * share).exp()),
            }));
        }
    }
    metrics
}

#[test]
fn a_training_has_four_figures_with_labels() {
    let place = place("run");
    let mut file = MetricsFile::open(&place.join("metrics.jsonl"), 0).expect("a file");
    for metric in metrics(600) {
        file.write(&metric).expect("a line");
    }
    write_run_figures(&place.join("metrics.jsonl"), &place).expect("figures");
    for (name, words) in [
        ("loss.svg", &["Loss", "update", "training", "held out, without Φ"][..]),
        ("gradient.svg", &["Gradient norm", "update"]),
        ("schedule.svg", &["Learning rate", "Rank of Φ", "go next"]),
        ("spectrum.svg", &["Singular values", "phase 1, rank 16", "phase 5, rank 1"]),
    ] {
        let svg = fs::read_to_string(place.join(name)).expect(name);
        for word in words {
            assert!(svg.contains(word), "{word:?} is not in {name}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}");
    }
}

#[test]
fn a_training_that_has_hardly_begun_has_figures_too() {
    for steps in [0, 1, 2] {
        let place = place(&format!("short-{steps}"));
        let path = place.join("metrics.jsonl");
        let mut file = MetricsFile::open(&path, 0).expect("a file");
        for metric in metrics(steps) {
            file.write(&metric).expect("a line");
        }
        write_run_figures(&path, &place).expect("figures");
        assert!(place.join("loss.svg").is_file());
    }
}

#[test]
fn methods_are_compared_by_bars_and_curves() {
    let place = place("comparison");
    let methods = ["lsq", "q-dm", "efficient-dm", "qvgen-kept", "qvgen", "best"];
    let bars = methods.iter().enumerate().map(|(index, name)| Bar {
        label: (*name).to_owned(),
        value: 0.021 - 0.0025 * index as f64,
        spread: (index != 1).then_some(0.0008 + 0.0002 * index as f64),
        color: index,
    });
    let figure = BarFigure {
        title: "Held-out loss after 600 updates, W4A4".to_owned(),
        value_label: "mean squared error of the velocity, mean ± s.d. of 3 seeds".to_owned(),
        bars: bars.collect(),
        reference: Some((0.0065, "full precision".to_owned())),
    };
    let path = place.join("bars.svg");
    figure.write(&path).expect("a figure");
    let svg = fs::read_to_string(&path).expect("a figure");
    for word in methods.iter().chain(&["full precision", "±", "W4A4"]) {
        assert!(svg.contains(word), "{word:?} is missing");
    }
    let series = methods.iter().enumerate().map(|(index, name)| Series {
        label: (*name).to_owned(),
        points: (1..40)
            .map(|x| (f64::from(x) * 15.0, 0.02 / f64::from(x).powf(0.2 + 0.1 * index as f64)))
            .collect(),
        marks: Marks::Line,
        color: index,
    });
    LineFigure {
        title: "Held-out loss".to_owned(),
        x_label: "update".to_owned(),
        y_label: "mean squared error of the velocity".to_owned(),
        scale: Scale::Logarithmic,
        series: series.collect(),
    }
    .write(&place.join("curves.svg"))
    .expect("a figure");
}

#[test]
fn values_that_are_no_numbers_are_left_out() {
    let place = place("strange");
    let bar = |value| Bar { label: "x".to_owned(), value, spread: Some(f64::NAN), color: 0 };
    BarFigure { bars: vec![bar(f64::NAN), bar(-1.0), bar(0.0)], ..BarFigure::default() }
        .write(&place.join("bars.svg"))
        .expect("a figure");
    BarFigure::default().write(&place.join("none.svg")).expect("a figure");
    for scale in [Scale::Linear, Scale::FromZero, Scale::Logarithmic] {
        let points = vec![(0.0, f64::NAN), (1.0, -1.0), (2.0, f64::INFINITY), (3.0, 0.0)];
        let series = vec![Series { points, ..Series::default() }, Series::default()];
        LineFigure { scale, series, ..LineFigure::default() }
            .write(&place.join("curves.svg"))
            .expect("a figure");
    }
}
