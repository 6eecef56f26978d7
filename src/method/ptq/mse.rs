//! Rounding to the range of least error: the extremes of each row or group, shrunk by 1.00, 0.99, …,
//! 0.21, of which the one with the least `Σ |w − ŵ|^2.4` is kept.
//!
//! `get_mse_range` of the released QVGen code (arXiv 2505.11497), which starts its training so. Needs
//! no data, stores nothing but the grid, costs nothing at run time.

use super::Problem;
use crate::quant::{Calibration, InputTransform, QuantizedLayer, WeightSpec};

/// The layer with searched ranges.
pub(super) fn solve(problem: &Problem<'_>) -> QuantizedLayer {
    let spec = WeightSpec { calibration: Calibration::Mse, ..problem.goal.weights };
    problem.layer(problem.rounded(problem.weight, spec), InputTransform::NONE, None)
}
