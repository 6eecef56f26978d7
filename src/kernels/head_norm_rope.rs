//! `shaders/head_norm_rope.wgsl` — layer norm of each head, then rotary positions, of two streams of
//! tokens into one.
//!
//! Floor: one read and one write of the tokens, 8 bytes per value (6 with f16 results) over the
//! copy bandwidth. As separate operations of Burn and [`rope`](super::rope::rope) the same takes
//! ten dispatches for the video, nine for the text, two to join them, and sixteen passes over the
//! tokens. Counted, not timed.

use super::launch::{contiguous_f32, empty_like, flex_f32, launch, linear_grid, u32_from};
use super::params::params;
use super::{Const, Element, Kernel, Tier, rope, vectorized};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::{Tensor, TensorData};
use burn_cubecl::CubeBackend;
use rayon::prelude::*;

/// Invocations that share the channels of a head.
const HEAD_LANES: u32 = 16;

/// The kernel and its specialization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeadNormRope {
    /// Whether to rotate the tokens of the video; those of the text have no positions.
    pub rotate: bool,
    /// Type of the result.
    pub element: Element,
}

params! {
    pub struct Params {
        /// Rows of `text`.
        pub text_tokens: u32,
        /// Rows of `video`.
        pub tokens: u32,
        /// Heads side by side in a row.
        pub heads: u32,
        /// Pairs of channels per head.
        pub pairs: u32,
        /// Added to the variance.
        pub eps: f32,
    }
}

impl Params {
    fn head_dim(self) -> usize {
        2 * self.pairs as usize
    }

    fn width(self) -> usize {
        self.heads as usize * self.head_dim()
    }

    fn shape(self) -> [usize; 2] {
        [(self.text_tokens + self.tokens) as usize, self.width()]
    }
}

impl HeadNormRope {
    /// The dispatch for `params`.
    pub fn grid(self, params: Params) -> [u32; 3] {
        let rows = (params.text_tokens + params.tokens) as usize * params.heads as usize;
        linear_grid(rows.div_ceil((self.workgroup_size() / HEAD_LANES) as usize))
    }
}

impl Kernel for HeadNormRope {
    const NAME: &'static str = "head_norm_rope";
    const SOURCE: &'static str = include_str!("../../shaders/head_norm_rope.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let of = |element| [false, true].map(|rotate| Self { rotate, element });
        Element::ALL.into_iter().flat_map(of).collect()
    }

    fn tier(&self) -> Tier {
        self.element.tier()
    }

    fn workgroup_size(&self) -> u32 {
        128
    }

    fn constants(&self) -> Vec<Const> {
        vec![
            Const::Alias("Elem", self.element.wgsl()),
            Const::Bool("ROTATE", self.rotate),
            Const::U32("HEAD_LANES", HEAD_LANES),
        ]
    }
}

/// Plain-Rust twin of the shader: f32 results, unrounded; `cos` and `sin` only where it rotates.
pub fn reference(
    kernel: HeadNormRope,
    [text, video]: [&[f32]; 2],
    affine: &[f32],
    [cos, sin]: [&[f32]; 2],
    params: Params,
) -> Vec<f32> {
    let text = &text[..params.text_tokens as usize * params.width()];
    let mut y = normalize(text, affine, params);
    let video = normalize(video, affine, params);
    if kernel.rotate {
        let Params { tokens, heads, pairs, .. } = params;
        y.extend(rope::reference(&video, cos, sin, rope::Params { tokens, heads, pairs }));
    } else {
        y.extend(video);
    }
    y
}

/// The heads of `x`, normalized.
fn normalize(x: &[f32], affine: &[f32], params: Params) -> Vec<f32> {
    let head_dim = params.head_dim();
    let (weight, bias) = affine.split_at(head_dim);
    let head = |head: &mut [f32]| {
        let mean = (vectorized::sum(head) / head_dim as f64) as f32;
        head.iter_mut().for_each(|x| *x -= mean);
        let squares: f64 = head.iter().map(|&x| f64::from(x * x)).sum();
        let factor = 1.0 / ((squares / head_dim as f64) as f32 + params.eps).sqrt();
        for (x, (weight, bias)) in head.iter_mut().zip(weight.iter().zip(bias)) {
            *x = *x * factor * weight + bias;
        }
    };
    let mut y = x.to_vec();
    y.par_chunks_exact_mut(params.width())
        .for_each(|token| token.chunks_exact_mut(head_dim).for_each(head));
    y
}

