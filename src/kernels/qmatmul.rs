//! `shaders/qmatmul.wgsl` — packed tokens times a packed weight, in integers.

use super::launch::{
    contiguous_f32, contiguous_i32, empty_like, flex_f32, flex_from_f32, flex_u32, launch, u32_from,
};
use super::packed_tensor::rows_from_words;
use super::params::params;
use super::{Const, Dot, Kernel, PackedTensor};
use crate::quant::{Bits, Grid, PackedRows, unpack_rows};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use rayon::prelude::*;

/// Side of the tile that a workgroup computes.
pub const TILE: usize = 64;

/// The kernel, specialized to a pair of widths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QMatmul {
    /// Width of the weight's codes.
    pub w_bits: Bits,
    /// Width of the tokens' codes.
    pub x_bits: Bits,
    /// Whether a row of the weight has several grids.
    pub grouped: bool,
    /// How four products of bytes are summed.
    pub dot: Dot,
    /// Store the integer accumulator instead of the result, to compare forms and devices.
    pub raw: bool,
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

impl Kernel for QMatmul {
    const NAME: &'static str = "qmatmul";
    const SOURCE: &'static str = include_str!("../../shaders/qmatmul.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for w_bits in Bits::ALL {
            for x_bits in [Bits::B3, Bits::B4, Bits::B8] {
                let plain = Self { w_bits, x_bits, grouped: false, dot: Dot::Packed, raw: false };
                all.extend([plain, Self { grouped: true, ..plain }]);
                all.extend(Dot::ALL.map(|dot| Self { dot, raw: true, ..plain }));
            }
        }
        all
    }

    fn workgroup_size(&self) -> u32 {
        256
    }

    fn constants(&self) -> Vec<Const> {
        vec![
            Const::U32("W_BITS", self.w_bits.get()),
            Const::U32("X_BITS", self.x_bits.get()),
            Const::Bool("GROUPED", self.grouped),
            Const::Bool("RAW", self.raw),
            Const::Import("dot", self.dot.fragment()),
        ]
    }
}

impl QMatmul {
    /// Workgroups of a product `[m, k] · [n, k]ᵀ`.
    pub fn grid(m: usize, n: usize) -> [u32; 3] {
        [u32_from(n.div_ceil(TILE)), u32_from(m.div_ceil(TILE)), 1]
    }
}

/// Most in features whose products of codes fit the 32-bit accumulator.
pub const fn max_in_features(x_bits: Bits, w_bits: Bits) -> usize {
    (i32::MAX as u32 / (x_bits.max_code() * w_bits.max_code())) as usize
}

/// The integer accumulators `Σ q_x q_w` of rows with one grid each, `[tokens, out_features]`.
pub fn reference_accumulators(x: &PackedRows, w: &PackedRows) -> Vec<i32> {
    let k = x.in_features;
    let bytes = |rows: &PackedRows| -> Vec<u8> {
        let codes = unpack_rows(rows.bits, &rows.codes, k);
        codes.into_iter().map(|code| code as u8).collect()
    };
    let (x_codes, w_codes) = (bytes(x), bytes(w));
    let dot = |(&x, &w): (&u8, &u8)| i32::from(x) * i32::from(w);
    x_codes
        .par_chunks(k)
        .flat_map_iter(|token| {
            w_codes.chunks(k).map(move |channel| token.iter().zip(channel).map(dot).sum())
        })
        .collect()
}

/// Plain-Rust twin of the shader: `y = x · wᵀ + bias`, `[tokens, out_features]`.
pub fn reference(x: &PackedRows, w: &PackedRows, bias: &[f32]) -> Vec<f32> {
    let (k, n, groups) = (x.in_features, w.rows(), w.groups());
    let x_codes = unpack_rows(x.bits, &x.codes, k);
    let w_codes = unpack_rows(w.bits, &w.codes, k);
    let column = |token: &[u32], token_grid: Grid, channel: usize| -> f32 {
        let row = &w_codes[channel * k..(channel + 1) * k];
        let parts = token.chunks(w.group_size).zip(row.chunks(w.group_size)).enumerate();
        let total: f32 = parts
            .map(|(group, (token, w_row))| {
                let at = channel * groups + group;
                let token = Side { codes: token, bits: x.bits, grid: token_grid };
                let row = Side { codes: w_row, bits: w.bits, grid: w.grids[at] };
                corrected(token, row, w.code_sums[at])
            })
            .sum();
        token_grid.scale * total + bias[channel]
    };
    x_codes
        .par_chunks(k)
        .zip(&x.grids)
        .flat_map_iter(|(token, &grid)| (0..n).map(move |channel| column(token, grid, channel)))
        .collect()
}

/// The codes of one group of a row, with their grid.
struct Side<'a> {
    codes: &'a [u32],
    bits: Bits,
    grid: Grid,
}

impl Side<'_> {
    /// The zero point as the nearest code and the rest.
    fn split_zero_point(&self) -> (i32, f32) {
        let zero_point = self.grid.zero_point;
        let whole = zero_point.round_ties_even().clamp(0.0, self.bits.max_code() as f32);
        (whole as i32, zero_point - whole)
    }
}

