//! `shaders/qmatmul_registers.wgsl` — the packed product without workgroup memory.

use super::qmatmul::Params;
use super::qmatmul_form::Product;
use super::{Const, Kernel, Tier};

/// Tokens of an invocation.
const TOKENS: u32 = 8;
/// Columns of an invocation.
const COLUMNS: u32 = 4;
/// Invocations of a workgroup.
const WORKGROUP_SIZE: u32 = 64;

/// The kernel, specialized to a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QMatmulRegisters {
    /// What is computed.
    pub product: Product,
    /// Tokens are passed among the lanes of a subgroup, else every invocation loads them.
    pub broadcast: bool,
}

impl QMatmulRegisters {
    /// Tokens and columns of a workgroup.
    pub(crate) const TILE: (usize, usize) = (TOKENS as usize, (COLUMNS * WORKGROUP_SIZE) as usize);
}

impl Kernel for QMatmulRegisters {
    const NAME: &'static str = "qmatmul_registers";
    const SOURCE: &'static str = include_str!("../../shaders/qmatmul_registers.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let both = |product| [true, false].map(|broadcast| Self { product, broadcast });
        Product::all().into_iter().flat_map(both).collect()
    }

    fn tier(&self) -> Tier {
        if self.broadcast { Tier::Subgroups } else { Tier::Core }
    }

    fn workgroup_size(&self) -> u32 {
        WORKGROUP_SIZE
    }

    fn constants(&self) -> Vec<Const> {
        let tokens = if self.broadcast { "tokens_broadcast" } else { "tokens_loaded" };
        let mut constants = self.product.constants();
        constants.extend([
            Const::Bool("GROUPED", self.product.grouped),
            Const::U32("TOKENS", TOKENS),
            Const::U32("COLUMNS", COLUMNS),
            Const::Import("tokens", tokens),
        ]);
        constants
    }
}
