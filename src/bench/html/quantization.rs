//! What post-training quantization did to a model, as one page.

use super::{PageError, add, add_table, document, escaped, without_declaration};
use crate::bench::Table;
use crate::method::ptq::{Measures, TemporalReport};
use crate::pipeline::quantize::{LayerReport, QuantizeReport};
use crate::train::figures::{Bar, BarFigure, LineFigure, Marks, Series};

/// Most bars of a figure: more cannot be read.
const MOST: usize = 24;

/// The page of `report` about a model of this name.
///
/// # Errors
///
/// If a figure cannot be drawn.
pub fn quantization_page(model: &str, report: &QuantizeReport) -> Result<String, PageError> {
    let mut body = String::new();
    heading(&mut body, model, report);
    for figure in figures(report).map_err(PageError)? {
        add(&mut body, &format!("<figure>{}</figure>", without_declaration(&figure)));
    }
    for table in [layers(report), temporal(report), choices(report), left_alone(report)] {
        if !table.rows.is_empty() {
            add_table(&mut body, &table);
        }
    }
    Ok(document("qvgen quantize", &body))
}

fn heading(page: &mut String, model: &str, report: &QuantizeReport) {
    let method = report.method.map_or("rounding", |method| method.name());
    let activations = report.activations.map_or("dynamic", |mode| mode.name());
    add(page, &format!("<h1>{} by {}</h1>", escaped(model), escaped(method)));
    let facts = format!(
        "{} layers, {:.3} stored bits per weight; ranges of activations: {activations}; qvgen {}",
        report.layers.len(),
        report.mean_bits(),
        env!("CARGO_PKG_VERSION")
    );
    add(page, &format!("<p class=\"facts\">{}</p>", escaped(&facts)));
    let class = if report.calibration.is_some() { "facts" } else { "warning" };
    add(page, &format!("<p class=\"{class}\">{}</p>", escaped(&report.data())));
    add(
        page,
        "<p>Errors are those of a layer's output on tokens that no method has seen, activations and \
         weights quantized: the root of the squared error over the squared output. Coverage is the \
         mean share of the levels of a code that a channel uses. The td_score_recon is a \
         reconstruction of a score whose equation is not public; so is the integration of channels \
         (scri_recon) of the method qvd.</p>",
    );
}

/// The layers that were measured, with their measures.
fn measured(report: &QuantizeReport) -> impl Iterator<Item = (usize, &LayerReport, &Measures)> {
    let layers = report.layers.iter().enumerate();
    layers.filter_map(|(index, layer)| Some((index, layer, layer.measures.as_ref()?)))
}

fn figures(report: &QuantizeReport) -> Result<Vec<String>, String> {
    let mut figures = Vec::new();
    if measured(report).next().is_some() {
        figures.push(worst_layers(report).svg()?);
        figures.push(snr_by_layer(report).svg()?);
    }
    Ok(figures)
}

/// The layers of the largest error.
fn worst_layers(report: &QuantizeReport) -> BarFigure {
    let mut bars: Vec<Bar> = measured(report)
        .map(|(_, layer, measures)| Bar {
            label: format!("{} {}", layer.name, layer.precision),
            value: measures.output_error,
            spread: None,
            color: 0,
        })
        .collect();
    bars.sort_by(|a, b| b.value.total_cmp(&a.value));
    bars.truncate(MOST);
    BarFigure {
        title: "Layers of the largest error".to_owned(),
        value_label: "relative error of the output".to_owned(),
        bars,
        reference: report.mean_output_error().map(|mean| (mean, "mean of all layers".to_owned())),
    }
}

