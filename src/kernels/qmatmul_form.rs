//! Forms of the packed product: all give the same integers, each suits some adapters.

use super::adapter_facts::AdapterFacts;
use super::launch::{dispatch, u32_from};
use super::qmatmul::{Params, QMatmul};
use super::qmatmul_matrix::QMatmulMatrix;
use super::qmatmul_registers::QMatmulRegisters;
use super::qmatmul_split_k::QMatmulSplitK;
use super::{Const, Dot, EpilogueKind, Kernel, Tier, run_raw};
use crate::quant::Bits;
use burn_cubecl::cubecl::client::Client;
use burn_cubecl::cubecl::server::Handle;
use burn_cubecl::tensor::CubeTensor;
use std::fmt;

/// What a packed product computes: the part of the compile key that all forms share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// Width of the weight's codes.
    pub w_bits: Bits,
    /// Width of the tokens' codes.
    pub x_bits: Bits,
    /// Whether a row of the weight has several grids.
    pub grouped: bool,
    /// What follows the product.
    pub epilogue: EpilogueKind,
    /// Store the integer accumulator instead of the result, to compare forms and devices.
    pub raw: bool,
}

impl Product {
    /// A product with one grid per row, a bias and nothing else.
    pub const fn plain(x_bits: Bits, w_bits: Bits) -> Self {
        Self { w_bits, x_bits, grouped: false, epilogue: EpilogueKind::Bias, raw: false }
    }

    pub(crate) fn constants(self) -> Vec<Const> {
        let mut constants = vec![
            Const::U32("W_BITS", self.w_bits.get()),
            Const::U32("X_BITS", self.x_bits.get()),
            Const::Bool("RAW", self.raw),
        ];
        constants.extend(self.epilogue.constants());
        constants
    }

    /// The specializations of a form that has every kind of product.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for w_bits in Bits::ALL {
            for x_bits in Bits::OF_TOKENS {
                let plain = Self::plain(x_bits, w_bits);
                all.extend([plain, Self { grouped: true, ..plain }, Self { raw: true, ..plain }]);
                if w_bits == x_bits {
                    let tails = EpilogueKind::WITH_MORE;
                    all.extend(tails.map(|epilogue| Self { epilogue, ..plain }));
                }
            }
        }
        all
    }
}

/// How a packed product is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Bytes in workgroup memory, `4·rows × 4·columns` results per invocation: `qmatmul.wgsl`.
    Tile {
        /// Four times as many tokens per invocation.
        rows: u32,
        /// Four times as many columns per invocation.
        columns: u32,
    },
    /// Registers only: `qmatmul_registers.wgsl`.
    Registers {
        /// Tokens are passed among the lanes of a subgroup, else every invocation loads them.
        broadcast: bool,
        /// Columns of an invocation.
        columns: u32,
    },
    /// Matrix units: `qmatmul_matrix.wgsl`.
    Matrix {
        /// Rows, columns and depth of a unit.
        size: u32,
        /// Invocations of a subgroup.
        subgroup: u32,
    },
    /// Several invocations per result, for few of them: `qmatmul_split_k.wgsl`.
    SplitK {
        /// Invocations that share a row's elements.
        parts: u32,
    },
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tile { rows, columns } => write!(f, "tile {}×{}", 64 * rows, 64 * columns),
            Self::Registers { broadcast, columns } => {
                let how = if *broadcast { "broadcast" } else { "loaded" };
                write!(f, "registers for {columns} columns, {how}")
            }
            Self::Matrix { size, subgroup } => write!(f, "matrix {size}, subgroups of {subgroup}"),
            Self::SplitK { parts } => write!(f, "split K by {parts}"),
        }
    }
}

impl Form {
    /// The forms that `facts` allow for `product`, whatever its size; the one to use without
    /// measuring, where there are many results, comes first.
    pub fn candidates(facts: &AdapterFacts, product: Product) -> Vec<Self> {
        // What has not been compared with others on the adapter itself should be what any driver
        // computes right: the smallest tile comes first.
        let mut forms: Vec<Self> = [(1, 1), (2, 1), (1, 2), (2, 2)]
            .map(|(rows, columns)| Self::Tile { rows, columns })
            .into();
        let (size, subgroup) = (facts.matrix_size, facts.fixed_subgroup());
        let fits = QMatmulMatrix::workgroup_bytes(size) <= facts.workgroup_memory_bytes;
        if facts.offers(Tier::Matrix) && fits {
            forms.push(Self::Matrix { size, subgroup });
        }
        let broadcast = facts.offers(Tier::Subgroups);
        let columns = QMatmulRegisters::columns_for(product);
        forms.push(Self::Registers { broadcast, columns });
        if facts.is_software {
            // Emulated matrix units and workgroup memory are slower than registers.
            forms.reverse();
        }
        forms.push(Self::SplitK { parts: Self::parts_on(facts) });
        forms
    }

