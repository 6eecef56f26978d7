//! Rounding to the range: each row's or group's grid covers its extremes. Needs no data, stores
//! nothing but the grid, costs nothing at run time.

use super::Problem;
use crate::quant::{Calibration, InputTransform, QuantizedLayer, WeightSpec};

/// The layer with the extremes as ranges.
pub(super) fn solve(problem: &Problem<'_>) -> QuantizedLayer {
    let spec = WeightSpec { calibration: Calibration::MinMax, ..problem.goal.weights };
    problem.layer(problem.rounded(problem.weight, spec), InputTransform::NONE, None)
}
