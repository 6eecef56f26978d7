//! Figures as SVG: curves, bars, and those of a training.
//!
//! Text stays text, so that a figure can be searched and edited; colors are those of Okabe and
//! Ito, which people with any kind of color vision tell apart.

mod bars;
mod chart;
mod run;

pub use bars::{Bar, BarFigure};
pub use chart::{LineFigure, Marks, Scale, Series};
pub use run::write_run_figures;

use super::TrainError;
use crate::pipeline::atomic::{AtomicFile, OutputError};
use plotters::prelude::{RGBColor, WHITE};
use plotters::style::{FontDesc, IntoFont as _, TextStyle};
use std::io::Write;
use std::path::Path;

/// Black, vermilion, blue, green, orange, sky blue, purple: readable on white.
const PALETTE: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(60, 60, 60),
];

pub(crate) const INK: RGBColor = RGBColor(40, 40, 40);
pub(crate) const GRID: RGBColor = RGBColor(225, 225, 225);

/// The color of the `index`-th thing.
pub(crate) fn color(index: usize) -> RGBColor {
    PALETTE[index % PALETTE.len()]
}

fn font(size: u32) -> FontDesc<'static> {
    ("Helvetica, Arial, sans-serif", size).into_font()
}

pub(crate) fn text(size: u32) -> TextStyle<'static> {
    font(size).color(&INK)
}

/// What a backend reports, as an error that names the figure.
fn failed<E: std::fmt::Display>(path: &Path) -> impl Fn(E) -> TrainError {
    move |err| TrainError::Data {
        message: format!("the figure cannot be drawn ({err})"),
        path: path.to_owned(),
    }
}

/// Writes `svg` to `path`, replacing an older figure when it is complete.
fn write(path: &Path, svg: &str) -> Result<(), TrainError> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(svg.as_bytes()).map_err(OutputError::io("write", path))?;
    Ok(file.commit()?)
}

/// Background of every figure.
pub(crate) const PAPER: RGBColor = WHITE;

/// A number on an axis: short, without needless zeros.
pub(crate) fn tick(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e5).contains(&size) {
        let text = format!("{value:.1e}");
        text.replace(".0e", "e")
    } else {
        let digits = (3 - size.log10().floor() as i32).clamp(0, 5) as usize;
        let text = format!("{value:.digits$}");
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::tick;

    #[test]
    fn ticks_are_short() {
        for (value, expected) in [
            (0.0, "0"),
            (1.0, "1"),
            (0.25, "0.25"),
            (1500.0, "1500"),
            (3e-5, "3e-5"),
            (2.5e-4, "2.5e-4"),
            (-0.1, "-0.1"),
        ] {
            assert_eq!(tick(value), expected);
        }
    }
}
