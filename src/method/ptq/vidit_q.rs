//! ViDiT-Q: channels balanced by what they do over all timesteps, then rotated.
//!
//! Zhao et al., arXiv 2406.02540, the static-dynamic form: the imbalance of channels that lasts is
//! taken out by `s = x_max^α / max|W|^(1 − α)`, `α = 0.11` as in the authors' configurations, where
//! `x_max` is the moving average (0.95) of the largest magnitudes over the timesteps; what varies is
//! left to a Hadamard rotation. Stores `s` and the width of the rotation; at run time both within
//! the quantizer of the tokens.
//!
//! Departure: the paper balances the two halves of the timesteps with weights of their own, which
//! doubles the model; here there is one balance for all. Layers whose width no block divides are
//! balanced and not rotated.

use super::smoothing::balanced;
use super::{Problem, hadamard};
use crate::quant::{InputTransform, QuantizedLayer};

/// Weight of the activations in the balance.
const ALPHA: f32 = 0.11;

/// Weight of what was before in the moving average: the `decay` of
/// [`crate::kernels::channel_statistics()`] while observing.
pub const DECAY: f32 = 0.95;

/// The balanced and rotated layer.
pub(super) fn solve(problem: &Problem<'_>) -> QuantizedLayer {
    let scale = problem
        .observed
        .overall()
        .map(|statistics| balanced(statistics.moving_max(), &problem.weight_absmax(), ALPHA));
    let hadamard = hadamard::block(problem.in_features);
    problem.transformed_layer(InputTransform { shift: None, scale, hadamard })
}
