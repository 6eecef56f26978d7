//! Choices that several kernels share: element type of the activations, form of the byte product.

use super::{Const, Tier};
use burn::backend::DType;

/// Storage type of activations; arithmetic is always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32-bit floats.
    F32,
    /// 16-bit floats, where the adapter has them.
    F16,
}

impl Element {
    /// Every element type.
    pub const ALL: [Self; 2] = [Self::F32, Self::F16];

    /// The element type of a tensor.
    ///
    /// # Panics
    ///
    /// On any other type: weights and activations are converted while loading.
    pub fn of(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            other => panic!("kernels take f32 or f16, not {other:?}"),
        }
    }

    pub(crate) const fn wgsl(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        }
    }

    /// Four of them, or one where rows are no multiple of four long.
    pub(crate) const fn wgsl_in(self, rows: Rows) -> &'static str {
        match (self, rows) {
            (_, Rows::Ragged) => self.wgsl(),
            (Self::F32, Rows::Vectors) => "vec4<f32>",
            (Self::F16, Rows::Vectors) => "vec4<f16>",
        }
    }

    pub(crate) const fn tier(self) -> Tier {
        match self {
            Self::F32 => Tier::Core,
            Self::F16 => Tier::Half,
        }
    }
}

/// What shaders on matrix units of `size` rows, columns and depth, 8 or 16, are told of them: f16
/// factors `MatrixA` and `MatrixB`, f32 sums `MatrixC`.
pub(crate) fn matrix_constants(size: u32) -> Vec<Const> {
    let types = match size {
        8 => ["coop_mat8x8<f16, A>", "coop_mat8x8<f16, B>", "coop_mat8x8<f32, C>"],
        _ => ["coop_mat16x16<f16, A>", "coop_mat16x16<f16, B>", "coop_mat16x16<f32, C>"],
    };
    let aliases = ["MatrixA", "MatrixB", "MatrixC"].into_iter().zip(types);
    let aliases = aliases.map(|(name, ty)| Const::Alias(name, ty));
    [Const::U32("SIZE", size)].into_iter().chain(aliases).collect()
}

/// How four products of unsigned bytes are summed; both forms give the same integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dot {
    /// `dot4U8Packed`: one instruction on adapters that have it, naga's substitute elsewhere.
    Packed,
    /// Shifts, masks and multiplications.
    Portable,
}

impl Dot {
    /// Both forms.
    pub const ALL: [Self; 2] = [Self::Packed, Self::Portable];

    pub(crate) const fn fragment(self) -> &'static str {
        match self {
            Self::Packed => "dot_packed",
            Self::Portable => "dot_portable",
        }
    }

    /// The form for the device that this process opened.
    pub fn preferred() -> Self {
        Self::Packed
    }
}

/// How a row of activations is loaded, four values at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// As vectors: its length is a multiple of four.
    Vectors,
    /// Value by value: it has any length.
    Ragged,
}

impl Rows {
    /// How rows of `k` values are loaded.
    pub const fn of(k: usize) -> Self {
        if k.is_multiple_of(4) { Self::Vectors } else { Self::Ragged }
    }

    /// The fragments that load values of `x`, and of the rows `factor` and `offset`.
    pub(crate) const fn fragments(self) -> [&'static str; 2] {
        match self {
            Self::Vectors => ["quads_vector", "rows_vector"],
            Self::Ragged => ["quads_scalar", "rows_scalar"],
        }
    }
}