/// Signal to noise by layer, a curve for each range of timesteps.
fn snr_by_layer(report: &QuantizeReport) -> LineFigure {
    let mut ranges: Vec<(f32, f32)> = measured(report)
        .flat_map(|(_, _, measures)| {
            measures.by_timestep.iter().map(|range| (range.from, range.to))
        })
        .collect();
    ranges.sort_by(|a, b| a.0.total_cmp(&b.0));
    ranges.dedup();
    let series = ranges.iter().enumerate().map(|(color, (from, to))| {
        let point = |(index, _, measures): (usize, &LayerReport, &Measures)| {
            let range = measures.by_timestep.iter().find(|range| range.from == *from)?;
            Some((index as f64, range.snr_db?))
        };
        Series {
            label: format!("timesteps {from:.0} to {to:.0}"),
            points: measured(report).filter_map(point).collect(),
            marks: Marks::Points,
            color,
        }
    });
    LineFigure {
        title: "Signal to noise of each layer's output".to_owned(),
        x_label: "layer, in the order of the table".to_owned(),
        y_label: "decibels".to_owned(),
        series: series.collect(),
        ..LineFigure::default()
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(String::new, |value| format!("{value:.digits$}"))
}

fn table(title: &str, header: &[&str], rows: Vec<Vec<String>>) -> Table {
    let header = header.iter().map(|&cell| cell.to_owned()).collect();
    Table { title: title.to_owned(), header, rows }
}

fn layers(report: &QuantizeReport) -> Table {
    let row = |(index, layer): (usize, &LayerReport)| {
        let measures = layer.measures.as_ref();
        let of = |value: fn(&Measures) -> Option<f64>| measures.and_then(value);
        vec![
            index.to_string(),
            layer.name.clone(),
            layer.method.map_or("rounding", |method| method.name()).to_owned(),
            layer.precision.clone(),
            format!("{:.3}", layer.bits_per_weight),
            format!("{:.4}", layer.relative_error),
            number(of(|m| Some(m.output_error)), 4),
            number(of(|m| m.output_snr_db), 1),
            number(of(|m| m.coverage_before), 3),
            number(of(|m| m.coverage), 3),
            number(of(|m| m.outlier_ratio), 1),
            number(of(|m| m.outlier_channels.map(|count| count as f64)), 0),
            number(of(|m| m.asymmetry), 2),
        ]
    };
    let header = [
        "#",
        "layer",
        "method",
        "precision",
        "bits/weight",
        "weight error",
        "output error",
        "SNR, dB",
        "coverage before",
        "coverage",
        "largest/median channel",
        "outlier channels",
        "largest |middle|/half range",
    ];
    table("Layers", &header, report.layers.iter().enumerate().map(row).collect())
}

fn temporal(report: &QuantizeReport) -> Table {
    let rows = measured(report).filter_map(|(_, layer, measures)| {
        let TemporalReport { td_score_recon_uniform, td_score_recon, terms, best, .. } =
            measures.temporal.as_ref()?;
        Some(vec![
            layer.name.clone(),
            format!("{td_score_recon_uniform:.4}"),
            format!("{td_score_recon:.4}"),
            format!("{:.4}", terms.direction),
            format!("{:.4}", terms.alive),
            format!("{:.4}", terms.identified),
            best.clone(),
        ])
    });
    let header = [
        "layer",
        "td_score_recon, uniform static",
        "td_score_recon",
        "direction",
        "alive",
        "identified",
        "best candidate",
    ];
    table("Inputs that depend on the timestep alone", &header, rows.collect())
}

fn choices(report: &QuantizeReport) -> Table {
    let rows = report.choices.iter().filter_map(|choice| {
        let taken = choice.candidates.get(choice.chosen)?;
        let least = choice.candidates.iter().map(|c| c.error).fold(f64::INFINITY, f64::min);
        Some(vec![
            choice.name.clone(),
            taken.method.name().to_owned(),
            taken.bits.to_string(),
            format!("{:.4}", taken.error.sqrt()),
            format!("{:.4}", least.sqrt()),
            choice.candidates.len().to_string(),
        ])
    });
    let header = ["layer", "method", "bits", "error", "least error of all", "candidates"];
    table("Choices", &header, rows.collect())
}

fn left_alone(report: &QuantizeReport) -> Table {
    let row = |layer: &crate::pipeline::quantize::LeftAlone| {
        let [rows, columns] = layer.shape;
        vec![layer.name.clone(), format!("{rows}x{columns}"), layer.reason.clone()]
    };
    let rows = report.left_alone.iter().map(row).collect();
    table("Layers left in full precision", &["layer", "shape", "why"], rows)
}
