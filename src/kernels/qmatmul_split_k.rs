//! `shaders/qmatmul_split_k.wgsl` — the packed product where results are few.
//!
//! A GPU that computes a tile per workgroup has most of its processors idle when there are a few
//! tokens; split, a row of 1536 elements keeps eight invocations busy. A software adapter has no
//! such need and splits nothing, but compiles this form in a fraction of the time that the fastest
//! one takes.

use super::qmatmul::Params;
use super::qmatmul_form::Product;
use super::{Const, Dot, Kernel};

/// Invocations of a workgroup.
const WORKGROUP_SIZE: u32 = 64;
/// Tokens of an invocation.
const TOKENS: u32 = 4;
/// Most tokens for which a GPU takes this form by itself: beyond them a tile has work for every
/// invocation, and reads a weight fewer times.
const MAX_TOKENS: u32 = 16;
/// Most products of codes for which a software adapter takes this form by itself: hundreds of such
/// calls lose less than compiling the faster form takes.
const MAX_OPS: u64 = 1 << 21;

/// The kernel, specialized to a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QMatmulSplitK {
    /// What is computed.
    pub product: Product,
    /// Invocations that share a row's elements: 1, or a power of two from 4 on.
    pub parts: u32,
}

impl QMatmulSplitK {
    /// Parts that keep a GPU busy: a row of them reads 32 bytes or more at once at every width.
    pub(crate) const GPU_PARTS: u32 = 8;

    /// Tokens and columns of a workgroup.
    pub(crate) fn tile(parts: u32) -> (usize, usize) {
        (TOKENS as usize, (WORKGROUP_SIZE / parts) as usize)
    }

    /// Whether results are so few that a GPU is busy with no other form.
    pub(crate) fn suits_gpu(params: Params) -> bool {
        params.m <= MAX_TOKENS
    }

    /// Whether a product is so small that a software adapter takes longer to compile another form.
    pub(crate) fn suits_software(params: Params) -> bool {
        let factors = [params.m, params.n, params.k];
        let ops = factors.into_iter().fold(1_u64, |ops, n| ops.saturating_mul(u64::from(n)));
        ops <= MAX_OPS
    }
}

impl Kernel for QMatmulSplitK {
    const NAME: &'static str = "qmatmul_split_k";
    const SOURCE: &'static str = include_str!("../../shaders/qmatmul_split_k.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let each = |product| [1, Self::GPU_PARTS].map(|parts| Self { product, parts });
        Product::all().into_iter().flat_map(each).collect()
    }

    fn workgroup_size(&self) -> u32 {
        WORKGROUP_SIZE
    }

    fn constants(&self) -> Vec<Const> {
        let mut constants = self.product.constants();
        constants.extend([
            Const::Bool("GROUPED", self.product.grouped),
            Const::U32("PARTS", self.parts),
            Const::Import("dot", Dot::preferred().fragment()),
        ]);
        constants
    }
}
