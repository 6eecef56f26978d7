//! Where the time of blocks and steps goes, kernel by kernel.

use crate::bench::report::{Breakdown, time};
use crate::bench::{DeviceReport, Suite};
use crate::train::figures::{GRID, INK, PAPER, color, text, tick};
use plotters::prelude::{
    ChartBuilder, Circle, EmptyElement, IntoDrawingArea, Rectangle, SVGBackend,
    SeriesLabelPosition, Text,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, RGBColor};

const WIDTH: u32 = 960;
const ROW_HEIGHT: u32 = 46;
/// Operations of Burn, and time in which nothing ran.
const OTHER: (&str, RGBColor) = ("Burn's operations and waiting", RGBColor(190, 190, 190));

/// A bar: its name, the parts in the order of the legend, and the whole.
struct Row {
    label: String,
    parts: Vec<f64>,
}

/// The figure of a suite; `None` if nothing of it was split by kernel.
pub(super) fn figure(device: &DeviceReport, suite: Suite) -> Option<Result<String, String>> {
    let with: Vec<(String, &Breakdown)> = device
        .entries
        .iter()
        .filter(|entry| entry.identity.suite == suite)
        .filter_map(|entry| {
            let identity = &entry.identity;
            let label = format!("{} · {}", identity.case, identity.precision);
            Some((label, entry.timed()?.breakdown.as_ref()?))
        })
        .collect();
    let mut kernels: Vec<&str> = Vec::new();
    for kernel in with.iter().flat_map(|(_, parts)| &parts.kernels) {
        if !kernels.contains(&kernel.kernel.as_str()) {
            kernels.push(&kernel.kernel);
        }
    }
    if with.is_empty() {
        return None;
    }
    let row = |(label, parts): &(String, &Breakdown)| {
        let seconds = |name: &&str| {
            parts.kernels.iter().filter(|k| k.kernel == *name).map(|k| k.seconds).sum::<f64>()
        };
        let mut seconds: Vec<f64> = kernels.iter().map(seconds).collect();
        seconds.push(parts.other_seconds());
        Row { label: label.clone(), parts: seconds }
    };
    let rows: Vec<Row> = with.iter().map(row).collect();
    let mut svg = String::new();
    Some(draw(&mut svg, suite, &kernels, &rows).map(|()| svg))
}

fn draw(svg: &mut String, suite: Suite, kernels: &[&str], rows: &[Row]) -> Result<(), String> {
    fn say(err: impl std::fmt::Display) -> String {
        err.to_string()
    }
    let names: Vec<(String, RGBColor)> = kernels
        .iter()
        .enumerate()
        .map(|(i, name)| ((*name).to_owned(), color(i)))
        .chain([(OTHER.0.to_owned(), OTHER.1)])
        .collect();
    // Room for the legend below the last bar.
    let legend_rows = (names.len() as u32 * 18 + 40).div_ceil(ROW_HEIGHT) as usize;
    let count = rows.len() + legend_rows;
    let height = 110 + ROW_HEIGHT * count as u32;
    let longest = rows.iter().map(|row| row.label.chars().count()).max().unwrap_or(0);
    let most = rows.iter().map(|row| row.parts.iter().sum()).fold(0.0, f64::max);
    let root = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    root.fill(&PAPER).map_err(say)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(format!("{suite}: time by kernel"), text(20))
        .margin(14)
        .margin_right(24)
        .x_label_area_size(48)
        .y_label_area_size(40 + 8 * longest as u32)
        .build_cartesian_2d(0.0..(most * 1.16).max(1e-9), 0.0..count as f64)
        .map_err(say)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_desc("seconds")
        .axis_desc_style(text(16))
        .label_style(text(14))
        .bold_line_style(GRID)
        .light_line_style(PAPER)
        .axis_style(INK)
        .x_labels(8)
        .x_label_formatter(&|x| tick(*x))
        .draw()
        .map_err(say)?;
    let middle = |row: usize| count as f64 - row as f64 - 0.5;
    for (part, (name, fill)) in names.iter().enumerate() {
        let bars = rows.iter().enumerate().map(|(index, row)| {
            let start: f64 = row.parts[..part].iter().sum();
            let y = middle(index);
            let corners = [(start, y - 0.32), (start + row.parts[part], y + 0.32)];
            Rectangle::new(corners, fill.mix(0.9).filled())
        });
        let style = fill.mix(0.9).filled();
        let legend = move |at| Circle::new(at, 6, style);
        chart.draw_series(bars).map_err(say)?.label(name).legend(legend);
    }
    for (index, row) in rows.iter().enumerate() {
        let total: f64 = row.parts.iter().sum();
        let anchor = text(14).pos(Pos::new(HPos::Left, VPos::Center));
        let number = Text::new(time(total), (8, 0), anchor);
        chart.draw_series([EmptyElement::at((total, middle(index))) + number]).map_err(say)?;
        let anchor = text(15).pos(Pos::new(HPos::Right, VPos::Center));
        let label = Text::new(row.label.clone(), (-10, 0), anchor);
        chart.draw_series([EmptyElement::at((0.0, middle(index))) + label]).map_err(say)?;
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