    /// The form to use without measuring.
    pub fn preferred(facts: &AdapterFacts, product: Product, params: Params) -> Self {
        let suits = if facts.is_software {
            QMatmulSplitK::suits_software(params)
        } else {
            QMatmulSplitK::suits_gpu(params)
        };
        if suits {
            return Self::SplitK { parts: Self::parts_on(facts) };
        }
        Self::candidates(facts, product)[0]
    }

    fn parts_on(facts: &AdapterFacts) -> u32 {
        if facts.is_software { 1 } else { QMatmulSplitK::GPU_PARTS }
    }

    /// Workgroups of a product `[m, k] · [n, k]ᵀ`.
    pub fn grid(self, m: usize, n: usize) -> [u32; 3] {
        let (tokens, columns) = match self {
            Self::Tile { rows, columns } => (64 * rows as usize, 64 * columns as usize),
            Self::Registers { columns, .. } => QMatmulRegisters::tile(columns),
            Self::Matrix { size, .. } => (8 * size as usize, 8 * size as usize),
            Self::SplitK { parts } => QMatmulSplitK::tile(parts),
        };
        [u32_from(n.div_ceil(columns)), u32_from(m.div_ceil(tokens)), 1]
    }

    /// Computes `product`: `reads` and `y` in the order of the bindings.
    pub(crate) fn launch(
        self,
        product: Product,
        reads: &[&CubeTensor],
        y: &CubeTensor,
        params: Params,
    ) {
        let reads: Vec<Handle> = reads.iter().map(|tensor| tensor.handle.clone()).collect();
        self.dispatch(&y.client, product, &reads, &y.handle, params);
    }

    /// [`Form::launch`] on buffers.
    pub(crate) fn dispatch(
        self,
        client: &Client,
        product: Product,
        reads: &[Handle],
        y: &Handle,
        params: Params,
    ) {
        let grid = self.grid(params.m as usize, params.n as usize);
        let (reads, y) = (reads.iter().cloned(), std::iter::once(y.clone()));
        match self {
            Self::Tile { rows, columns } => {
                dispatch(client, QMatmul::tile(product, rows, columns), reads, y, params, grid);
            }
            Self::Registers { broadcast, columns } => {
                let kernel = QMatmulRegisters { product, broadcast, columns };
                dispatch(client, kernel, reads, y, params, grid);
            }
            Self::Matrix { size, subgroup } => {
                let kernel = QMatmulMatrix { product, size, subgroup };
                dispatch(client, kernel, reads, y, params, grid);
            }
            Self::SplitK { parts } => {
                let kernel = QMatmulSplitK { product, parts };
                dispatch(client, kernel, reads, y, params, grid);
            }
        }
    }

    /// [`run_raw`] of `product` in this form, for tests and the benchmark.
    #[doc(hidden)]
    pub fn run_raw(
        self,
        client: &Client,
        product: Product,
        inputs: &[&[u32]],
        params: Params,
    ) -> Vec<u32> {
        let (m, n) = (params.m as usize, params.n as usize);
        let (grid, lens) = (self.grid(m, n), [m * n]);
        let mut outputs = match self {
            Self::Tile { rows, columns } => {
                let kernel = QMatmul::tile(product, rows, columns);
                run_raw(client, kernel, inputs, &lens, params, grid)
            }
            Self::Registers { broadcast, columns } => {
                let kernel = QMatmulRegisters { product, broadcast, columns };
                run_raw(client, kernel, inputs, &lens, params, grid)
            }
            Self::Matrix { size, subgroup } => {
                let kernel = QMatmulMatrix { product, size, subgroup };
                run_raw(client, kernel, inputs, &lens, params, grid)
            }
            Self::SplitK { parts } => {
                let kernel = QMatmulSplitK { product, parts };
                run_raw(client, kernel, inputs, &lens, params, grid)
            }
        };
        outputs.remove(0)
    }
}

impl QMatmul {
    fn tile(product: Product, rows: u32, columns: u32) -> Self {
        Self { product, rows, columns, dot: Dot::preferred() }
    }
}

/// Hash of everything that the forms are made of, so that a measurement outlives no change.
pub(crate) fn sources_hash() -> String {
    let sources =
        [QMatmul::SOURCE, QMatmulRegisters::SOURCE, QMatmulMatrix::SOURCE, QMatmulSplitK::SOURCE];
    super::wgsl::hash(&sources)
}
