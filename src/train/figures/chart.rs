//! Curves over a common horizontal axis, in one panel or several.

use super::{GRID, INK, PAPER, color, failed, text, tick, write};
use crate::train::TrainError;
use plotters::coord::Shift;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::{Cartesian2d, Ranged};
use plotters::prelude::{
    ChartBuilder, ChartContext, Circle, DrawingArea, IntoDrawingArea, IntoLogRange, LineSeries,
    PathElement, SVGBackend, SeriesLabelPosition,
};
use plotters::style::{Color as _, RGBAColor, ShapeStyle};
use std::path::Path;

const WIDTH: u32 = 960;
const PANEL_HEIGHT: u32 = 440;
const SHORT_PANEL_HEIGHT: u32 = 230;

/// How a series is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Marks {
    /// A line.
    #[default]
    Line,
    /// A thin pale line: values behind a smoothed one.
    Faint,
    /// A line with a point at every value.
    Points,
}

/// Named values.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Name in the legend; empty for none.
    pub label: String,
    /// Values over the horizontal axis; those that are no numbers are left out.
    pub points: Vec<(f64, f64)>,
    /// How they are drawn.
    pub marks: Marks,
    /// Which color; the same number is the same color in every figure.
    pub color: usize,
}

/// How a vertical axis is divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, from the smallest to the largest value.
    #[default]
    Linear,
    /// Evenly, and from 0.
    FromZero,
    /// By powers of ten; values that are not positive are left out.
    Logarithmic,
}

/// One panel of curves.
#[derive(Clone, Debug, Default)]
pub struct LineFigure {
    /// What is shown.
    pub title: String,
    /// Horizontal axis, with its unit.
    pub x_label: String,
    /// Vertical axis, with its unit.
    pub y_label: String,
    /// How the vertical axis is divided.
    pub scale: Scale,
    /// The curves.
    pub series: Vec<Series>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

impl LineFigure {
    /// Writes the figure to `path`.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), TrainError> {
        Self::write_stack(std::slice::from_ref(self), path)
    }

    /// The figure as the text of an SVG.
    ///
    /// # Errors
    ///
    /// In the words of what draws it.
    pub fn svg(&self) -> Result<String, String> {
        Self::stack_svg(std::slice::from_ref(self))
    }

    /// Writes `panels` one above the other to `path`.
    ///
    /// # Errors
    ///
    /// If they cannot be written.
    pub fn write_stack(panels: &[Self], path: &Path) -> Result<(), TrainError> {
        write(path, &Self::stack_svg(panels).map_err(failed(path))?)
    }

    fn stack_svg(panels: &[Self]) -> Result<String, String> {
        let say = |err: &dyn std::fmt::Display| err.to_string();
        let mut svg = String::new();
        let panel_height = if panels.len() > 1 { SHORT_PANEL_HEIGHT } else { PANEL_HEIGHT };
        let height = panel_height * panels.len().max(1) as u32;
        {
            let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
            root.fill(&PAPER).map_err(|err| say(&err))?;
            for (panel, area) in panels.iter().zip(root.split_evenly((panels.len().max(1), 1))) {
                panel.draw(&area)?;
            }
            root.present().map_err(|err| say(&err))?;
        }
        Ok(svg)
    }

    /// The finite points of `series` that the scale can show.
    fn shown<'a>(&self, series: &'a Series) -> impl Iterator<Item = (f64, f64)> + 'a {
        let is_logarithmic = self.scale == Scale::Logarithmic;
        series
            .points
            .iter()
            .copied()
            .filter(|(x, y)| x.is_finite() && y.is_finite())
            .filter(move |(_, y)| !is_logarithmic || *y > 0.0)
    }

    fn draw(&self, area: &Area<'_>) -> Result<(), String> {
        let points: Vec<(f64, f64)> =
            self.series.iter().flat_map(|series| self.shown(series)).collect();
        let (left, right) = bounds(points.iter().map(|point| point.0), 0.0);
        let (low, high) = bounds(points.iter().map(|point| point.1), 0.06);
        let mut builder = ChartBuilder::on(area);
        builder
            .caption(&self.title, text(20))
            .margin(14)
            .margin_right(24)
            .x_label_area_size(48)
            .y_label_area_size(78);
        let smallest = points.iter().map(|point| point.1).fold(f64::INFINITY, f64::min);
        let largest = points.iter().map(|point| point.1).fold(0.0, f64::max);
        // Within a power of ten, a logarithmic axis would have a single mark.
        let scale = match self.scale {
            Scale::Logarithmic if largest < 10.0 * smallest => Scale::FromZero,
            scale => scale,
        };
        match scale {
            Scale::Logarithmic => {
                let (smallest, largest) =
                    if largest > 0.0 { (smallest, largest) } else { (0.1, 1.0) };
                let range = (smallest / 1.3..largest * 1.3).log_scale();
                let chart = builder.build_cartesian_2d(left..right, range);
                self.fill(chart.map_err(|err| err.to_string())?)
            }
            scale => {
                let low = if scale == Scale::FromZero { 0.0_f64.min(low) } else { low };
                let chart = builder.build_cartesian_2d(left..right, low..high);
                self.fill(chart.map_err(|err| err.to_string())?)
            }
        }
    }

    fn fill<'a, Y>(
        &self,
        mut chart: ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, Y>>,
    ) -> Result<(), String>
    where
        Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let say = |err: &dyn std::fmt::Display| err.to_string();
        chart
            .configure_mesh()
            .x_desc(&self.x_label)
            .y_desc(&self.y_label)
            .axis_desc_style(text(16))
            .label_style(text(14))
            .bold_line_style(GRID)
            .light_line_style(PAPER)
            .axis_style(INK)
            .x_labels(9)
            .y_labels(7)
            .x_label_formatter(&|x| tick(*x))
            .y_label_formatter(&|y| tick(*y))
            .draw()
            .map_err(|err| say(&err))?;
        for series in &self.series {
            let style = style(series);
            let points: Vec<(f64, f64)> = self.shown(series).collect();
            let line = LineSeries::new(points.iter().copied(), style);
            let drawn = chart.draw_series(line).map_err(|err| say(&err))?;
            if !series.label.is_empty() {
                let swatch = move |(x, y)| PathElement::new(vec![(x, y), (x + 22, y)], style);
                drawn.label(&series.label).legend(swatch);
            }
            if series.marks == Marks::Points {
                let dots = points.iter().map(|point| Circle::new(*point, 4, style.filled()));
                chart.draw_series(dots).map_err(|err| say(&err))?;
            }
        }
        if self.series.iter().any(|series| !series.label.is_empty()) {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperRight)
                .background_style(PAPER.mix(0.85))
                .border_style(GRID)
                .label_font(text(14))
                .margin(8)
                .draw()
                .map_err(|err| say(&err))?;
        }
        Ok(())
    }
}

fn style(series: &Series) -> ShapeStyle {
    let color: RGBAColor = match series.marks {
        Marks::Faint => color(series.color).mix(0.3),
        Marks::Line | Marks::Points => color(series.color).to_rgba(),
    };
    color.stroke_width(if series.marks == Marks::Faint { 1 } else { 2 })
}

/// The range of `values`, widened by `margin` of it, never empty.
fn bounds(values: impl Iterator<Item = f64>, margin: f64) -> (f64, f64) {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return (0.0, 1.0);
    }
    let width = if high > low { high - low } else { low.abs().max(1.0) };
    let pad = if high > low { margin * width } else { 0.5 * width };
    (low - pad, high + pad)
}
