//! `shaders/qmatmul_float.wgsl` — float tokens times a packed weight (weight-only).

use super::launch::{
    contiguous_f32, contiguous_i32, empty_like, flex_f32, flex_from_f32, flex_to_f32, flex_u32,
    launch, u32_from,
};
use super::packed_tensor::rows_from_words;
use super::params::params;
use super::{Const, Element, Kernel, PackedTensor, Tier};
use crate::quant::{Bits, PackedRows};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::{CubeBackend, kernel::into_contiguous};
use rayon::prelude::*;

/// Side of the tile that a workgroup computes.
pub const TILE: usize = 64;

/// The kernel, specialized to the weight's width and the tokens' element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QMatmulFloat {
    /// Width of the weight's codes.
    pub w_bits: Bits,
    /// Storage type of `x`.
    pub element: Element,
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

impl Kernel for QMatmulFloat {
    const NAME: &'static str = "qmatmul_float";
    const SOURCE: &'static str = include_str!("../../shaders/qmatmul_float.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let pairs = Bits::ALL.into_iter();
        pairs.flat_map(|w_bits| Element::ALL.map(|element| Self { w_bits, element })).collect()
    }

    fn tier(&self) -> Tier {
        self.element.tier()
    }

    fn workgroup_size(&self) -> u32 {
        256
    }

    fn constants(&self) -> Vec<Const> {
        vec![Const::U32("W_BITS", self.w_bits.get()), Const::Alias("Elem", self.element.wgsl())]
    }
}

/// Plain-Rust twin of this shader and of `qmatvec`: `y = x · ŵᵀ + bias`, `[tokens, out_features]`.
pub fn reference(x: &[f32], w: &PackedRows, bias: &[f32]) -> Vec<f32> {
    let k = w.in_features;
    let values = w.values();
    let values = &values;
    x.par_chunks(k)
        .flat_map_iter(|token| {
            values.chunks(k).zip(bias).map(move |(channel, bias)| {
                token.iter().zip(channel).map(|(x, w)| x * w).sum::<f32>() + bias
            })
        })
        .collect()
}

#[backend_extension(Cube, Flex)]
trait QMatmulFloatOp: Backend {
    fn qmatmul_float(
        x: FloatTensor<Self>,
        w_codes: IntTensor<Self>,
        w_grid: IntTensor<Self>,
        bias: FloatTensor<Self>,
        w_bits: Bits,
        params: Params,
    ) -> FloatTensor<Self>;
}

impl QMatmulFloatOp for CubeBackend {
    fn qmatmul_float(
        x: FloatTensor<Self>,
        w_codes: IntTensor<Self>,
        w_grid: IntTensor<Self>,
        bias: FloatTensor<Self>,
        w_bits: Bits,
        params: Params,
    ) -> FloatTensor<Self> {
        let [w_codes, w_grid] = [w_codes, w_grid].map(contiguous_i32);
        let (x, bias) = (into_contiguous(x), contiguous_f32(bias));
        let kernel = QMatmulFloat { w_bits, element: Element::of(x.dtype) };
        let (m, n) = (params.m as usize, params.n as usize);
        let y = empty_like(&x, Shape::new([m, n]), DType::F32);
        let grid = [u32_from(n.div_ceil(TILE)), u32_from(m.div_ceil(TILE)), 1];
        launch(kernel, &[&x, &w_codes, &w_grid, &bias], &[&y], params, grid);
        y
    }
}

impl QMatmulFloatOp for Flex {
    fn qmatmul_float(
        x: FloatTensor<Self>,
        w_codes: IntTensor<Self>,
        w_grid: IntTensor<Self>,
        bias: FloatTensor<Self>,
        w_bits: Bits,
        params: Params,
    ) -> FloatTensor<Self> {
        let (x, [m, k]) = flex_to_f32(&x);
        let group_size = params.group_size as usize;
        let w = rows_from_words(w_bits, k, group_size, flex_u32(&w_codes), &flex_u32(&w_grid));
        flex_from_f32(reference(&x, &w, &flex_f32(&bias)), [m, params.n as usize])
    }
}

/// `y = x · ŵᵀ + bias` of float tokens `[tokens, in_features]` and a packed weight.
///
/// # Panics
///
/// If `x` has not `in_features` columns, or `bias` is not `[out_features]`.
pub fn qmatmul_float(x: Tensor<2>, w: &PackedTensor, bias: Tensor<1>) -> Tensor<2> {
    let [m, k] = x.dims();
    w.assert_consistent();
    assert_eq!(k, w.in_features, "qmatmul_float: columns of x and in_features");
    assert_eq!(bias.dims()[0], w.rows(), "qmatmul_float: length of bias and out_features");
    if m == 0 {
        return Tensor::empty([0, w.rows()], &x.device());
    }
    let params = Params {
        m: u32_from(m),
        n: u32_from(w.rows()),
        k: u32_from(k),
        group_size: u32_from(w.group_size),
    };
    Tensor::from_dispatch(Dispatch::qmatmul_float(
        x.into_dispatch(),
        w.codes.clone().into_dispatch(),
        w.grid.clone().into_dispatch(),
        bias.into_dispatch(),
        w.bits,
        params,
    ))
}
