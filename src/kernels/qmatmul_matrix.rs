//! `shaders/qmatmul_matrix.wgsl` — the packed product on matrix units.

use super::qmatmul::Params;
use super::qmatmul_form::Product;
use super::{Const, Kernel, Tier};

/// The kernel, specialized to a product and the adapter's units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QMatmulMatrix {
    /// What is computed; rows of the weight have one grid.
    pub product: Product,
    /// Rows, columns and depth of a unit: 8 or 16.
    pub size: u32,
    /// Invocations of a subgroup.
    pub subgroup: u32,
}

impl QMatmulMatrix {
    /// Workgroup memory with units of `size`: two tiles of 40 halves per row, and eight results.
    pub fn workgroup_bytes(size: u32) -> u32 {
        2 * 2 * (8 * size) * 40 + 4 * 8 * size * size
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
        Product::all().into_iter().filter(|product| !product.grouped).flat_map(units).collect()
    }

    fn tier(&self) -> Tier {
        Tier::Matrix
    }

    fn workgroup_size(&self) -> u32 {
        8 * self.subgroup
    }

    fn constants(&self) -> Vec<Const> {
        let types = match self.size {
            8 => ["coop_mat8x8<f16, A>", "coop_mat8x8<f16, B>", "coop_mat8x8<f32, C>"],
            _ => ["coop_mat16x16<f16, A>", "coop_mat16x16<f16, B>", "coop_mat16x16<f32, C>"],
        };
        let mut constants = self.product.constants();
        constants.extend([
            Const::U32("SIZE", self.size),
            Const::U32("SUBGROUP", self.subgroup),
            Const::Alias("MatrixA", types[0]),
            Const::Alias("MatrixB", types[1]),
            Const::Alias("MatrixC", types[2]),
        ]);
        constants
    }
}
