//! SVDQuant: a branch of low rank in 16 bits takes what is hardest to quantize.
//!
//! Li et al., arXiv 2411.05007, §4. After smoothing (the search of [`super::smoothquant`]),
//!
//! ```text
//! Ŵ = up·down + R,    y = x̂·downᵀ·upᵀ + Q(x̂)·Q(R)ᵀ
//! ```
//!
//! where `up·down` is the best approximation of rank 32 of what rounding leaves: first of `Ŵ` itself,
//! then of `Ŵ − Q(R)`, in turns while the error of the output falls. Small layers get a sixth of
//! their smaller side. `up` and `down` are rounded to f16 before `R` is taken, so that the codes make
//! up for that, too. Stores the two factors in 16 bits and the scale; at run time two thin products
//! of floats beside the packed one.

use super::problem::matrix;
use super::{Problem, smoothquant};
use crate::method::{LowRank, truncated_svd};
use crate::quant::{LowRankBranch, QuantizedLayer};
use burn::tensor::Tensor;

/// Most turns.
const ROUNDS: usize = 16;
/// Turns without progress that end the search.
const PATIENCE: usize = 2;
/// The smaller side of a layer by the largest rank that is worth its bits.
const SIDE_PER_RANK: usize = 6;

/// The layer with its branch.
pub(super) fn solve(problem: &Problem<'_>) -> QuantizedLayer {
    let transform = smoothquant::smoothed(problem);
    let k = problem.in_features;
    let weight = problem.folded(&transform);
    let smaller = k.min(problem.out_features());
    let rank = problem.goal.rank.min(smaller / SIDE_PER_RANK).max(1);
    let whole = matrix(&weight, k, problem.device());
    let mut rest = whole.clone();
    let mut best: Option<(f64, QuantizedLayer)> = None;
    let mut stale = 0;
    for round in 0..ROUNDS {
        let (branch, product) = branch(rest, rank, round as u64);
        let residual = read(whole.clone() - product);
        let rows = problem.rounded(&residual, problem.goal.weights);
        rest = whole.clone() - matrix(&rows.values(), k, problem.device());
        let layer = problem.layer(rows, transform.clone(), Some(branch));
        let error = problem.solving_error(&layer);
        stale += 1;
        if best.as_ref().is_none_or(|(least, _)| error < *least) {
            (best, stale) = (Some((error, layer)), 0);
        }
        if stale > PATIENCE {
            break;
        }
    }
    let Some((_, layer)) = best else { unreachable!("there is at least one round") };
    layer
}

/// The best branch of `rank` for `rest`, as it is stored, and its product.
fn branch(rest: Tensor<2>, rank: usize, seed: u64) -> (LowRankBranch, Tensor<2>) {
    let ([_, k], device) = (rest.dims(), rest.device());
    let (factors, _) = truncated_svd(rest, rank, seed);
    let branch = LowRankBranch { rank, down: read(factors.r), up: read(factors.l) }.rounded();
    let (l, r) = (matrix(&branch.up, rank, &device), matrix(&branch.down, k, &device));
    (branch, LowRank { l, r }.product())
}

fn read(x: Tensor<2>) -> Vec<f32> {
    x.into_data().try_to_vec().expect("f32 values")
}
