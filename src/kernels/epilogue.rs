//! What follows a product within its kernel: `y = residual + gate · (x·wᵀ + bias + branch)`.
//!
//! Each of these would be a pass of its own over the result otherwise. Which tensors there are is
//! part of the compile key: a shader that declares a buffer has to use it.

use super::Const;
use super::launch::{contiguous_f32, flex_f32};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType, Flex, TensorMetadata};
use burn::tensor::Tensor;
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use rayon::prelude::*;

/// What follows a product `[tokens, out_features]`.
#[derive(Clone, Debug)]
pub struct Epilogue {
    /// `[out_features]`, added first.
    pub bias: Tensor<1>,
    /// A branch of low rank, added to that.
    pub branch: Option<Branch>,
    /// What is added last.
    pub residual: Option<Residual>,
}

/// A full-precision branch of low rank beside a packed weight, `small · upᵀ`.
#[derive(Clone, Debug)]
pub struct Branch {
    /// The tokens times the branch's first factor, `[tokens, rank]`, a multiple of four.
    pub small: Tensor<2>,
    /// Its second factor, `[out_features, rank]`.
    pub up: Tensor<2>,
}

/// A sum with what bypassed the layer.
#[derive(Clone, Debug)]
pub struct Residual {
    /// `[tokens, out_features]`.
    pub value: Tensor<2>,
    /// `[1, out_features]`, a factor of the layer's part; one without it.
    pub gate: Option<Tensor<2>>,
}

impl Residual {
    /// `value + gate · y` as operations with gradients; `y` is `[tokens, out_features]`.
    pub fn add_to(self, y: Tensor<2>) -> Tensor<2> {
        self.value + if let Some(gate) = self.gate { y * gate } else { y }
    }
}

impl From<Tensor<1>> for Epilogue {
    fn from(bias: Tensor<1>) -> Self {
        Self { bias, branch: None, residual: None }
    }
}

impl Epilogue {
    /// Asserts the shapes that follow from a product `[m, n]`: kernels have no bounds checks.
    ///
    /// # Panics
    ///
    /// If one differs.
    pub(crate) fn assert_fits(&self, op: &str, [m, n]: [usize; 2]) {
        assert_eq!(self.bias.dims(), [n], "{op}: length of bias and out_features");
        if let Some(Branch { small, up }) = &self.branch {
            let rank = small.dims()[1];
            assert!(rank > 0 && rank.is_multiple_of(4), "{op}: rank {rank} of the branch");
            assert_eq!(small.dims(), [m, rank], "{op}: shape of the branch's tokens");
            assert_eq!(up.dims(), [n, rank], "{op}: shape of the branch's second factor");
        }
        if let Some(Residual { value, gate }) = &self.residual {
            assert_eq!(value.dims(), [m, n], "{op}: shape of the residual");
            if let Some(gate) = gate {
                assert_eq!(gate.dims(), [1, n], "{op}: shape of the gate");
            }
        }
    }
}

/// Which tensors an [`Epilogue`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EpilogueKind {
    /// `x·wᵀ + bias`.
    Bias,
    /// `residual + (x·wᵀ + bias)`.
    Residual,
    /// `residual + gate · (x·wᵀ + bias)`.
    Gated,
    /// `x·wᵀ + bias + branch`.
    Branch {
        /// Rank of the branch, divided by four.
        rank_quads: u32,
    },
    /// `residual + gate · (x·wᵀ + bias + branch)`.
    BranchResidual {
        /// Rank of the branch, divided by four.
        rank_quads: u32,
    },
}

impl EpilogueKind {
    /// The kinds with more than a bias, the branches of some rank.
    pub const WITH_MORE: [Self; 4] = [
        Self::Residual,
        Self::Gated,
        Self::Branch { rank_quads: 2 },
        Self::BranchResidual { rank_quads: 2 },
    ];

    /// What shaders that import `epilogue` need.
    pub(crate) fn constants(self) -> [Const; 2] {
        let (fragment, rank_quads) = match self {
            Self::Bias => ("epilogue_bias", 0),
            Self::Residual => ("epilogue_residual", 0),
            Self::Gated => ("epilogue_gated", 0),
            Self::Branch { rank_quads } => ("epilogue_branch", rank_quads),
            Self::BranchResidual { rank_quads } => ("epilogue_branch_residual", rank_quads),
        };
        [Const::Import("epilogue", fragment), Const::U32("RANK_QUADS", rank_quads)]
    }
}

