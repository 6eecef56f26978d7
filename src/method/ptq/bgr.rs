//! Bounded-init grid refinement: least squares between codes and grid, in turns, without data.
//!
//! `DVD-Quant` (arXiv 2505.18663), its first component: from the best of the searched clip bounds,
//! each row repeats
//!
//! ```text
//! scale      ← ⟨q − z, w⟩ / ⟨q − z, q − z⟩
//! zero point ← mean(q − w / scale)
//! q          ← codes of w on the new grid
//! ```
//!
//! until nothing changes; the best grid seen is kept, so the squared error never grows. The paper
//! rounds and clamps the zero point; grids with a real-valued one (QVGen's) need neither. That the
//! mean is taken over a row is our reading. Stores nothing but the grid, costs nothing at run time.

use super::Problem;
use super::grids::{grids_of, on_grids};
use crate::quant::{
    Bits, Calibration, Grid, InputTransform, MIN_SCALE, QuantizedLayer, Scheme, WeightSpec,
};

/// Most rounds; rows settle after 3 to 8.
const ROUNDS: usize = 20;

/// The layer with refined grids.
pub(super) fn solve(problem: &Problem<'_>) -> QuantizedLayer {
    let spec = WeightSpec { calibration: Calibration::Mse, ..problem.goal.weights };
    let start = problem.rounded(problem.weight, spec);
    let refine =
        |index: usize, w: &[f32]| refined_grid(start.grids[index], spec.scheme, spec.bits, w);
    let grids = grids_of(problem.weight, problem.in_features, start.group_size, refine);
    let rows = on_grids(problem.weight, problem.in_features, start.group_size, spec, grids);
    problem.layer(rows, InputTransform::NONE, None)
}

/// The refined grid of a row or group of weights, from `start` on.
pub fn refined_grid(start: Grid, scheme: Scheme, bits: Bits, w: &[f32]) -> Grid {
    let (mut best, mut grid) = ((squared_error(start, scheme, bits, w), start), start);
    for _ in 0..ROUNDS {
        let Some(next) = refined(grid, scheme, bits, w) else { break };
        let error = squared_error(next, scheme, bits, w);
        if error < best.0 {
            best = (error, next);
        }
        if next == grid {
            break;
        }
        grid = next;
    }
    best.1
}

/// One round; `None` where no code differs from the zero point.
fn refined(grid: Grid, scheme: Scheme, bits: Bits, w: &[f32]) -> Option<Grid> {
    let codes: Vec<f64> = w.iter().map(|&w| f64::from(grid.code(scheme, bits, w))).collect();
    let zero_point = f64::from(grid.zero_point);
    let (mut product, mut square) = (0.0, 0.0);
    for (q, &w) in codes.iter().zip(w) {
        product += (q - zero_point) * f64::from(w);
        square += (q - zero_point) * (q - zero_point);
    }
    let scale = product / square;
    if !(scale > f64::from(MIN_SCALE) && scale.is_finite()) {
        return None;
    }
    let offset = codes.iter().zip(w).map(|(q, &w)| q - f64::from(w) / scale).sum::<f64>();
    let mean = offset / w.len() as f64;
    let zero_point = match scheme {
        Scheme::Symmetric => zero_point,
        Scheme::AsymmetricReal => mean,
        Scheme::AsymmetricFree => mean.round_ties_even(),
        _ => mean.round_ties_even().clamp(0.0, f64::from(bits.max_code())),
    };
    Some(Grid { scale: scale as f32, zero_point: zero_point as f32 })
}

fn squared_error(grid: Grid, scheme: Scheme, bits: Bits, w: &[f32]) -> f64 {
    let error = |w: f32| f64::from(grid.value(grid.code(scheme, bits, w)) - w);
    w.iter().map(|&w| error(w) * error(w)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::calibrate;

    /// Rows with a few values far from the others.
    fn row(seed: usize) -> Vec<f32> {
        let value = |i: usize| ((i * 37 + seed * 101) as f32 * 12.9898).sin();
        (0..64).map(|i| value(i).powi(3) + if i % 29 == 7 { 2.0 } else { 0.05 }).collect()
    }

    #[test]
    fn refinement_never_makes_a_row_worse_and_most_rows_better() {
        for scheme in Scheme::ALL {
            for bits in [Bits::B3, Bits::B4, Bits::B8] {
                let mut improved = 0;
                for seed in 0..20 {
                    let w = row(seed);
                    let before = calibrate(Calibration::Mse, scheme, bits, &w);
                    let after = refined_grid(before, scheme, bits, &w);
                    let [before, after] =
                        [before, after].map(|grid| squared_error(grid, scheme, bits, &w));
                    assert!(after <= before, "{scheme:?} {bits}: {after} above {before}");
                    improved += usize::from(after < 0.999 * before);
                }
                assert!(improved >= 8, "{scheme:?} {bits}: {improved} of 20 rows are better");
            }
        }
    }

    #[test]
    fn a_row_that_the_grid_can_represent_is_left_alone() {
        let w: Vec<f32> = (0..16_u8).map(|code| 0.25 * (f32::from(code) - 5.0)).collect();
        let start = calibrate(Calibration::Mse, Scheme::Asymmetric, Bits::B4, &w);
        let grid = refined_grid(start, Scheme::Asymmetric, Bits::B4, &w);
        assert!(squared_error(grid, Scheme::Asymmetric, Bits::B4, &w) < 1e-10, "{grid:?}");
        for w in [[0.0; 8], [0.5; 8]] {
            let start = calibrate(Calibration::Mse, Scheme::AsymmetricReal, Bits::B3, &w);
            let grid = refined_grid(start, Scheme::AsymmetricReal, Bits::B3, &w);
            assert!(grid.scale.is_finite() && grid.zero_point.is_finite(), "{grid:?}");
        }
    }
}
