//! `shaders/qmatmul_matrix.wgsl` — the packed product on matrix units.

use super::element::matrix_constants;
use super::qmatmul::Params;
use super::qmatmul_form::Product;
use super::{Const, Kernel, Tier};

/// The kernel, specialized to a product and the adapter's units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QMatmulMatrix {
    /// What is computed.
    pub product: Product,
    /// Rows, columns and depth of a unit: 8 or 16.
    pub size: u32,
    /// Invocations of a subgroup.
    pub subgroup: u32,
}

impl QMatmulMatrix {
    /// Workgroup memory with units of `size`: two tiles of 40 halves per row, eight results and four
    /// sums per token.
    pub fn workgroup_bytes(size: u32) -> u32 {
        2 * 2 * (8 * size) * 40 + 4 * 8 * size * size + 4 * 4 * (8 * size)
    }
}

impl Kernel for QMatmulMatrix {
    const NAME: &'static str = "qmatmul_matrix";
    const SOURCE: &'static str = include_str!("../../shaders/qmatmul_matrix.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let units = |product| {
            [(8, 8), (8, 32), (16, 32)].map(|(size, subgroup)| Self { product, size, subgroup })
        };
        Product::all().into_iter().flat_map(units).collect()
    }

    fn tier(&self) -> Tier {
        Tier::Matrix
    }

    fn workgroup_size(&self) -> u32 {
        8 * self.subgroup
    }

    fn constants(&self) -> Vec<Const> {
        let grouped = Const::Bool("GROUPED", self.product.grouped);
        let own = vec![grouped, Const::U32("SUBGROUP", self.subgroup)];
        [self.product.constants(), own, matrix_constants(self.size)].concat()
    }
}
