//! QVGen: quantization-aware training with an auxiliary module that is gone in the end
//! (Huang et al., ICLR 2026, arXiv:2505.11497).
//!
//! Beside every quantized weight stands Φ, a low-rank matrix that starts as the quantization
//! error ([`initialize_phi`]), keeps gradients small at first, and loses rank phase by phase
//! ([`RankSchedule`]) until nothing is left that inference would have to pay for. [`TrainedLayer`]
//! is the forward and backward pass of one layer; [`redecompose`] starts a phase. The same layer
//! with other settings ([`Recipe`]) is every baseline the paper compares with.

mod layer;
mod recipe;
mod schedule;

pub use layer::{Addition, LayerGradients, TrainedLayer, WeightQuantizer};
pub use recipe::{Auxiliary, Loss, Method, Recipe};
pub use schedule::{Annealing, Phase, RankSchedule, ScheduleError};

use super::low_rank::{LowRank, rebalance, truncated_svd};
use burn::tensor::Tensor;

/// Φ at the start: the best approximation of rank `rank` of `W − Q(W)`, with its singular values.
///
/// `seed` starts the subspace iteration; the same seed gives the same factors.
pub fn initialize_phi(
    weight: Tensor<2>,
    quantized: Tensor<2>,
    rank: usize,
    seed: u64,
) -> (LowRank, Vec<f32>) {
    truncated_svd(weight - quantized, rank, seed)
}

/// Φ at the start of a phase: what the first `rank` directions of `l [out, ≥ rank]` and
/// `r [≥ rank, in]` stand for, as singular directions in falling order (paper §3.3).
pub fn redecompose(l: Tensor<2>, r: Tensor<2>, rank: usize) -> (LowRank, Vec<f32>) {
    rebalance(l.narrow(1, 0, rank), r.narrow(0, 0, rank))
}

/// Φ at the start of a phase as the released training setup leaves it: cut, but neither sorted
/// nor orthogonal, because its optimizer restores the factors from its own copy.
pub fn truncate(l: Tensor<2>, r: Tensor<2>, rank: usize) -> LowRank {
    LowRank { l: l.narrow(1, 0, rank), r: r.narrow(0, 0, rank) }
}
