//! `shaders/qmatmul_registers.wgsl` — the packed product without workgroup memory.

use super::qmatmul::Params;
use super::qmatmul_form::Product;
use super::{Const, Kernel, Tier};

/// Tokens of an invocation.
const TOKENS: u32 = 8;
/// Invocations of a workgroup.
const WORKGROUP_SIZE: u32 = 64;

/// The kernel, specialized to a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QMatmulRegisters {
    /// What is computed.
    pub product: Product,
    /// Tokens are passed among the lanes of a subgroup, else every invocation loads them.
    pub broadcast: bool,
    /// Columns of an invocation: 2 or 4.
    pub columns: u32,
}

impl QMatmulRegisters {
    /// Tokens and columns of a workgroup.
    pub(crate) fn tile(columns: u32) -> (usize, usize) {
        (TOKENS as usize, (columns * WORKGROUP_SIZE) as usize)
    }

    /// Columns whose sums processors hold in 16 vector registers: codes of more than 8 bits together
    /// take a register per sum and 8 lanes, others half of one.
    pub(crate) fn columns_for(product: Product) -> u32 {
        let is_paired = product.x_bits.get() + product.w_bits.get() <= 8;
        if is_paired { 4 } else { 2 }
    }
}

impl Kernel for QMatmulRegisters {
    const NAME: &'static str = "qmatmul_registers";
    const SOURCE: &'static str = include_str!("../../shaders/qmatmul_registers.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let both = |product| {
            let of = |(broadcast, columns)| Self { product, broadcast, columns };
            [(true, 4), (false, 4), (true, 2), (false, 2)].map(of)
        };
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
            Const::U32("COLUMNS", self.columns),
            Const::Import("tokens", tokens),
        ]);
        constants
    }
}
