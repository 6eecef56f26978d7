//! What kernels do to a row of values before they use it: a shift and a factor by channel, then a
//! Walsh–Hadamard transform in blocks.

use super::{Const, Element, Rows};
use crate::quant::{HADAMARD_BLOCKS, check_hadamard};
use burn::tensor::Tensor;

/// `H · ((x − offset) · factor)`, with the parts that there are.
#[derive(Clone, Debug, Default)]
pub struct TokenTransform {
    /// Offset and factor, `[in_features]` each, f32.
    pub affine: Option<[Tensor<1>; 2]>,
    /// Width of the blocks of `H`, one of [`HADAMARD_BLOCKS`].
    pub hadamard: Option<usize>,
}

impl TokenTransform {
    /// Which parts there are.
    pub(crate) fn kind(&self) -> RowTransform {
        let hadamard = self.hadamard.map_or(1, |block| block as u32);
        RowTransform { affine: self.affine.is_some(), hadamard }
    }

    /// Asserts that rows of `in_features` can be transformed: kernels have no bounds checks.
    ///
    /// # Panics
    ///
    /// If a length does not fit.
    pub(crate) fn assert_fits(&self, op: &str, in_features: usize) {
        for row in self.affine.iter().flatten() {
            assert_eq!(row.dims(), [in_features], "{op}: length of offset and factor");
        }
        if let Some(block) = self.hadamard {
            check_hadamard(block, in_features).unwrap_or_else(|err| panic!("{op}: {err}"));
        }
    }
}

/// Which parts a [`TokenTransform`] has: the part of it that is a compile key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowTransform {
    /// Whether there are offset and factor.
    pub affine: bool,
    /// Width of the blocks; 1 for none.
    pub hadamard: u32,
}

impl RowTransform {
    /// Rows as they are.
    pub const NONE: Self = Self { affine: false, hadamard: 1 };

    /// The transforms with blocks.
    pub(crate) fn with_blocks(affine: bool) -> [Self; 2] {
        HADAMARD_BLOCKS.map(|block| Self { affine, hadamard: block as u32 })
    }

    /// Width of the blocks, if there are any.
    pub(crate) fn block(self) -> Option<usize> {
        (self.hadamard > 1).then_some(self.hadamard as usize)
    }

    /// What shaders that import `affine` and `row` need.
    pub(crate) fn constants(self, rows: Rows) -> Vec<Const> {
        let has_blocks = self.block().is_some();
        vec![
            Const::U32("HADAMARD", self.hadamard),
            Const::Alias("Row", Element::F32.wgsl_in(rows)),
            Const::Import("affine", if self.affine { "affine_rows" } else { "affine_none" }),
            Const::Import("rows", rows.fragments()[1]),
            Const::Import("row", if has_blocks { "row_hadamard" } else { "row_whole" }),
        ]
    }
}
