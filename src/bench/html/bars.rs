//! How many times faster each precision is, with its uncertainty.

use crate::bench::{Baseline, DeviceReport, EntryReport, Suite};
use crate::train::figures::{Bar, BarFigure};

/// Most bars of a figure: more cannot be read.
const MOST: usize = 24;

/// A figure for each suite and baseline that was compared with.
pub(super) fn figures(device: &DeviceReport) -> Result<Vec<String>, String> {
    let mut figures = Vec::new();
    for suite in Suite::ALL {
        for over in [Baseline::F32, Baseline::Burn] {
            let bars = bars(device, suite, over);
            if !bars.is_empty() {
                figures.push(figure(suite, over, bars).svg()?);
            }
        }
    }
    Ok(figures)
}

fn bars(device: &DeviceReport, suite: Suite, over: Baseline) -> Vec<Bar> {
    let entries = device.entries.iter().filter(|entry| entry.identity.suite == suite);
    // Baselines against each other are in the table.
    let entries = entries.filter(|entry| entry.baseline.is_none());
    entries.filter_map(|entry| bar(entry, over)).take(MOST).collect()
}

fn bar(entry: &EntryReport, over: Baseline) -> Option<Bar> {
    let timed = entry.timed()?;
    let speed_up = timed.speed_ups.iter().find(|speed_up| speed_up.over == over)?;
    let identity = &entry.identity;
    Some(Bar {
        label: format!("{} · {} {}", identity.case, identity.kernel, identity.precision),
        value: rounded(speed_up.ratio),
        spread: Some(rounded(speed_up.uncertainty)),
        color: color(&identity.precision),
    })
}

/// Two digits behind the point: no measurement gives more.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// One color per width of the activations, the same in every figure.
fn color(precision: &str) -> usize {
    match precision.rsplit_once('a').map(|(_, activations)| activations) {
        Some("8") => 0,
        Some("4") => 2,
        Some("3") => 1,
        Some("6") => 3,
        Some("16") => 4,
        _ => 6,
    }
}

fn figure(suite: Suite, over: Baseline, bars: Vec<Bar>) -> BarFigure {
    let other = match over {
        Baseline::F32 => "this program's full precision",
        Baseline::Burn => "Burn's own operation in f32",
        Baseline::BurnF16 => "Burn's own operation in f16",
    };
    BarFigure {
        title: format!("{suite}: how many times faster than {other}"),
        value_label: "time of the other / time (more is faster)".to_owned(),
        bars,
        reference: Some((1.0, "equal".to_owned())),
    }
}
