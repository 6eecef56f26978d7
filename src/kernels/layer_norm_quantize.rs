//! `shaders/layer_norm_quantize.wgsl` — normalized tokens, transformed if asked for, as packed codes;
//! the floats between are never stored.

use super::cpu;
use super::launch::{
    contiguous_f32, empty_like, flex_f32, flex_from_u32, launch, linear_grid, row_invocations,
};
use super::params::params;
use super::quantize_tokens::{self, QuantizeTokens};
use super::row_transform::{RowTransform, TokenTransform};
use super::{Const, Element, GRID_WORDS, Kernel, PackedTensor, Rows, layer_norm};
use crate::quant::{Bits, Scheme, TokenSpec, words_per_row};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;

/// The kernel, specialized to width, scheme, kind of range and transform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LayerNormQuantize {
    /// Width of a code.
    pub bits: Bits,
    /// Range to grid.
    pub scheme: Scheme,
    /// One range for all tokens, given by the caller, instead of each token's own.
    pub static_range: bool,
    /// Of the normalized row; an affine step is part of factor and offset.
    pub transform: RowTransform,
    /// How rows are loaded.
    pub rows: Rows,
    /// Invocations that share a row.
    pub invocations: u32,
}

params! {
    pub struct Params {
        /// Tokens.
        pub m: u32,
        /// In features.
        pub k: u32,
        /// Factor of the maximum, or the upper end of a static range.
        pub upper: f32,
        /// Factor of the minimum, or the lower end of a static range.
        pub lower: f32,
        /// Added to the variance.
        pub eps: f32,
    }
}

impl Kernel for LayerNormQuantize {
    const NAME: &'static str = "layer_norm_quantize";
    const SOURCE: &'static str = include_str!("../../shaders/layer_norm_quantize.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for bits in Bits::ALL {
            let (scheme, rows) = (Scheme::Asymmetric, Rows::Vectors);
            let (transform, invocations) = (RowTransform::NONE, row_invocations(1024));
            let usual = Self { bits, scheme, static_range: false, transform, rows, invocations };
            let integer = Scheme::ALL.into_iter().filter(|s| s.has_integer_zero_point());
            all.extend(integer.map(|scheme| Self { scheme, ..usual }));
            let ragged = Self { rows: Rows::Ragged, ..usual };
            all.push(ragged);
            let invocations = row_invocations(96);
            all.extend([usual, ragged].map(|kernel| Self { invocations, ..kernel }));
            all.push(Self { static_range: true, ..usual });
            let blocks = RowTransform::with_blocks(false);
            all.extend(blocks.map(|transform| Self { transform, ..usual }));
        }
        all
    }

    fn workgroup_size(&self) -> u32 {
        self.invocations
    }

    fn constants(&self) -> Vec<Const> {
        let mut constants = self.transform.constants(self.rows);
        constants.extend([
            Const::U32("BITS", self.bits.get()),
            Const::U32("SCHEME", self.scheme.index()),
            Const::Bool("STATIC_RANGE", self.static_range),
            Const::Alias("Elem", Element::F32.wgsl_in(self.rows)),
            Const::Import("quads", self.rows.fragments()[0]),
        ]);
        constants
    }
}

impl LayerNormQuantize {
    /// The specialization and parameters that carry out `spec` on `[m, k]` values.
    pub fn new(spec: TokenSpec, m: usize, k: usize, eps: f32) -> (Self, Params) {
        let (kernel, params) = QuantizeTokens::new(spec, Element::F32, m, k);
        let QuantizeTokens { bits, scheme, static_range, transform, rows, invocations, .. } =
            kernel;
        let quantize_tokens::Params { m, k, upper, lower } = params;
        let kernel = Self { bits, scheme, static_range, transform, rows, invocations };
        (kernel, Params { m, k, upper, lower, eps })
    }
}

#[backend_extension(Cube, Flex)]
trait LayerNormQuantizeOp: Backend {
    fn layer_norm_quantize(
        x: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        offset: FloatTensor<Self>,
        transform: RowTransform,
        spec: TokenSpec,
        eps: f32,
    ) -> (IntTensor<Self>, IntTensor<Self>);
}

impl LayerNormQuantizeOp for CubeBackend {
    fn layer_norm_quantize(
        x: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        offset: FloatTensor<Self>,
        transform: RowTransform,
        spec: TokenSpec,
        eps: f32,
    ) -> (IntTensor<Self>, IntTensor<Self>) {
        let [x, factor, offset] = [x, factor, offset].map(contiguous_f32);
        let shape = x.meta.shape();
        let (m, k) = (shape[0], shape[1]);
        let (kernel, params) = LayerNormQuantize::new(spec, m, k, eps);
        let kernel = LayerNormQuantize { transform, ..kernel };
        let codes = empty_like(&x, Shape::new([m, words_per_row(spec.bits, k)]), DType::I32);
        let grid = empty_like(&x, Shape::new([m, GRID_WORDS]), DType::I32);
        launch(kernel, &[&x, &factor, &offset], &[&codes, &grid], params, linear_grid(m));
        (codes, grid)
    }
}

impl LayerNormQuantizeOp for Flex {
    fn layer_norm_quantize(
        x: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        offset: FloatTensor<Self>,
        transform: RowTransform,
        spec: TokenSpec,
        eps: f32,
    ) -> (IntTensor<Self>, IntTensor<Self>) {
        let factor = flex_f32(&factor);
        let mut y = layer_norm::reference(&flex_f32(&x), &factor, &flex_f32(&offset), eps);
        let (k, m) = (factor.len(), y.len() / factor.len());
        cpu::transform(cpu::Form::best(), &mut y, k, None, transform.block());
        let (codes, grid) = cpu::quantize_tokens(cpu::Form::best(), &y, k, spec);
        let words = words_per_row(spec.bits, k);
        (flex_from_u32(codes, [m, words]), flex_from_u32(grid, [m, GRID_WORDS]))
    }
}

/// The codes of [`layer_norm::layer_norm`], after a Walsh–Hadamard transform in blocks of `hadamard`
/// if asked for, one grid per token.
///
/// `x` is `[tokens, in_features]`, `factor` and `offset` are `[in_features]`, all f32.
///
/// # Panics
///
/// If the shapes do not fit, or the scheme has a real-valued zero point.
pub fn layer_norm_quantize(
    x: Tensor<2>,
    factor: Tensor<1>,
    offset: Tensor<1>,
    eps: f32,
    hadamard: Option<usize>,
    spec: TokenSpec,
) -> PackedTensor {
    quantize_tokens::assert_integer_zero_point(spec);
    let [tokens, in_features] = x.dims();
    let widths = [factor.dims(), offset.dims()];
    assert_eq!(widths, [[in_features]; 2], "layer_norm_quantize: factor and offset");
    let transform = TokenTransform { affine: None, hadamard };
    transform.assert_fits("layer_norm_quantize", in_features);
    if tokens == 0 {
        return quantize_tokens::quantize_tokens(x, spec);
    }
    let (codes, grid) = Dispatch::layer_norm_quantize(
        x.into_dispatch(),
        factor.into_dispatch(),
        offset.into_dispatch(),
        transform.kind(),
        spec,
        eps,
    );
    let (codes, grid) = (Tensor::from_dispatch(codes), Tensor::from_dispatch(grid));
    PackedTensor { bits: spec.bits, in_features, group_size: in_features, codes, grid }
}