/// `s_w Σ (q_x − z_x)(q_w − z_w)` of one group, zero points split as in the shader.
fn corrected(x: Side<'_>, w: Side<'_>, w_sum: i32) -> f32 {
    let ((x_whole, x_rest), (w_whole, w_rest)) = (x.split_zero_point(), w.split_zero_point());
    let pairs = x.codes.iter().zip(w.codes);
    let product: i32 = pairs.map(|(&x, &w)| (x as i32 - x_whole) * (w as i32 - w_whole)).sum();
    let x_centered: i32 = x.codes.iter().map(|&code| code as i32 - x_whole).sum();
    let count = x.codes.len();
    let w_centered = w_sum.wrapping_sub(count as i32 * w_whole) as f32 - count as f32 * w_rest;
    w.grid.scale * (product as f32 - w_rest * x_centered as f32 - x_rest * w_centered)
}

/// Shapes and widths of one call, the part of the operation that is no tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    kernel: QMatmul,
    params: Params,
}

#[backend_extension(Cube, Flex)]
trait QMatmulOp: Backend {
    fn qmatmul(
        x_codes: IntTensor<Self>,
        x_grid: IntTensor<Self>,
        w_codes: IntTensor<Self>,
        w_grid: IntTensor<Self>,
        bias: FloatTensor<Self>,
        call: Call,
    ) -> FloatTensor<Self>;
}

impl QMatmulOp for CubeBackend {
    fn qmatmul(
        x_codes: IntTensor<Self>,
        x_grid: IntTensor<Self>,
        w_codes: IntTensor<Self>,
        w_grid: IntTensor<Self>,
        bias: FloatTensor<Self>,
        call: Call,
    ) -> FloatTensor<Self> {
        let [x_codes, x_grid, w_codes, w_grid] =
            [x_codes, x_grid, w_codes, w_grid].map(contiguous_i32);
        let bias = contiguous_f32(bias);
        let (m, n) = (call.params.m as usize, call.params.n as usize);
        let y = empty_like(&bias, Shape::new([m, n]), DType::F32);
        let reads = [&x_codes, &x_grid, &w_codes, &w_grid, &bias];
        launch(call.kernel, &reads, &[&y], call.params, QMatmul::grid(m, n));
        y
    }
}

impl QMatmulOp for Flex {
    fn qmatmul(
        x_codes: IntTensor<Self>,
        x_grid: IntTensor<Self>,
        w_codes: IntTensor<Self>,
        w_grid: IntTensor<Self>,
        bias: FloatTensor<Self>,
        Call { kernel, params }: Call,
    ) -> FloatTensor<Self> {
        let (k, group_size) = (params.k as usize, params.group_size as usize);
        let x = rows_from_words(kernel.x_bits, k, k, flex_u32(&x_codes), &flex_u32(&x_grid));
        let w =
            rows_from_words(kernel.w_bits, k, group_size, flex_u32(&w_codes), &flex_u32(&w_grid));
        let y = reference(&x, &w, &flex_f32(&bias));
        flex_from_f32(y, [params.m as usize, params.n as usize])
    }
}

/// `y = x · wᵀ + bias` of packed tokens and a packed weight, `[tokens, out_features]`.
///
/// # Panics
///
/// If `x` and `w` differ in `in_features` or have more than [`max_in_features`], or `bias` is not
/// `[out_features]`.
pub fn qmatmul(x: &PackedTensor, w: &PackedTensor, bias: Tensor<1>) -> Tensor<2> {
    x.assert_consistent();
    w.assert_consistent();
    assert_eq!(x.in_features, w.in_features, "qmatmul: in_features of x and w");
    assert_eq!(x.groups(), 1, "qmatmul: tokens have one grid each");
    assert!(
        x.in_features <= max_in_features(x.bits, w.bits),
        "qmatmul: {} in_features overflow the accumulator, at most {}",
        x.in_features,
        max_in_features(x.bits, w.bits)
    );
    assert_eq!(bias.dims()[0], w.rows(), "qmatmul: length of bias and out_features");
    if x.rows() == 0 {
        return Tensor::empty([0, w.rows()], &bias.device());
    }
    let kernel = QMatmul {
        w_bits: w.bits,
        x_bits: x.bits,
        grouped: w.groups() > 1,
        dot: Dot::preferred(),
        raw: false,
    };
    let params = Params {
        m: u32_from(x.rows()),
        n: u32_from(w.rows()),
        k: u32_from(x.in_features),
        group_size: u32_from(w.group_size),
    };
    Tensor::from_dispatch(Dispatch::qmatmul(
        x.codes.clone().into_dispatch(),
        x.grid.clone().into_dispatch(),
        w.codes.clone().into_dispatch(),
        w.grid.clone().into_dispatch(),
        bias.into_dispatch(),
        Call { kernel, params },
    ))
}
