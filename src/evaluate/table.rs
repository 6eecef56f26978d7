//! An evaluation as a table for people.

use super::{CaptionScores, Evaluation, LevelScore, Statistic};
use std::fmt;

/// A line of scores: its name, and how it is read from the scores of captions.
type Line = (&'static str, fn(&CaptionScores) -> Option<Statistic>);

const LINES: [Line; 13] = [
    ("caption accuracy", |scores| scores.caption_accuracy),
    ("  shape", |scores| scores.shape_accuracy),
    ("  color", |scores| scores.color_accuracy),
    ("  direction", |scores| scores.direction_accuracy),
    ("  direction, speed", |scores| scores.motion_accuracy),
    ("  background", |scores| scores.background_accuracy),
    ("object found", |scores| scores.object_found),
    ("dynamic degree", |scores| scores.dynamic_degree),
    ("stray motion", |scores| scores.stray_motion),
    ("motion smoothness", |scores| scores.motion_smoothness),
    ("frame smoothness", |scores| scores.frame_smoothness),
    ("subject consistency", |scores| scores.subject_consistency),
    ("background consistency", |scores| scores.background_consistency),
];

impl fmt::Display for Statistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = f.precision().unwrap_or(3);
        write!(f, "{:.decimals$}", self.mean)?;
        self.sd.map_or(Ok(()), |sd| write!(f, " ± {sd:.decimals$}"))
    }
}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut blocks = Vec::new();
        if let Some(captions) = &self.captions {
            let columns = [
                ("all", Some(&captions.all)),
                ("seen", captions.seen.as_ref()),
                ("held out", captions.held_out.as_ref()),
                ("ceiling", captions.ceiling.as_ref()),
            ];
            let columns: Vec<(&str, &CaptionScores)> =
                columns.into_iter().filter_map(|(name, scores)| Some((name, scores?))).collect();
            blocks.push(caption_block(&columns));
        }
        if let Some(agreement) = &self.agreement {
            let row = |name: &str, value: Option<Statistic>| vec![name.to_owned(), cell(value)];
            let mut rows =
                vec![vec!["agreement".to_owned(), format!("with {}", agreement.reference)]];
            rows.push(row("PSNR (dB)", agreement.psnr));
            rows.push(row("SSIM", agreement.ssim));
            rows.push(vec!["velocity MSE".to_owned(), fine(agreement.velocity_mse)]);
            rows.extend(level_rows(&agreement.velocity_mse_by_level));
            blocks.push(rows);
        }
        if !self.flow_loss_by_level.is_empty() {
            let mut rows = vec![vec!["flow loss".to_owned(), "on scenes".to_owned()]];
            rows.extend(level_rows(&self.flow_loss_by_level));
            blocks.push(rows);
        }
        let blocks: Vec<String> = blocks.iter().map(|rows| aligned(rows)).collect();
        write!(f, "{}", blocks.join("\n\n"))
    }
}

fn caption_block(columns: &[(&str, &CaptionScores)]) -> Vec<Vec<String>> {
    let mut rows = vec![vec!["captions".to_owned()], vec!["clips per seed".to_owned()]];
    for (name, scores) in columns {
        rows[0].push((*name).to_owned());
        rows[1].push(scores.clips.to_string());
    }
    for (name, value) in LINES {
        let cells = columns.iter().map(|(_, scores)| cell(value(scores)));
        rows.push(std::iter::once(name.to_owned()).chain(cells).collect());
    }
    rows
}

fn level_rows(levels: &[LevelScore]) -> impl Iterator<Item = Vec<String>> {
    let row =
        |level: &LevelScore| vec![format!("  noise level {}", level.noise_level), fine(level.mse)];
    levels.iter().map(row)
}

fn cell(value: Option<Statistic>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Squared differences are small.
fn fine(value: Option<Statistic>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.5}"))
}

/// Rows as lines: the first cell to the left, the others to the right of columns as wide as
/// their widest cell.
fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(column, cell)| match column {
            0 => format!("{cell:<0$}", width(0).max(22)),
            _ => format!("{cell:>0$}", width(column)),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
