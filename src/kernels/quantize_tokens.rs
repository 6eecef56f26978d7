//! `shaders/quantize_tokens.wgsl` — activations to packed codes, one grid per token; an activation
//! function and a transform before it cost no pass of their own.

use super::cpu::{self, Form};
use super::launch::{
    empty_like, flex_f32, flex_floats, flex_from_u32, launch, linear_grid, row_invocations,
    u32_from,
};
use super::params::params;
use super::row_transform::{RowTransform, TokenTransform};
use super::{Activation, Const, Element, GRID_WORDS, Kernel, PackedTensor, Rows, Tier, activate};
use crate::quant::{Bits, Scheme, TokenRange, TokenSpec, words_per_row};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::{CubeBackend, kernel::into_contiguous};

/// The kernel, specialized to width, scheme, kind of range, element type, activation function and
/// transform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuantizeTokens {
    /// Width of a code.
    pub bits: Bits,
    /// Range to grid.
    pub scheme: Scheme,
    /// One range for all tokens, given by the caller, instead of each token's own.
    pub static_range: bool,
    /// Storage type of `x`.
    pub element: Element,
    /// Applied to the values as they are loaded.
    pub activation: Activation,
    /// Applied after it.
    pub transform: RowTransform,
    /// How they are loaded.
    pub rows: Rows,
    /// Invocations that share a token.
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
    }
}

impl Kernel for QuantizeTokens {
    const NAME: &'static str = "quantize_tokens";
    const SOURCE: &'static str = include_str!("../../shaders/quantize_tokens.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for bits in Bits::ALL {
            let usual = Self {
                bits,
                scheme: Scheme::Asymmetric,
                static_range: false,
                element: Element::F32,
                activation: Activation::Identity,
                transform: RowTransform::NONE,
                rows: Rows::Vectors,
                invocations: row_invocations(1024),
            };
            let integer = Scheme::ALL.into_iter().filter(|s| s.has_integer_zero_point());
            all.extend(integer.map(|scheme| Self { scheme, ..usual }));
            let ragged = Self { rows: Rows::Ragged, ..usual };
            let gelu = Self { activation: Activation::GeluTanh, ..usual };
            for kernel in [usual, ragged] {
                all.push(Self { static_range: true, ..kernel });
                all.push(Self { element: Element::F16, ..kernel });
            }
            let silu = Self { activation: Activation::Silu, ..usual };
            all.extend([ragged, silu, gelu, Self { rows: Rows::Ragged, ..gelu }]);
            all.push(Self { static_range: true, ..gelu });
            let affine = RowTransform { affine: true, ..RowTransform::NONE };
            all.extend([usual, ragged, gelu].map(|kernel| Self { transform: affine, ..kernel }));
            for transform in [false, true].map(RowTransform::with_blocks).into_iter().flatten() {
                all.extend([usual, gelu].map(|kernel| Self { transform, ..kernel }));
            }
            let blocks = RowTransform { affine: true, hadamard: 128 };
            let short = [usual, ragged, silu, gelu, Self { transform: blocks, ..usual }];
            all.extend(short.map(|kernel| Self { invocations: row_invocations(96), ..kernel }));
        }
        all
    }

    fn tier(&self) -> Tier {
        self.element.tier()
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
            Const::U32("ACTIVATION", self.activation.index()),
            Const::Alias("Elem", self.element.wgsl_in(self.rows)),
            Const::Import("quads", self.rows.fragments()[0]),
        ]);
        constants
    }
}

impl QuantizeTokens {
    /// The specialization and parameters that carry out `spec` on `[m, k]` values.
    pub fn new(spec: TokenSpec, element: Element, m: usize, k: usize) -> (Self, Params) {
        let (static_range, lower, upper) = match spec.range {
            TokenRange::Dynamic { clip_upper, clip_lower } => (false, clip_lower, clip_upper),
            TokenRange::Static { min, max } => (true, min, max),
        };
        let (bits, scheme, activation) = (spec.bits, spec.scheme, Activation::Identity);
        let (transform, rows) = (RowTransform::NONE, Rows::of(k));
        let invocations = row_invocations(k);
        let kernel =
            Self { bits, scheme, static_range, element, activation, transform, rows, invocations };
        (kernel, Params { m: u32_from(m), k: u32_from(k), upper, lower })
    }
}

#[backend_extension(Cube, Flex)]
trait QuantizeTokensOp: Backend {
    fn quantize_tokens(
        x: FloatTensor<Self>,
        offset: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        steps: (Activation, RowTransform),
        spec: TokenSpec,
    ) -> (IntTensor<Self>, IntTensor<Self>);
}