/// The tensors of an [`Epilogue`] on a backend.
#[derive(Clone, Debug, ExtensionType)]
pub(crate) enum EpilogueTensors<B: Backend> {
    /// `[out_features]`.
    Bias(FloatTensor<B>),
    /// Bias and residual `[tokens, out_features]`.
    Residual(FloatTensor<B>, FloatTensor<B>),
    /// Bias, residual and gate `[1, out_features]`.
    Gated(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
    /// The branch's tokens `[tokens, rank]`, and by column bias, gate, two zeros and the second
    /// factor, `[out_features, 4 + rank]`.
    Branch(FloatTensor<B>, FloatTensor<B>),
    /// The same and the residual.
    BranchResidual(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
}

impl From<Epilogue> for EpilogueTensors<Dispatch> {
    fn from(Epilogue { bias, branch, residual }: Epilogue) -> Self {
        if let Some(Branch { small, up }) = branch {
            let (value, gate) = match residual {
                Some(Residual { value, gate }) => (Some(value), gate),
                None => (None, None),
            };
            let columns = branch_columns(bias, gate, up).into_dispatch();
            let small = small.into_dispatch();
            return match value {
                None => Self::Branch(small, columns),
                Some(value) => Self::BranchResidual(small, columns, value.into_dispatch()),
            };
        }
        let bias = bias.into_dispatch();
        match residual {
            None => Self::Bias(bias),
            Some(Residual { value, gate: None }) => Self::Residual(bias, value.into_dispatch()),
            Some(Residual { value, gate: Some(gate) }) => {
                Self::Gated(bias, value.into_dispatch(), gate.into_dispatch())
            }
        }
    }
}

/// What a kernel with a branch knows of columns; a few values per column, however many tokens.
fn branch_columns(bias: Tensor<1>, gate: Option<Tensor<2>>, up: Tensor<2>) -> Tensor<2> {
    let ([n], device) = (bias.dims(), bias.device());
    let gate = gate.map_or_else(|| Tensor::ones([n, 1], &device), |gate| gate.reshape([n, 1]));
    Tensor::cat(vec![bias.reshape([n, 1]), gate, Tensor::zeros([n, 2], &device), up], 1)
}

impl EpilogueTensors<CubeBackend> {
    /// Which tensors there are, and their buffers in the order of the bindings.
    pub(crate) fn into_buffers(self) -> (EpilogueKind, Vec<CubeTensor>) {
        let quads = |small: &CubeTensor| small.meta.shape()[1] as u32 / 4;
        let (kind, tensors) = match self {
            Self::Bias(bias) => (EpilogueKind::Bias, vec![bias]),
            Self::Residual(bias, value) => (EpilogueKind::Residual, vec![bias, value]),
            Self::Gated(bias, value, gate) => (EpilogueKind::Gated, vec![bias, value, gate]),
            Self::Branch(small, columns) => {
                (EpilogueKind::Branch { rank_quads: quads(&small) }, vec![small, columns])
            }
            Self::BranchResidual(small, columns, value) => {
                let kind = EpilogueKind::BranchResidual { rank_quads: quads(&small) };
                (kind, vec![small, columns, value])
            }
        };
        (kind, tensors.into_iter().map(contiguous_f32).collect())
    }
}

impl EpilogueTensors<Flex> {
    /// The values of the bias.
    pub(crate) fn bias(&self) -> Vec<f32> {
        match self {
            Self::Bias(bias) | Self::Residual(bias, _) | Self::Gated(bias, ..) => flex_f32(bias),
            Self::Branch(small, columns) | Self::BranchResidual(small, columns, _) => {
                column(&flex_f32(columns), small.shape()[1], 0)
            }
        }
    }

    /// What follows the bias: `y` `[tokens, n]` with it becomes the result.
    pub(crate) fn finish(&self, mut y: Vec<f32>, n: usize) -> Vec<f32> {
        let (residual, gate) = match self {
            Self::Bias(_) => return y,
            Self::Residual(_, residual) => (residual, vec![1.0; n]),
            Self::Gated(_, residual, gate) => (residual, flex_f32(gate)),
            Self::Branch(small, columns) => {
                add_branch(&mut y, n, &flex_f32(small), &flex_f32(columns));
                return y;
            }
            Self::BranchResidual(small, columns, residual) => {
                let values = flex_f32(columns);
                add_branch(&mut y, n, &flex_f32(small), &values);
                (residual, column(&values, small.shape()[1], 1))
            }
        };
        for (y, residual) in y.chunks_exact_mut(n).zip(flex_f32(residual).chunks_exact(n)) {
            for ((y, residual), gate) in y.iter_mut().zip(residual).zip(&gate) {
                *y = residual + gate * *y;
            }
        }
        y
    }
}

/// Column `index` of a branch's columns.
fn column(columns: &[f32], rank: usize, index: usize) -> Vec<f32> {
    columns.chunks_exact(4 + rank).map(|row| row[index]).collect()
}

/// Adds `small · upᵀ` to `y` `[tokens, n]`.
fn add_branch(y: &mut [f32], n: usize, small: &[f32], columns: &[f32]) {
    let width = columns.len() / n;
    let rank = width - 4;
    // Rank by rank over neighbouring columns: sums that vectors hold.
    let mut up = vec![0.0; rank * n];
    for (column, row) in columns.chunks_exact(width).enumerate() {
        for (r, value) in row[4..].iter().enumerate() {
            up[r * n + column] = *value;
        }
    }
    y.par_chunks_exact_mut(n).zip(small.par_chunks_exact(rank)).for_each(|(y, small)| {
        for (small, up) in small.iter().zip(up.chunks_exact(n)) {
            y.iter_mut().zip(up).for_each(|(y, up)| *y += small * up);
        }
    });
}
