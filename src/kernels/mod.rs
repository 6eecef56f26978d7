//! How the GPU does it: one file per shader, `shaders/<name>.wgsl` is bound by `kernels/<name>.rs`.
//!
//! Each file holds the specialization (a value whose fields are the compile key), the `Params`
//! mirror, the plain-Rust twin `reference`, and the tensor operation: a backend extension that
//! runs the shader on a wgpu device and the twin on the CPU device. Operations live beside their
//! kernel, not in one central trait, so that adding a kernel touches one file here.

use std::{fmt::Debug, hash::Hash};

pub mod activate;
pub mod adamw;
mod adapter_facts;
pub mod attention;
pub mod attention_backward;
pub mod attention_int8;
pub mod attention_matrix;
pub mod attention_patches;
pub mod attention_rows;
pub mod ceiling_arithmetic;
pub mod ceiling_copy;
pub mod channel_norm;
pub mod channel_statistics;
pub mod conv3d;
pub mod conv3d_backward_input;
pub mod conv3d_backward_weight;
pub mod conv3d_matrix;
pub mod conv3d_tile;
pub mod cpu;
pub mod dequantize_weight;
pub mod device;
mod dump;
mod element;
mod epilogue;
pub mod fake_quant_linear;
mod fake_quantize;
pub mod fake_quantize_tokens;
pub mod fake_quantize_tokens_backward;
pub mod fake_quantize_weight;
pub mod fake_quantize_weight_backward;
pub mod float_product;
pub mod group_moments;
pub mod group_norm;
pub mod hadamard;
pub mod head_norm_rope;
mod launch;
pub mod layer_norm;
pub mod layer_norm_quantize;
pub mod log_quantize;
pub mod matmul;
pub mod matmul_nt;
mod memory_watch;
pub mod norm_rope;
pub mod orthonormalize;
mod packed_tensor;
mod params;
mod profile;
pub mod qmatmul;
pub mod qmatmul_float;
pub mod qmatmul_form;
pub mod qmatmul_matrix;
pub mod qmatmul_registers;
pub mod qmatmul_split_k;
pub mod qmatvec;
pub mod quantize_heads;
pub mod quantize_tokens;
pub mod quantize_weight;
pub mod rearrange;
pub mod relative_attention;
pub mod rope;
mod row_transform;
pub mod self_test;
mod tuning;
mod vectorized;
mod wgsl;

pub use activate::{Activation, activate};
pub use adamw::{AdamWStep, adamw};
pub use adapter_facts::AdapterFacts;
pub use channel_statistics::{STATISTICS, channel_statistics, no_statistics};
pub use dequantize_weight::dequantize_weight;
pub use element::{Dot, Element, Rows};
pub use epilogue::{Branch, Epilogue, EpilogueKind, Residual};
pub use fake_quant_linear::fake_quant_linear;
pub use fake_quantize_tokens::{FakeQuantTokens, clip_factors, fake_quantize_tokens};
pub use fake_quantize_tokens_backward::{TokenGradients, fake_quantize_tokens_backward};
pub use fake_quantize_weight::fake_quantize_weight;
pub use fake_quantize_weight_backward::{WeightGradients, fake_quantize_weight_backward};
pub use float_product::FloatForm;
pub use hadamard::hadamard;
pub use layer_norm::layer_norm;
pub use layer_norm_quantize::layer_norm_quantize;
pub use log_quantize::{LogTable, log_quantize};
pub use matmul::matmul;
pub use matmul_nt::matmul_nt;
pub use memory_watch::MemoryWatch;
pub use orthonormalize::orthonormalize;
pub use packed_tensor::{GRID_WORDS, PackedTensor};
pub use qmatmul::qmatmul;
pub use qmatmul_float::qmatmul_float;
pub use qmatvec::qmatvec;
pub use quantize_tokens::{activate_quantize, quantize_tokens, transform_quantize};
pub use quantize_weight::quantize_weight;
pub use rearrange::{concatenate, in_a_row};
pub use relative_attention::relative_attention;
pub use row_transform::{RowTransform, TokenTransform};

pub(crate) use launch::MAX_DISPATCH_OPS;
pub use launch::{GRID_WIDTH, client_of, linear_grid, run_raw};
pub use params::ParamsMirror;
pub use profile::{KernelTime, profile_kernels};
pub use wgsl::Const;

