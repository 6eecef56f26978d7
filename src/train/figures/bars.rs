//! Bars with the spread of repeated runs: methods side by side.

use super::{GRID, INK, PAPER, color, failed, text, tick, write};
use crate::train::TrainError;
use plotters::prelude::{
    ChartBuilder, EmptyElement, IntoDrawingArea, PathElement, Rectangle, SVGBackend, Text,
};
use plotters::style::Color as _;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

const WIDTH: u32 = 960;
const ROW_HEIGHT: u32 = 46;

/// One thing that is compared.
#[derive(Clone, Debug, Default)]
pub struct Bar {
    /// Its name.
    pub label: String,
    /// Its value; the mean of repeated runs.
    pub value: f64,
    /// Half the length of its error bar, such as the standard deviation; `None` for one run.
    pub spread: Option<f64>,
    /// Which color.
    pub color: usize,
}

/// Bars one below the other.
#[derive(Clone, Debug, Default)]
pub struct BarFigure {
    /// What is compared.
    pub title: String,
    /// What a bar measures, with its unit.
    pub value_label: String,
    /// The bars, from the top.
    pub bars: Vec<Bar>,
    /// A value to compare all with, and its name: a vertical line.
    pub reference: Option<(f64, String)>,
}

impl BarFigure {
    /// Writes the figure to `path`.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), TrainError> {
        write(path, &self.svg().map_err(failed(path))?)
    }

    /// The figure as the text of an SVG.
    ///
    /// # Errors
    ///
    /// In the words of what draws it.
    pub fn svg(&self) -> Result<String, String> {
        let mut svg = String::new();
        self.draw(&mut svg)?;
        Ok(svg)
    }

    /// The largest value with its spread, and the smallest, around 0.
    fn range(&self) -> (f64, f64) {
        let ends = self.bars.iter().flat_map(|bar| {
            let spread = bar.spread.unwrap_or(0.0);
            [bar.value - spread, bar.value + spread]
        });
        let ends = ends.chain(self.reference.iter().map(|(value, _)| *value));
        let (low, high) = ends
            .filter(|value| value.is_finite())
            .fold((0.0_f64, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        let width = if high > low { high - low } else { 1.0 };
        // Room for the numbers behind the bars.
        (if low < 0.0 { low - 0.16 * width } else { 0.0 }, high + 0.16 * width)
    }

    fn draw(&self, svg: &mut String) -> Result<(), String> {
        fn say(err: impl std::fmt::Display) -> String {
            err.to_string()
        }
        let rows = self.bars.len().max(1);
        let height = 120 + ROW_HEIGHT * rows as u32;
        let root = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
        root.fill(&PAPER).map_err(say)?;
        let (low, high) = self.range();
        let longest = self.bars.iter().map(|bar| bar.label.chars().count()).max().unwrap_or(0);
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, text(20))
            .margin(14)
            .margin_right(24)
            .x_label_area_size(48)
            .y_label_area_size(40 + 8 * longest as u32)
            .build_cartesian_2d(low..high, 0.0..rows as f64)
            .map_err(say)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .x_desc(&self.value_label)
            .axis_desc_style(text(16))
            .label_style(text(14))
            .bold_line_style(GRID)
            .light_line_style(PAPER)
            .axis_style(INK)
            .x_labels(8)
            .x_label_formatter(&|x| tick(*x))
            .draw()
            .map_err(say)?;
        let middle = |row: usize| rows as f64 - row as f64 - 0.5;
        if let Some((value, name)) = &self.reference {
            let line = vec![(*value, 0.0), (*value, rows as f64)];
            let style = INK.mix(0.6).stroke_width(2);
            chart.draw_series([PathElement::new(line, style)]).map_err(say)?;
            let anchor = text(13).pos(Pos::new(HPos::Left, VPos::Top));
            let at = EmptyElement::at((*value, rows as f64));
            let label = at + Text::new(name.clone(), (5, 0), anchor);
            chart.draw_series([label]).map_err(say)?;
        }
        for (row, bar) in self.bars.iter().enumerate().filter(|(_, bar)| bar.value.is_finite()) {
            let y = middle(row);
            let corners = [(0.0, y - 0.32), (bar.value, y + 0.32)];
            let body = Rectangle::new(corners, color(bar.color).mix(0.85).filled());
            chart.draw_series([body]).map_err(say)?;
            let mut end = bar.value;
            if let Some(spread) = bar.spread.filter(|spread| spread.is_finite()) {
                let (from, to) = (bar.value - spread, bar.value + spread);
                end = end.max(to);
                let strokes = [
                    vec![(from, y), (to, y)],
                    vec![(from, y - 0.14), (from, y + 0.14)],
                    vec![(to, y - 0.14), (to, y + 0.14)],
                ];
                let strokes = strokes.map(|line| PathElement::new(line, INK.stroke_width(2)));
                chart.draw_series(strokes).map_err(say)?;
            }
            let anchor = text(14).pos(Pos::new(HPos::Left, VPos::Center));
            let number = Text::new(self.number(bar), (8, 0), anchor);
            chart.draw_series([EmptyElement::at((end, y)) + number]).map_err(say)?;
        }
        for (row, bar) in self.bars.iter().enumerate() {
            let anchor = text(15).pos(Pos::new(HPos::Right, VPos::Center));
            let label = Text::new(bar.label.clone(), (-10, 0), anchor);
            let left = EmptyElement::at((low, middle(row))) + label;
            chart.plotting_area().strip_coord_spec();
            chart.draw_series([left]).map_err(say)?;
        }
        root.present().map_err(say)
    }

    fn number(&self, bar: &Bar) -> String {
        match bar.spread {
            Some(spread) => format!("{} ± {}", tick(bar.value), tick(spread)),
            None => tick(bar.value),
        }
    }
}