#[backend_extension(Cube, Flex)]
trait HeadNormRopeOp: Backend {
    fn head_norm_rope(
        text: FloatTensor<Self>,
        video: FloatTensor<Self>,
        affine: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        kernel: HeadNormRope,
        params: Params,
    ) -> FloatTensor<Self>;
}

impl HeadNormRopeOp for CubeBackend {
    fn head_norm_rope(
        text: FloatTensor<Self>,
        video: FloatTensor<Self>,
        affine: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        kernel: HeadNormRope,
        params: Params,
    ) -> FloatTensor<Self> {
        let [text, video, affine, cos, sin] = [text, video, affine, cos, sin].map(contiguous_f32);
        let dtype = match kernel.element {
            Element::F32 => DType::F32,
            Element::F16 => DType::F16,
        };
        let y = empty_like(&video, Shape::new(params.shape()), dtype);
        let inputs = [&text, &video, &affine, &cos, &sin];
        launch(kernel, &inputs, &[&y], params, kernel.grid(params));
        y
    }
}

impl HeadNormRopeOp for Flex {
    fn head_norm_rope(
        text: FloatTensor<Self>,
        video: FloatTensor<Self>,
        affine: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        kernel: HeadNormRope,
        params: Params,
    ) -> FloatTensor<Self> {
        let [text, video, affine, cos, sin] = [&text, &video, &affine, &cos, &sin].map(flex_f32);
        let y = reference(kernel, [&text, &video], &affine, [&cos, &sin], params);
        let y = TensorData::new(y, params.shape());
        FlexTensor::from_data(match kernel.element {
            Element::F32 => y,
            Element::F16 => y.convert::<half::f16>(),
        })
    }
}

/// `(x − mean) / √(variance + eps) · weight + bias` per head of a token, for the tokens of `text`,
/// if there are any, and then those of `video`, which are rotated by `[cos, sin]` if there are any.
///
/// `text` and `video` are `[_, heads · head_dim]`, `affine` is `[2, head_dim]`, weight and bias,
/// `cos` and `sin` are `[tokens of video, head_dim / 2]`; the result is
/// `[tokens of both, heads · head_dim]` of type `element`. Not differentiable: with gradients,
/// compose it of its parts.
///
/// # Panics
///
/// If the shapes do not fit, the head is of odd width, or a tensor is tracked by autodiff.
pub fn head_norm_rope(
    text: Option<Tensor<2>>,
    video: Tensor<2>,
    affine: Tensor<2>,
    eps: f32,
    rotation: Option<[Tensor<2>; 2]>,
    element: Element,
) -> Tensor<2> {
    let ([tokens, width], [rows, head_dim]) = (video.dims(), affine.dims());
    let kernel = HeadNormRope { rotate: rotation.is_some(), element };
    assert!(
        rows == 2 && head_dim > 0 && head_dim.is_multiple_of(2) && width.is_multiple_of(head_dim),
        "head_norm_rope: video {:?}, affine {:?}",
        video.dims(),
        affine.dims()
    );
    let text_tokens = text.as_ref().map_or(0, |text| {
        assert_eq!(text.dims()[1], width, "head_norm_rope: text and video differ in width");
        text.dims()[0]
    });
    // Of what does not exist nothing is read: any tensor stands in for it.
    let [cos, sin] = rotation.unwrap_or_else(|| [affine.clone(), affine.clone()]);
    assert!(
        !kernel.rotate || (cos.dims() == [tokens, head_dim / 2] && sin.dims() == cos.dims()),
        "head_norm_rope: {tokens} tokens, cos {:?}, sin {:?}",
        cos.dims(),
        sin.dims()
    );
    let params = Params {
        text_tokens: u32_from(text_tokens),
        tokens: u32_from(tokens),
        heads: u32_from(width / head_dim),
        pairs: u32_from(head_dim / 2),
        eps,
    };
    let text = text.unwrap_or_else(|| affine.clone());
    Tensor::from_dispatch(Dispatch::head_norm_rope(
        text.into_dispatch(),
        video.into_dispatch(),
        affine.into_dispatch(),
        cos.into_dispatch(),
        sin.into_dispatch(),
        kernel,
        params,
    ))
}
