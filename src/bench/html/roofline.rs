//! Every entry under the roof of what the device reaches: arithmetic over intensity.

use crate::bench::{Ceilings, DeviceReport, Suite};
use crate::train::figures::{GRID, INK, PAPER, color, text};
use plotters::prelude::{
    ChartBuilder, Circle, EmptyElement, IntoDrawingArea, IntoLogRange, PathElement, SVGBackend,
    SeriesLabelPosition, Text,
};
use plotters::style::Color as _;
use plotters::style::text_anchor::{HPos, Pos, VPos};

const WIDTH: u32 = 960;
const HEIGHT: u32 = 520;

/// `(operations per byte, operations per second)` of the entries of a suite.
type Points = Vec<(f64, f64)>;

/// The figure; `None` without a bandwidth or without entries that compute.
pub(super) fn figure(device: &DeviceReport) -> Option<Result<String, String>> {
    let bandwidth = device.ceilings.copy_bytes?.per_second;
    let suites: Vec<(Suite, Points)> = Suite::ALL
        .into_iter()
        .map(|suite| (suite, points(device, suite)))
        .filter(|(_, points)| !points.is_empty())
        .collect();
    if suites.is_empty() {
        return None;
    }
    let mut svg = String::new();
    let drawn = draw(&mut svg, bandwidth, &roofs(&device.ceilings), &suites);
    Some(drawn.map(|()| svg))
}

fn points(device: &DeviceReport, suite: Suite) -> Points {
    let entries = device.entries.iter().filter(|entry| entry.identity.suite == suite);
    entries
        .filter_map(|entry| {
            let (ops, bytes) = (entry.work.ops(), entry.work.bytes);
            let rate = entry.timed()?.ops_per_second;
            Some((ops / bytes, rate)).filter(|(x, y)| x.is_normal() && y.is_normal())
        })
        .collect()
}

fn roofs(ceilings: &Ceilings) -> Vec<(&'static str, f64)> {
    let roofs = [
        ("f16 matrices", ceilings.matrix_ops),
        ("dot4U8Packed", ceilings.dot4_ops),
        ("f16 multiply-add", ceilings.f16_ops),
        ("f32 multiply-add", ceilings.f32_ops),
    ];
    roofs.into_iter().filter_map(|(name, rate)| Some((name, rate?.per_second))).collect()
}

fn draw(
    svg: &mut String,
    bandwidth: f64,
    roofs: &[(&str, f64)],
    suites: &[(Suite, Points)],
) -> Result<(), String> {
    fn say(err: impl std::fmt::Display) -> String {
        err.to_string()
    }
    let all = || suites.iter().flat_map(|(_, points)| points);
    let highest = roofs.iter().map(|(_, rate)| *rate).chain(all().map(|p| p.1)).fold(1.0, f64::max);
    let lowest = all().map(|p| p.1).fold(highest, f64::min);
    let ridge = highest / bandwidth;
    let left = all().map(|p| p.0).fold(ridge, f64::min).min(1.0);
    let right = all().map(|p| p.0).fold(ridge, f64::max);
    let (left, right) = (left / 2.0, right * 4.0);
    let (low, high) = (lowest / 3.0, highest * 3.0);
    let root = SVGBackend::with_string(svg, (WIDTH, HEIGHT)).into_drawing_area();
    root.fill(&PAPER).map_err(say)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Roofline: what is reached, under what the device can", text(20))
        .margin(14)
        .margin_right(24)
        .x_label_area_size(48)
        .y_label_area_size(92)
        .build_cartesian_2d((left..right).log_scale(), (low..high).log_scale())
        .map_err(say)?;
    chart
        .configure_mesh()
        .x_desc("operations per byte that the work needs at least")
        .y_desc("operations per second")
        .axis_desc_style(text(16))
        .label_style(text(14))
        .bold_line_style(GRID)
        .light_line_style(PAPER)
        .axis_style(INK)
        .x_labels(9)
        .y_labels(9)
        .x_label_formatter(&|x| crate::train::figures::tick(*x))
        .y_label_formatter(&|y| si(*y))
        .draw()
        .map_err(say)?;
    for (index, (name, rate)) in roofs.iter().enumerate() {
        let ridge = rate / bandwidth;
        let line = vec![(ridge.max(left), *rate), (right, *rate)];
        let style = INK.mix(0.75).stroke_width(2);
        chart.draw_series([PathElement::new(line, style)]).map_err(say)?;
        // Names in steps, in case two roofs are near each other.
        let at = right / 6_f64.powi(index as i32);
        let anchor = text(13).pos(Pos::new(HPos::Right, VPos::Bottom));
        let label = Text::new((*name).to_owned(), (-4, -3), anchor);
        chart.draw_series([EmptyElement::at((at, *rate)) + label]).map_err(say)?;
    }
    let top = roofs.first().map_or(highest, |_| highest);
    let from = left.max(low / bandwidth);
    let slope = vec![(from, from * bandwidth), (top / bandwidth, top)];
    let style = INK.mix(0.75).stroke_width(2);
    chart.draw_series([PathElement::new(slope, style)]).map_err(say)?;
    let anchor = text(13).pos(Pos::new(HPos::Left, VPos::Bottom));
    let label = Text::new("copy bandwidth".to_owned(), (10, 4), anchor);
    let middle = (from * (top / bandwidth)).sqrt();
    chart.draw_series([EmptyElement::at((middle, middle * bandwidth)) + label]).map_err(say)?;
    for (suite, points) in suites {
        let index = Suite::ALL.iter().position(|other| other == suite).unwrap_or(0);
        let style = color(index).mix(0.85).filled();
        let dots = points.iter().map(|point| Circle::new(*point, 5, style));
        let legend = move |at| Circle::new(at, 5, style);
        chart.draw_series(dots).map_err(say)?.label(suite.name()).legend(legend);
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(PAPER.mix(0.85))
        .border_style(GRID)
        .label_font(text(14))
        .margin(10)
        .draw()
        .map_err(say)?;
    root.present().map_err(say)
}

/// A rate on an axis.
fn si(value: f64) -> String {
    crate::bench::report::scaled(value, "").trim_end().replace(".00", "").replace(".0", "")
}
