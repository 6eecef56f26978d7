//! QVD: quantizers that keep timesteps apart, and channels that share the levels of one range.
//!
//! Tian et al., arXiv 2407.11585. What is known of the paper and what is not:
//!
//! | part | here | evidence |
//! |---|---|---|
//! | HiDi-TQ, codes of logarithms to base 2 | [`crate::quant::LogSpec`] | as in a port of the authors' code |
//! | its place: the input of linears that depend on the timestep alone | [`htdq`] | the same |
//! | the score that chooses among quantizers | [`super::td_score_recon`] | **our reconstruction** |
//! | more steps per octave, uniform quantizers as candidates | [`htdq`] | ours |
//! | SCRI: channels of scattered ranges integrated | [`scri_recon`] | **our reconstruction** |
//!
//! The two equations marked so were not available to us; both names carry `recon` for that reason.
//! The paper treats a U-Net; on transformers the temporal features are the inputs of the linears that
//! bring the timestep into the blocks. Which those are, the model says, and that an input depends on
//! the timestep alone shows in its having one token in every pass. Other methods keep these layers
//! in full precision unless asked; `qvgen quantize --method qvd` quantizes them.

pub mod htdq;
pub mod scri_recon;

pub use htdq::TemporalChoice;
pub(super) use htdq::{candidates, choose};

use super::Problem;
use crate::quant::QuantizedLayer;

/// The layer: temporal features by discriminability, other inputs by integrated channels.
pub(super) fn solve(problem: &Problem<'_>) -> QuantizedLayer {
    if problem.observed.is_temporal { htdq::solve(problem) } else { scri_recon::solve(problem) }
}
