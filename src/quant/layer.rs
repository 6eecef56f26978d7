//! Everything that a post-training method decides about one layer.

use super::{ActivationQuantizer, InputTransform, LowRankBranch, PackedRows, Scheme};

/// A quantized linear layer: what `pipeline::packed` stores and `nn::PackedLinear` computes.
///
/// ```text
/// y = Q(x̂)·Ŵᵀ + (x̂·downᵀ)·upᵀ + b̂,   x̂ = H · ((x − shift) / scale)
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedLayer {
    /// The weight `Ŵ` `[out_features, in_features]`, of transformed tokens.
    pub rows: PackedRows,
    /// How ranges of the weight became grids; nothing is computed from it.
    pub scheme: Scheme,
    /// `b̂` `[out_features]`.
    pub bias: Option<Vec<f32>>,
    /// What happens to tokens first.
    pub transform: InputTransform,
    /// Beside the quantized weight; of a solved layer with [`LowRankBranch::rounded`] factors.
    pub low_rank: Option<LowRankBranch>,
    /// How transformed tokens are quantized; `None` for weight-only.
    pub activations: Option<ActivationQuantizer>,
}

impl QuantizedLayer {
    /// A layer without transform and branch.
    pub fn plain(
        rows: PackedRows,
        scheme: Scheme,
        bias: Option<Vec<f32>>,
        activations: Option<ActivationQuantizer>,
    ) -> Self {
        Self { rows, scheme, bias, transform: InputTransform::NONE, low_rank: None, activations }
    }

    /// `[out_features, in_features]`.
    pub fn shape(&self) -> [usize; 2] {
        [self.rows.rows(), self.rows.in_features]
    }
}
