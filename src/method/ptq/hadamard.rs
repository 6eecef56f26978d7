//! Rotation: a Walsh–Hadamard transform in blocks spreads outliers over their block.
//!
//! QuaRot (Ashkboos et al., arXiv 2404.00456), the online form: activations that a modulation
//! precedes cannot be rotated beforehand. `x̂ = H·x`, `Ŵ = W·Hᵀ`. A block is 128 channels wide, or 64
//! where that is no divisor; layers of other widths stay unrotated. Needs no data, stores the width
//! of the block; at run time `log2(block)` additions per value within the quantizer of the tokens.

use super::Problem;
use crate::quant::{HADAMARD_BLOCKS, InputTransform, QuantizedLayer, check_hadamard};

/// The layer, rotated if it can be.
pub(super) fn solve(problem: &Problem<'_>) -> QuantizedLayer {
    let hadamard = block(problem.in_features);
    problem.transformed_layer(InputTransform { hadamard, ..InputTransform::NONE })
}

/// The widest block that divides `in_features`.
pub(super) fn block(in_features: usize) -> Option<usize> {
    let fits = |block: &usize| check_hadamard(*block, in_features).is_ok();
    HADAMARD_BLOCKS.into_iter().filter(fits).max()
}

#[cfg(test)]
mod tests {
    use super::block;

    #[test]
    fn blocks_are_as_wide_as_they_divide() {
        assert_eq!([1536, 192, 8960, 100].map(block), [Some(128), Some(64), Some(128), None]);
    }
}
