//! Whether a checkpoint was trained in the width that it is imported in: nothing in it says so.

use crate::quant::{PackedRows, unpack_rows};

/// Share of weights beyond the last code from which the checkpoint must have more bits.
const MOST_CUT: f64 = 0.25;
/// Share of codes in the upper half below which the checkpoint must have fewer bits.
const LEAST_UPPER: f64 = 0.001;

/// Where the weights lie on their grids.
#[derive(Debug, Default)]
pub(super) struct CodeShares {
    weights: u64,
    /// More than half a step outside the codes.
    cut: u64,
    /// In the upper half of the codes.
    upper: u64,
}

impl CodeShares {
    pub(super) fn add(&mut self, rows: &PackedRows, weight: &[f32]) {
        let top = rows.bits.max_code();
        let codes = unpack_rows(rows.bits, &rows.codes, rows.in_features);
        for (i, (&w, code)) in weight.iter().zip(codes).enumerate() {
            let grid = rows.grids[i / rows.in_features];
            let position = w / grid.scale + grid.zero_point;
            self.cut += u64::from(position < -0.5 || position > top as f32 + 0.5);
            self.upper += u64::from(code > top / 2);
        }
        self.weights += weight.len() as u64;
    }

    /// What contradicts the width of the codes, as part of a sentence.
    pub(super) fn problem(&self) -> Option<String> {
        let share = |count: u64| count as f64 / self.weights.max(1) as f64;
        if share(self.cut) > MOST_CUT {
            Some(format!(
                "{:.0} % of its weights lie beyond the last code",
                100.0 * share(self.cut)
            ))
        } else if share(self.upper) < LEAST_UPPER {
            Some("its codes leave the upper half unused".to_owned())
        } else {
            None
        }
    }
}
