//! `metrics.jsonl`: one line per update and measurement, for figures and other programs.

use super::TrainError;
use super::student::Spectra;
use crate::pipeline::atomic::{AtomicFile, OutputError};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Metric {
    /// An update.
    Step(StepMetric),
    /// The loss on the clips held out, after an update.
    Validation(ValidationMetric),
    /// Φ at the start of a phase.
    Spectrum {
        /// First update of the phase.
        step: usize,
        /// Rank from here on.
        rank: usize,
        /// Singular values by layer, the largest first.
        singular_values: Spectra,
    },
}

/// What an update did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetric {
    /// Number of the update, from 0.
    pub step: usize,
    /// Mean loss of its clips.
    pub loss: f64,
    /// Norm of the mean gradient, before clipping.
    pub gradient_norm: f64,
    /// Learning rate of the weights.
    pub learning_rate: f64,
    /// Rank of Φ; absent without Φ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// Factor of the directions that go next; absent without Φ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub u: Option<f32>,
    /// Duration.
    pub seconds: f64,
}

/// A measurement on the clips held out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationMetric {
    /// The update after which it was measured.
    pub step: usize,
    /// Mean loss.
    pub loss: f64,
    /// The same without Φ; absent if there is none (any more).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_without_phi: Option<f64>,
}

impl Metric {
    /// The update it belongs to.
    pub fn step(&self) -> usize {
        match self {
            Self::Step(StepMetric { step, .. })
            | Self::Validation(ValidationMetric { step, .. })
            | Self::Spectrum { step, .. } => *step,
        }
    }
}

/// The file, open for more.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file for the lines of update `step` and later ones: whatever it has of them, and
    /// a last line that was not finished, belongs to updates that are done again, and is dropped.
    ///
    /// # Errors
    ///
    /// If it cannot be read or written.
    pub fn open(path: &Path, step: usize) -> Result<Self, TrainError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(err) => return Err(OutputError::io("read", path)(err).into()),
        };
        let is_earlier = |line: &&str| {
            line.ends_with('\n')
                && serde_json::from_str::<Metric>(line).is_ok_and(|metric| metric.step() < step)
        };
        let kept: String = text.split_inclusive('\n').filter(is_earlier).collect();
        if kept.len() < text.len() {
            let mut file = AtomicFile::create(path)?;
            file.write_all(kept.as_bytes()).map_err(OutputError::io("write", path))?;
            file.commit()?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Self { file: file.map_err(OutputError::io("open", path))?, path: path.to_owned() })
    }

    /// Adds a line.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    ///
    /// # Panics
    ///
    /// Never: a metric is plain data.
    pub fn write(&mut self, metric: &Metric) -> Result<(), TrainError> {
        let mut line = serde_json::to_string(metric).expect("a metric is plain data");
        line.push('\n');
        Ok(self.file.write_all(line.as_bytes()).map_err(OutputError::io("write", &self.path))?)
    }
}

/// The lines of the file at `path`; those that are none are left out.
///
/// # Errors
///
/// If it cannot be read.
pub fn read_metrics(path: &Path) -> Result<Vec<Metric>, TrainError> {
    let text = fs::read_to_string(path).map_err(OutputError::io("read", path))?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_updates_that_are_done_again_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let line = |step| {
            Metric::Validation(ValidationMetric {
                step,
                loss: 0.1 + step as f64,
                loss_without_phi: None,
            })
        };
        let mut file = MetricsFile::open(&path, 0).unwrap();
        for step in 0..5 {
            file.write(&line(step)).unwrap();
        }
        drop(file);
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("{\"kind\":\"step\",\"st");
        fs::write(&path, text).unwrap();
        let mut file = MetricsFile::open(&path, 3).unwrap();
        file.write(&line(3)).unwrap();
        let steps: Vec<usize> = read_metrics(&path).unwrap().iter().map(Metric::step).collect();
        assert_eq!(steps, [0, 1, 2, 3]);
        assert_eq!(read_metrics(&path).unwrap()[2], line(2));
    }
}