impl QuantizeTokensOp for CubeBackend {
    fn quantize_tokens(
        x: FloatTensor<Self>,
        offset: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        steps: (Activation, RowTransform),
        spec: TokenSpec,
    ) -> (IntTensor<Self>, IntTensor<Self>) {
        let (activation, transform) = steps;
        let x = into_contiguous(x);
        let [offset, factor] = [offset, factor].map(into_contiguous);
        let shape = x.meta.shape();
        let (m, k) = (shape[0], shape[1]);
        let (kernel, params) = QuantizeTokens::new(spec, Element::of(x.dtype), m, k);
        let kernel = QuantizeTokens { activation, transform, ..kernel };
        let words = words_per_row(spec.bits, k);
        let codes = empty_like(&x, Shape::new([m, words]), DType::I32);
        let grid = empty_like(&x, Shape::new([m, GRID_WORDS]), DType::I32);
        let reads = if transform.affine { vec![&x, &offset, &factor] } else { vec![&x] };
        launch(kernel, &reads, &[&codes, &grid], params, linear_grid(m));
        (codes, grid)
    }
}

impl QuantizeTokensOp for Flex {
    fn quantize_tokens(
        x: FloatTensor<Self>,
        offset: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        steps: (Activation, RowTransform),
        spec: TokenSpec,
    ) -> (IntTensor<Self>, IntTensor<Self>) {
        let x = x.to_contiguous();
        let [m, k] = x.shape().dims();
        let mut values = flex_floats(&x);
        let (activation, transform) = steps;
        if activation != Activation::Identity {
            values = activate::reference(activation, &values).into();
        }
        if transform != RowTransform::NONE {
            let affine = transform.affine.then(|| [flex_f32(&offset), flex_f32(&factor)]);
            let affine = affine.as_ref().map(|[offset, factor]| [&offset[..], &factor[..]]);
            cpu::transform(Form::best(), values.to_mut(), k, affine, transform.block());
        }
        let (codes, grid) = cpu::quantize_tokens(Form::best(), &values, k, spec);
        let words = words_per_row(spec.bits, k);
        (flex_from_u32(codes, [m, words]), flex_from_u32(grid, [m, GRID_WORDS]))
    }
}

/// Asserts that a shader can carry out `spec`.
pub(super) fn assert_integer_zero_point(spec: TokenSpec) {
    assert!(
        spec.scheme.has_integer_zero_point(),
        "tokens need an integer zero point, not {:?}",
        spec.scheme
    );
}

/// Quantizes `x` `[tokens, in_features]` (f32 or f16), one grid per token.
///
/// # Panics
///
/// If the scheme has a real-valued zero point, for which the shader has no specialization.
pub fn quantize_tokens(x: Tensor<2>, spec: TokenSpec) -> PackedTensor {
    activate_quantize(x, Activation::Identity, spec)
}

/// Quantizes `activation` of `x` `[tokens, in_features]` (f32 or f16), one grid per token.
///
/// # Panics
///
/// As [`quantize_tokens`].
pub fn activate_quantize(x: Tensor<2>, activation: Activation, spec: TokenSpec) -> PackedTensor {
    transform_quantize(x, activation, &TokenTransform::default(), spec)
}

/// Quantizes `transform` of `activation` of `x` `[tokens, in_features]`, one grid per token; with a
/// transform `x` is f32.
///
/// # Panics
///
/// As [`quantize_tokens`], or if the transform does not fit.
pub fn transform_quantize(
    x: Tensor<2>,
    activation: Activation,
    transform: &TokenTransform,
    spec: TokenSpec,
) -> PackedTensor {
    assert_integer_zero_point(spec);
    let [tokens, in_features] = x.dims();
    transform.assert_fits("quantize_tokens", in_features);
    let (codes, grid) = if tokens == 0 {
        let empty = |words| Tensor::empty([0, words], &x.device());
        (empty(words_per_row(spec.bits, in_features)), empty(GRID_WORDS))
    } else {
        let steps = (activation, transform.kind());
        let x = x.into_dispatch();
        // Without offset and factor there is nothing to bind: any tensor stands in for them.
        let [offset, factor] = match &transform.affine {
            Some(affine) => affine.clone().map(Tensor::into_dispatch),
            None => [x.clone(), x.clone()],
        };
        let (codes, grid) = Dispatch::quantize_tokens(x, offset, factor, steps, spec);
        (Tensor::from_dispatch(codes), Tensor::from_dispatch(grid))
    };
    PackedTensor { bits: spec.bits, in_features, group_size: in_features, codes, grid }
}
