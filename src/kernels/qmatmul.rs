//! `shaders/qmatmul.wgsl` — packed tokens times a packed weight, in integers.

use super::cpu::{self, Rows};
use super::epilogue::EpilogueTensors;
use super::launch::{contiguous_i32, empty_like, flex_from_f32, flex_words, u32_from};
use super::params::params;
use super::qmatmul_form::{Form, Product};
use super::{Const, Dot, Epilogue, Kernel, PackedTensor, tuning};
use crate::quant::{Bits, Grid, PackedRows, unpack_rows};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, DType, Dispatch, DispatchDevice, Flex, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use rayon::prelude::*;

/// Side of the smallest tile that a workgroup computes; work is best split by multiples of it.
pub const TILE: usize = 64;

/// The kernel, specialized to a product and the shape of its tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QMatmul {
    /// What is computed.
    pub product: Product,
    /// A quarter of the tokens of an invocation.
    pub rows: u32,
    /// A quarter of the columns of an invocation.
    pub columns: u32,
    /// How four products of bytes are summed.
    pub dot: Dot,
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
        let small = |product: Product| Self { product, rows: 1, columns: 1, dot: Dot::preferred() };
        let mut all: Vec<Self> = Product::all().into_iter().map(small).collect();
        for bits in Bits::OF_TOKENS {
            let plain = small(Product::plain(bits, bits));
            let raw = small(Product { raw: true, ..plain.product });
            all.push(Self { dot: Dot::Portable, ..raw });
            for (rows, columns) in [(2, 1), (1, 2), (2, 2)] {
                all.extend([plain, raw].map(|kernel| Self { rows, columns, ..kernel }));
            }
        }
        all
    }

    fn workgroup_size(&self) -> u32 {
        256
    }

    fn constants(&self) -> Vec<Const> {
        let mut constants = self.product.constants();
        constants.extend([
            Const::Bool("GROUPED", self.product.grouped),
            Const::U32("ROWS", 4 * self.rows),
            Const::U32("COLUMNS", 4 * self.columns),
            Const::Import("dot", self.dot.fragment()),
        ]);
        constants
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
    product: Product,
    params: Params,
    /// The best one known if there is none.
    form: Option<Form>,
}

#[backend_extension(Cube, Flex)]
trait QMatmulOp: Backend {
    fn qmatmul(
        x_codes: IntTensor<Self>,
        x_grid: IntTensor<Self>,
        w_codes: IntTensor<Self>,
        w_grid: IntTensor<Self>,
        #[extension_type] epilogue: EpilogueTensors<Self>,
        call: Call,
    ) -> FloatTensor<Self>;
}

impl QMatmulOp for CubeBackend {
    fn qmatmul(
        x_codes: IntTensor<Self>,
        x_grid: IntTensor<Self>,
        w_codes: IntTensor<Self>,
        w_grid: IntTensor<Self>,
        epilogue: EpilogueTensors<Self>,
        call: Call,
    ) -> FloatTensor<Self> {
        let [x_codes, x_grid, w_codes, w_grid] =
            [x_codes, x_grid, w_codes, w_grid].map(contiguous_i32);
        let (epilogue, buffers) = epilogue.into_buffers();
        let (m, n) = (call.params.m as usize, call.params.n as usize);
        let y = empty_like(&x_codes, Shape::new([m, n]), DType::F32);
        let reads: Vec<_> =
            [&x_codes, &x_grid, &w_codes, &w_grid].into_iter().chain(&buffers).collect();
        let product = Product { epilogue, ..call.product };
        let form = call.form.unwrap_or_else(|| tuning::form_of(&x_codes, product, call.params));
        form.launch(product, &reads, &y, call.params);
        y
    }
}

impl QMatmulOp for Flex {
    fn qmatmul(
        x_codes: IntTensor<Self>,
        x_grid: IntTensor<Self>,
        w_codes: IntTensor<Self>,
        w_grid: IntTensor<Self>,
        epilogue: EpilogueTensors<Self>,
        Call { product, params, .. }: Call,
    ) -> FloatTensor<Self> {
        let (k, group_size) = (params.k as usize, params.group_size as usize);
        let tensors = [x_codes, x_grid, w_codes, w_grid].map(|tensor| tensor.to_contiguous());
        let [x_codes, x_grid, w_codes, w_grid] = tensors.each_ref().map(flex_words);
        let x = Rows::new(product.x_bits, k, k, x_codes, x_grid);
        let w = Rows::new(product.w_bits, k, group_size, w_codes, w_grid);
        let y = cpu::qmatmul(cpu::Form::best(), x, w, &epilogue.bias());
        let (m, n) = (params.m as usize, params.n as usize);
        flex_from_f32(epilogue.finish(y, n), [m, n])
    }
}

/// `y = residual + gate · (x · wᵀ + bias)` of packed tokens and a packed weight,
/// `[tokens, out_features]`; a bias alone is an epilogue, too.
///
/// # Panics
///
/// If `x` and `w` differ in `in_features` or have more than [`max_in_features`], or a tensor of
/// the epilogue has not the shape that it says.
pub fn qmatmul(x: &PackedTensor, w: &PackedTensor, epilogue: impl Into<Epilogue>) -> Tensor<2> {
    multiply(x, w, epilogue.into(), None)
}

/// [`qmatmul`] in a given form, to compare forms; the adapter must have it.
///
/// # Panics
///
/// As [`qmatmul`].
#[doc(hidden)]
pub fn qmatmul_in_form(
    form: Form,
    x: &PackedTensor,
    w: &PackedTensor,
    epilogue: impl Into<Epilogue>,
) -> Tensor<2> {
    multiply(x, w, epilogue.into(), Some(form))
}

fn multiply(
    x: &PackedTensor,
    w: &PackedTensor,
    epilogue: Epilogue,
    form: Option<Form>,
) -> Tensor<2> {
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
    epilogue.assert_fits("qmatmul", [x.rows(), w.rows()]);
    if x.rows() == 0 {
        return Tensor::empty([0, w.rows()], &epilogue.bias.device());
    }
    let (product, params) = call(x, w);
    Tensor::from_dispatch(Dispatch::qmatmul(
        x.codes.clone().into_dispatch(),
        x.grid.clone().into_dispatch(),
        w.codes.clone().into_dispatch(),
        w.grid.clone().into_dispatch(),
        epilogue.into(),
        Call { product, params, form },
    ))
}

fn call(x: &PackedTensor, w: &PackedTensor) -> (Product, Params) {
    let product = Product { grouped: w.groups() > 1, ..Product::plain(x.bits, w.bits) };
    let params = Params {
        m: u32_from(x.rows()),
        n: u32_from(w.rows()),
        k: u32_from(x.in_features),
        group_size: u32_from(w.group_size),
    };
    (product, params)
}

/// Name of the form in which [`qmatmul`] computed these operands last, or would by default.
pub fn form_name(x: &PackedTensor, w: &PackedTensor) -> String {
    let (product, params) = call(x, w);
    match x.codes.device().as_dispatch() {
        DispatchDevice::Cube(device) => tuning::known_form(device, product, params).to_string(),
        _ => cpu::Form::best().name().to_owned(),
    }
}
