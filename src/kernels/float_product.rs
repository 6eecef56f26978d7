//! Forms of the product of float tokens: what [`matmul`](super::matmul()) and
//! [`qmatmul_float`](super::qmatmul_float()) share.
//!
//! Which form runs follows from the adapter and the shape, without measuring: the difference among
//! those of one kind of adapter is small, and a form that is not tried needs not be compiled.

use super::adapter_facts::AdapterFacts;
use super::launch::u32_from;
use super::{Const, Element, Tier};
use burn_cubecl::CubeDevice;

/// Tokens of an invocation of the register form.
const TOKENS: u32 = 16;
/// Columns of an invocation of the register form.
const COLUMNS: u32 = 4;
/// Invocations of a workgroup of the register form.
const REGISTER_INVOCATIONS: u32 = 16;
/// Side of the large tile: eight by eight results per invocation.
const LARGE_SIDE: u32 = 128;
/// Side of the small tile: four by four results per invocation.
const SMALL_SIDE: u32 = 64;
/// Large tiles from which on a GPU has enough of them.
const ENOUGH_TILES: usize = 64;

/// Most workgroups along one axis of a dispatch: what WebGPU guarantees.
const MAX_TILES: u32 = 65_535;

/// How a product of float tokens is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FloatForm {
    /// Registers only, for adapters that are CPUs.
    Registers {
        /// Tokens are passed among the lanes of a subgroup, else every invocation loads them.
        broadcast: bool,
    },
    /// Tiles in workgroup memory, for GPUs.
    Tiles {
        /// 128 × 128 results per workgroup, else 64 × 64.
        large: bool,
    },
}

impl FloatForm {
    /// Every form.
    pub const ALL: [Self; 4] = [
        Self::Registers { broadcast: true },
        Self::Registers { broadcast: false },
        Self::Tiles { large: true },
        Self::Tiles { large: false },
    ];

    /// The form for a product `[m, k] · [n, k]ᵀ` of such tokens on an adapter.
    pub fn preferred(facts: &AdapterFacts, element: Element, m: usize, n: usize) -> Self {
        if facts.is_software {
            let broadcast = element == Element::F32 && facts.offers(Tier::Subgroups);
            return Self::Registers { broadcast };
        }
        let side = LARGE_SIDE as usize;
        Self::Tiles { large: m.div_ceil(side) * n.div_ceil(side) >= ENOUGH_TILES }
    }

    pub(super) fn preferred_on(device: &CubeDevice, element: Element, m: u32, n: u32) -> Self {
        Self::preferred(&AdapterFacts::of_cube(device), element, m as usize, n as usize)
    }

    /// Workgroups of a product `[m, k] · [n, k]ᵀ`.
    pub fn grid(self, m: usize, n: usize) -> [u32; 3] {
        let [tokens, columns] = self.tile();
        [u32_from(n.div_ceil(columns)), u32_from(m.div_ceil(tokens)), 1]
    }

    /// The first tile of tokens and the workgroups of each of the dispatches in which
    /// `[m, k] · [n, k]ᵀ` is computed: of at most `max_ops` operations, but one tile of tokens.
    pub fn dispatches(self, [m, n, k]: [usize; 3], max_ops: u64) -> Vec<(u32, [u32; 3])> {
        let [columns, tiles, _] = self.grid(m, n);
        let tile_ops = 2 * n as u64 * k as u64 * self.tile()[0] as u64;
        let at_once = (max_ops / tile_ops.max(1)).clamp(1, u64::from(MAX_TILES)) as u32;
        let some = |first: u32| (first, [columns, at_once.min(tiles - first), 1]);
        (0..tiles).step_by(at_once as usize).map(some).collect()
    }

    /// Tokens and columns of a workgroup.
    fn tile(self) -> [usize; 2] {
        match self {
            Self::Registers { .. } => [TOKENS, COLUMNS * REGISTER_INVOCATIONS],
            Self::Tiles { large: true } => [LARGE_SIDE, LARGE_SIDE],
            Self::Tiles { large: false } => [SMALL_SIDE, SMALL_SIDE],
        }
        .map(|size| size as usize)
    }

    pub(super) fn tier(self) -> Tier {
        match self {
            Self::Registers { broadcast: true } => Tier::Subgroups,
            Self::Registers { broadcast: false } | Self::Tiles { .. } => Tier::Core,
        }
    }

    pub(super) fn workgroup_size(self) -> u32 {
        match self {
            Self::Registers { .. } => REGISTER_INVOCATIONS,
            Self::Tiles { .. } => 256,
        }
    }

    pub(super) fn constants(self) -> Vec<Const> {
        match self {
            Self::Registers { broadcast } => {
                let tokens =
                    if broadcast { "float_tokens_broadcast" } else { "float_tokens_loaded" };
                vec![
                    Const::U32("TOKENS", TOKENS),
                    Const::U32("COLUMNS", COLUMNS),
                    Const::Import("float_tokens", tokens),
                    Const::Import("float_product", "float_product_registers"),
                ]
            }
            Self::Tiles { large } => vec![
                Const::U32("SIDE", if large { LARGE_SIDE } else { SMALL_SIDE }),
                Const::Import("float_product", "float_product_tiles"),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_take_large_tiles_once_there_are_enough_of_them() {
        let gpu = AdapterFacts::default();
        let form = |m, n| FloatForm::preferred(&gpu, Element::F32, m, n);
        assert_eq!(form(1, 9216), FloatForm::Tiles { large: true });
        assert_eq!(form(256, 1536), FloatForm::Tiles { large: false });
        assert_eq!(form(1024, 1025), FloatForm::Tiles { large: true });
    }

    #[test]
    fn dispatches_cover_all_tiles_within_the_budget() {
        let form = FloatForm::Tiles { large: false };
        assert_eq!(form.dispatches([65, 1, 1], u64::MAX), [(0, [1, 2, 1])]);
        let tile_ops = 2 * 130 * 10 * 64;
        assert_eq!(
            form.dispatches([64 * 5, 130, 10], 2 * tile_ops + 1),
            [(0, [3, 2, 1]), (2, [3, 2, 1]), (4, [3, 1, 1])]
        );
        assert_eq!(form.dispatches([70, 130, 10], 1).len(), 2, "at least one tile each");
        let [.., (first, [_, tiles, _])] = form.dispatches([1 << 23, 1, 1], u64::MAX)[..] else {
            panic!("no dispatch");
        };
        assert_eq!(first + tiles, 1 << 17);
    }

    #[test]
    fn software_adapters_keep_to_registers() {
        let facts = AdapterFacts { is_software: true, ..AdapterFacts::default() };
        let with_subgroups = AdapterFacts { subgroup_sizes: [8, 8], ..facts.clone() };
        for (facts, element, broadcast) in [
            (&facts, Element::F32, false),
            (&with_subgroups, Element::F32, true),
            (&with_subgroups, Element::F16, false),
        ] {
            let form = FloatForm::preferred(facts, element, 1, 1);
            assert_eq!(form, FloatForm::Registers { broadcast }, "{element:?}");
        }
    }
}