/// A WGSL compute kernel and its host-side contract.
///
/// The value of the implementing struct is the compile key: it determines the text, so two equal
/// values may share a pipeline. Shapes are not part of it, they are [`Kernel::Params`].
pub trait Kernel: Copy + Debug + Eq + Hash + Send + Sync + 'static {
    /// Stem of the file in `shaders/`, and the label in profiles and errors.
    const NAME: &'static str;
    /// Text of that file.
    const SOURCE: &'static str;
    /// Contents of the last binding, `params`: a uniform of 4-byte scalars.
    type Params: ParamsMirror;

    /// Every specialization that may be asked for, for the shader tests and the benchmark.
    fn all() -> Vec<Self>;

    /// What an adapter must offer to run it.
    fn tier(&self) -> Tier {
        Tier::Core
    }

    /// Invocations per workgroup, at most 256.
    fn workgroup_size(&self) -> u32;

    /// What varies between specializations.
    fn constants(&self) -> Vec<Const>;

    /// The complete text handed to the GPU.
    fn wgsl(&self) -> String {
        let mut constants = self.constants();
        constants.push(Const::U32("WORKGROUP_SIZE", self.workgroup_size()));
        constants.push(Const::U32("GRID_WIDTH", GRID_WIDTH));
        wgsl::assemble(Self::NAME, Self::SOURCE, &constants)
    }
}

/// What a specialization asks of an adapter beyond WebGPU's guaranteed minimum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// Nothing: runs everywhere, GL and SwiftShader included.
    Core,
    /// 16-bit floats in storage and arithmetic.
    Half,
    /// Subgroup operations.
    Subgroups,
    /// Cooperative matrices of 16-bit floats with 32-bit sums.
    Matrix,
}

/// Does something with every kernel; see [`for_each_kernel`].
pub trait KernelVisitor {
    /// Called once per kernel type.
    fn visit<K: Kernel>(&mut self);
}

/// The list of kernels.
pub fn for_each_kernel(visitor: &mut impl KernelVisitor) {
    visitor.visit::<activate::Activate>();
    visitor.visit::<adamw::AdamW>();
    visitor.visit::<attention::Attention>();
    visitor.visit::<attention_backward::AttentionBackward>();
    visitor.visit::<attention_int8::AttentionInt8>();
    visitor.visit::<attention_matrix::AttentionMatrix>();
    visitor.visit::<attention_patches::AttentionPatches>();
    visitor.visit::<attention_rows::AttentionRows>();
    visitor.visit::<ceiling_arithmetic::CeilingArithmetic>();
    visitor.visit::<ceiling_copy::CeilingCopy>();
    visitor.visit::<channel_norm::ChannelNorm>();
    visitor.visit::<channel_statistics::ChannelStatistics>();
    visitor.visit::<conv3d::Conv3dRows>();
    visitor.visit::<conv3d_backward_input::Conv3dBackwardInput>();
    visitor.visit::<conv3d_backward_weight::Conv3dBackwardWeight>();
    visitor.visit::<conv3d_matrix::Conv3dMatrix>();
    visitor.visit::<conv3d_tile::Conv3dTile>();
    visitor.visit::<dequantize_weight::DequantizeWeight>();
    visitor.visit::<group_moments::GroupMoments>();
    visitor.visit::<group_norm::GroupNorm>();
    visitor.visit::<hadamard::Hadamard>();
    visitor.visit::<head_norm_rope::HeadNormRope>();
    visitor.visit::<layer_norm::LayerNorm>();
    visitor.visit::<layer_norm_quantize::LayerNormQuantize>();
    visitor.visit::<log_quantize::LogQuantize>();
    visitor.visit::<matmul::Matmul>();
    visitor.visit::<norm_rope::NormRope>();
    visitor.visit::<orthonormalize::Orthonormalize>();
    visitor.visit::<fake_quantize_tokens::FakeQuantizeTokens>();
    visitor.visit::<fake_quantize_tokens_backward::FakeQuantizeTokensBackward>();
    visitor.visit::<fake_quantize_weight::FakeQuantizeWeight>();
    visitor.visit::<fake_quantize_weight_backward::FakeQuantizeWeightBackward>();
    visitor.visit::<qmatmul::QMatmul>();
    visitor.visit::<qmatmul_float::QMatmulFloat>();
    visitor.visit::<qmatmul_matrix::QMatmulMatrix>();
    visitor.visit::<qmatmul_registers::QMatmulRegisters>();
    visitor.visit::<qmatmul_split_k::QMatmulSplitK>();
    visitor.visit::<qmatvec::QMatvec>();
    visitor.visit::<quantize_heads::QuantizeHeads>();
    visitor.visit::<quantize_tokens::QuantizeTokens>();
    visitor.visit::<quantize_weight::QuantizeWeight>();
    visitor.visit::<rearrange::Rearrange>();
    visitor.visit::<relative_attention::RelativeAttention>();
    visitor.visit::<rope::Rope>();
    visitor.visit::<self_test::SelfTest>();
}
