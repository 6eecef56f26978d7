//! `shaders/qmatvec.wgsl` — a few float tokens times a packed weight (weight-only).

use super::adapter_facts::AdapterFacts;
use super::cpu::{self, Form};
use super::epilogue::EpilogueTensors;
use super::launch::{
    contiguous_i32, empty_like, flex_floats, flex_from_f32, flex_words, launch, linear_grid,
    u32_from,
};
use super::params::params;
use super::{Const, Element, Epilogue, EpilogueKind, Kernel, PackedTensor, Rows, Tier, rearrange};
use crate::quant::Bits;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;

/// Most tokens that one dispatch takes; more go through [`qmatmul_float`](super::qmatmul_float()).
pub const MAX_TOKENS: usize = 8;

/// Invocations of a workgroup.
const WORKGROUP_SIZE: u32 = 64;

/// The kernel, specialized to width, number of tokens and how they and the weight are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QMatvec {
    /// Width of the weight's codes.
    pub w_bits: Bits,
    /// Tokens it has room for: 1, 2, 4 or 8.
    pub tokens: u32,
    /// Whether rows of the weight have several grids.
    pub grouped: bool,
    /// Whether a workgroup shares two rows; else an invocation takes them alone.
    pub split: bool,
    /// Storage type of `x`.
    pub element: Element,
    /// How its rows are loaded.
    pub rows: Rows,
    /// What follows the product.
    pub epilogue: EpilogueKind,
}

params! {
    pub struct Params {
        /// Tokens.
        pub m: u32,
        /// Out features.
        pub n: u32,
        /// In features.
        pub k: u32,
        /// Elements of a weight's row that share one grid.
        pub group_size: u32,
    }
}

impl QMatvec {
    /// The kernel for f32 tokens of a multiple of four values, one grid per row and a bias.
    pub fn plain(w_bits: Bits, tokens: u32, split: bool) -> Self {
        let (element, rows, epilogue) = (Element::F32, Rows::Vectors, EpilogueKind::Bias);
        Self { w_bits, tokens, grouped: false, split, element, rows, epilogue }
    }

    /// Workgroups for `n` out features.
    pub fn grid(&self, n: usize) -> [u32; 3] {
        let rows = if self.split { 2 } else { 2 * WORKGROUP_SIZE as usize };
        linear_grid(n.div_ceil(rows))
    }
}

impl Kernel for QMatvec {
    const NAME: &'static str = "qmatvec";
    const SOURCE: &'static str = include_str!("../../shaders/qmatvec.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for w_bits in Bits::ALL {
            for (tokens, split) in [1, 2, 4, 8].into_iter().flat_map(|n| [(n, true), (n, false)]) {
                let plain = Self::plain(w_bits, tokens, split);
                all.extend([plain, Self { grouped: true, ..plain }]);
                all.push(Self { rows: Rows::Ragged, grouped: true, ..plain });
                all.push(Self { element: Element::F16, ..plain });
                all.extend(EpilogueKind::WITH_MORE.map(|epilogue| Self { epilogue, ..plain }));
            }
        }
        all
    }

    fn tier(&self) -> Tier {
        self.element.tier()
    }

    fn workgroup_size(&self) -> u32 {
        WORKGROUP_SIZE
    }

    fn constants(&self) -> Vec<Const> {
        let mut constants = vec![
            Const::U32("W_BITS", self.w_bits.get()),
            Const::U32("TOKENS", self.tokens),
            Const::Bool("GROUPED", self.grouped),
            Const::Bool("SPLIT", self.split),
            Const::Alias("Elem", self.element.wgsl_in(self.rows)),
            Const::Import("quads", self.rows.fragments()[0]),
        ];
        constants.extend(self.epilogue.constants());
        constants
    }
}

#[backend_extension(Cube, Flex)]
trait QMatvecOp: Backend {
    fn qmatvec(
        x: FloatTensor<Self>,
        w_codes: IntTensor<Self>,
        w_grid: IntTensor<Self>,
        #[extension_type] epilogue: EpilogueTensors<Self>,
        w_bits: Bits,
        params: Params,
    ) -> FloatTensor<Self>;
}

impl QMatvecOp for CubeBackend {
    fn qmatvec(
        x: FloatTensor<Self>,
        w_codes: IntTensor<Self>,
        w_grid: IntTensor<Self>,
        epilogue: EpilogueTensors<Self>,
        w_bits: Bits,
        params: Params,
    ) -> FloatTensor<Self> {
        let [w_codes, w_grid] = [w_codes, w_grid].map(contiguous_i32);
        let x = rearrange::contiguous(x);
        let (epilogue, buffers) = epilogue.into_buffers();
        let (m, n) = (params.m as usize, params.n as usize);
        let kernel = QMatvec {
            w_bits,
            tokens: params.m.next_power_of_two(),
            grouped: params.group_size < params.k,
            split: !AdapterFacts::of_cube(&x.device).is_software,
            element: Element::of(x.dtype),
            rows: Rows::of(params.k as usize),
            epilogue,
        };
        let y = empty_like(&x, Shape::new([m, n]), DType::F32);
        let reads: Vec<_> = [&x, &w_codes, &w_grid].into_iter().chain(&buffers).collect();
        launch(kernel, &reads, &[&y], params, kernel.grid(n));
        y
    }
}

impl QMatvecOp for Flex {
    fn qmatvec(
        x: FloatTensor<Self>,
        w_codes: IntTensor<Self>,
        w_grid: IntTensor<Self>,
        epilogue: EpilogueTensors<Self>,
        w_bits: Bits,
        params: Params,
    ) -> FloatTensor<Self> {
        let x = x.to_contiguous();
        let [w_codes, w_grid] = [w_codes, w_grid].map(|tensor| tensor.to_contiguous());
        let (m, n) = (params.m as usize, params.n as usize);
        let (k, group_size) = (params.k as usize, params.group_size as usize);
        let w = cpu::Rows::new(w_bits, k, group_size, flex_words(&w_codes), flex_words(&w_grid));
        let y = cpu::qmatmul_float(Form::best(), &flex_floats(&x), w, &epilogue.bias());
        flex_from_f32(epilogue.finish(y, n), [m, n])
    }
}

/// `y = residual + gate · (x · ŵᵀ + bias)` of at most [`MAX_TOKENS`] float tokens and a packed
/// weight; a bias alone is an epilogue, too.
///
/// # Panics
///
/// If there are more tokens, or the shapes do not fit.
pub fn qmatvec(x: Tensor<2>, w: &PackedTensor, epilogue: impl Into<Epilogue>) -> Tensor<2> {
    let [m, k] = x.dims();
    assert!(m <= MAX_TOKENS, "qmatvec: {m} tokens, at most {MAX_TOKENS}");
    w.assert_consistent();
    assert_eq!(k, w.in_features, "qmatvec: columns of x and in_features");
    let epilogue: Epilogue = epilogue.into();
    epilogue.assert_fits("qmatvec", [m, w.rows()]);
    if m == 0 {
        return Tensor::empty([0, w.rows()], &x.device());
    }
    let params = Params {
        m: u32_from(m),
        n: u32_from(w.rows()),
        k: u32_from(k),
        group_size: u32_from(w.group_size),
    };
    Tensor::from_dispatch(Dispatch::qmatvec(
        x.into_dispatch(),
        w.codes.clone().into_dispatch(),
        w.grid.clone().into_dispatch(),
        epilogue.into(),
        w.bits,
        params,
    ))
}
