//! `shaders/norm_rope.wgsl` — RMS norm over all heads, then rotary positions, in one dispatch.
//!
//! Floor: one read and one write of the tokens, 8 bytes per value (6 with f16 results) over the
//! copy bandwidth. As separate operations of Burn and [`rope`](super::rope::rope) the same takes
//! seven dispatches and nine passes over the tokens. Counted, not timed.

use super::launch::{
    contiguous_f32, empty_like, flex_f32, launch, linear_grid, row_invocations, u32_from,
};
use super::params::params;
use super::{Const, Element, Kernel, Tier, rope};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::{Tensor, TensorData};
use burn_cubecl::CubeBackend;
use rayon::prelude::*;

/// The kernel and its specialization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NormRope {
    /// Whether to rotate: keys of a text have no positions.
    pub rotate: bool,
    /// Type of the result.
    pub element: Element,
    /// Invocations that share a token.
    pub invocations: u32,
}

impl NormRope {
    /// The specialization for tokens of `width` channels.
    pub const fn new(rotate: bool, element: Element, width: usize) -> Self {
        // An invocation has two channels at a time, not four.
        Self { rotate, element, invocations: 2 * row_invocations(width) }
    }
}

params! {
    pub struct Params {
        /// Rows of `x`.
        pub tokens: u32,
        /// Heads side by side in a row.
        pub heads: u32,
        /// Pairs of channels per head.
        pub pairs: u32,
        /// Added to the mean square.
        pub eps: f32,
    }
}

impl Params {
    fn shape(self) -> [usize; 2] {
        [self.tokens as usize, 2 * self.heads as usize * self.pairs as usize]
    }
}

impl Kernel for NormRope {
    const NAME: &'static str = "norm_rope";
    const SOURCE: &'static str = include_str!("../../shaders/norm_rope.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let of = |element| {
            let long = [false, true].map(|rotate| Self::new(rotate, element, 1536));
            [long[0], long[1], Self::new(true, element, 96)]
        };
        Element::ALL.into_iter().flat_map(of).collect()
    }

    fn tier(&self) -> Tier {
        self.element.tier()
    }

    fn workgroup_size(&self) -> u32 {
        self.invocations
    }

    fn constants(&self) -> Vec<Const> {
        vec![Const::Alias("Elem", self.element.wgsl()), Const::Bool("ROTATE", self.rotate)]
    }
}

/// Plain-Rust twin of the shader: f32 results, unrounded; `cos` and `sin` only where it rotates.
pub fn reference(
    kernel: NormRope,
    x: &[f32],
    weight: &[f32],
    [cos, sin]: [&[f32]; 2],
    params: Params,
) -> Vec<f32> {
    let width = weight.len();
    let normed: Vec<f32> = x
        .par_chunks_exact(width)
        .flat_map_iter(|token| {
            let squares: f64 = token.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            let factor = 1.0 / ((squares / width as f64) as f32 + params.eps).sqrt();
            token.iter().zip(weight).map(move |(x, weight)| x * factor * weight)
        })
        .collect();
    if !kernel.rotate {
        return normed;
    }
    let Params { tokens, heads, pairs, .. } = params;
    rope::reference(&normed, cos, sin, rope::Params { tokens, heads, pairs })
}

#[backend_extension(Cube, Flex)]
trait NormRopeOp: Backend {
    fn norm_rope(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        kernel: NormRope,
        params: Params,
    ) -> FloatTensor<Self>;
}

impl NormRopeOp for CubeBackend {
    fn norm_rope(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        kernel: NormRope,
        params: Params,
    ) -> FloatTensor<Self> {
        let [x, weight, cos, sin] = [x, weight, cos, sin].map(contiguous_f32);
        let dtype = match kernel.element {
            Element::F32 => DType::F32,
            Element::F16 => DType::F16,
        };
        let y = empty_like(&x, Shape::new(params.shape()), dtype);
        let grid = linear_grid(params.tokens as usize);
        launch(kernel, &[&x, &weight, &cos, &sin], &[&y], params, grid);
        y
    }
}

impl NormRopeOp for Flex {
    fn norm_rope(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        kernel: NormRope,
        params: Params,
    ) -> FloatTensor<Self> {
        let [x, weight, cos, sin] = [&x, &weight, &cos, &sin].map(flex_f32);
        let y = reference(kernel, &x, &weight, [&cos, &sin], params);
        let y = TensorData::new(y, params.shape());
        FlexTensor::from_data(match kernel.element {
            Element::F32 => y,
            Element::F16 => y.convert::<half::f16>(),
        })
    }
}

/// `x / √(mean(x²) + eps) · weight`, rotated by `[cos, sin]` if there are any.
///
/// `x` is `[tokens, heads · head_dim]`, `weight` `[1, heads · head_dim]`, `cos` and `sin` are
/// `[tokens, head_dim / 2]`; the result has the shape of `x` and is of type `element`. Not
/// differentiable: with gradients, compose it of its parts.
///
/// # Panics
///
/// If the shapes do not fit, the width is odd, or a tensor is tracked by autodiff.
pub fn norm_rope(
    x: Tensor<2>,
    weight: Tensor<2>,
    eps: f32,
    rotation: Option<[Tensor<2>; 2]>,
    element: Element,
) -> Tensor<2> {
    let [tokens, width] = x.dims();
    let kernel = NormRope::new(rotation.is_some(), element, width);
    let pairs = rotation.as_ref().map_or(width / 2, |[cos, _]| cos.dims()[1]);
    assert!(
        weight.dims() == [1, width] && pairs > 0 && width.is_multiple_of(2 * pairs),
        "norm_rope: x {:?}, weight {:?}, {pairs} pairs",
        x.dims(),
        weight.dims()
    );
    // Without a rotation there is nothing to bind: any tensor stands in for it.
    let [cos, sin] = rotation.unwrap_or_else(|| [weight.clone(), weight.clone()]);
    assert!(
        !kernel.rotate || (cos.dims() == [tokens, pairs] && sin.dims() == [tokens, pairs]),
        "norm_rope: {tokens} tokens, cos {:?}, sin {:?}",
        cos.dims(),
        sin.dims()
    );
    let params = Params {
        tokens: u32_from(tokens),
        heads: u32_from(width / (2 * pairs)),
        pairs: u32_from(pairs),
        eps,
    };
    Tensor::from_dispatch(Dispatch::norm_rope(
        x.into_dispatch(),
        weight.into_dispatch(),
        cos.into_dispatch(),
        sin.into_dispatch(),
        kernel,
        params,
    ))
}
