//! `shaders/rope.wgsl` — rotate pairs of channels by the position of their token.

use super::cpu::{self, Form};
use super::launch::{contiguous_f32, empty_like, flex_from_f32, launch, linear_grid, u32_from};
use super::params::params;
use super::{Const, Kernel};
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;

/// The kernel; it has one specialization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rope;

params! {
    pub struct Params {
        /// Rows of `x`.
        pub tokens: u32,
        /// Heads side by side in a row.
        pub heads: u32,
        /// Pairs of channels per head.
        pub pairs: u32,
    }
}

impl Params {
    pub(super) fn shape(self) -> [usize; 2] {
        [self.tokens as usize, 2 * self.heads as usize * self.pairs as usize]
    }
}

impl Kernel for Rope {
    const NAME: &'static str = "rope";
    const SOURCE: &'static str = include_str!("../../shaders/rope.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        vec![Self]
    }

    fn workgroup_size(&self) -> u32 {
        256
    }

    fn constants(&self) -> Vec<Const> {
        Vec::new()
    }
}

/// Plain-Rust twin of the shader; `x` is `[tokens, heads · 2 · pairs]`, `cos` and `sin` are
/// `[tokens, pairs]`.
pub fn reference(x: &[f32], cos: &[f32], sin: &[f32], params: Params) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    rotate(&mut y, x, cos, sin, params);
    y
}

/// Some tokens of [`reference()`].
#[inline(always)]
pub(super) fn rotate(y: &mut [f32], x: &[f32], cos: &[f32], sin: &[f32], params: Params) {
    let (heads, pairs) = (params.heads as usize, params.pairs as usize);
    let width = 2 * heads * pairs;
    let angles = cos.chunks_exact(pairs).zip(sin.chunks_exact(pairs));
    for ((y, x), (cos, sin)) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(angles) {
        for (y, x) in y.chunks_exact_mut(2 * pairs).zip(x.chunks_exact(2 * pairs)) {
            let (y, x) = (y.as_chunks_mut::<2>().0, x.as_chunks::<2>().0);
            for ((y, [a, b]), (cos, sin)) in y.iter_mut().zip(x).zip(cos.iter().zip(sin)) {
                *y = [a * cos - b * sin, a * sin + b * cos];
            }
        }
    }
}

#[backend_extension(Cube, Flex, Autodiff)]
trait RopeOp: Backend {
    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        params: Params,
    ) -> FloatTensor<Self>;
}

impl RopeOp for CubeBackend {
    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        params: Params,
    ) -> FloatTensor<Self> {
        let [x, cos, sin] = [x, cos, sin].map(contiguous_f32);
        let shape = Shape::new(params.shape());
        let workgroups = (shape.num_elements() / 2).div_ceil(Rope.workgroup_size() as usize);
        let y = empty_like(&x, shape, DType::F32);
        launch(Rope, &[&x, &cos, &sin], &[&y], params, linear_grid(workgroups));
        y
    }
}

impl RopeOp for Flex {
    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        params: Params,
    ) -> FloatTensor<Self> {
        let tensors = [x, cos, sin].map(|tensor| tensor.to_contiguous());
        let values = tensors.each_ref().map(|tensor| tensor.storage());
        flex_from_f32(cpu::rope(Form::best(), values, params), params.shape())
    }
}

/// A rotation's transpose turns the other way.
#[derive(Debug)]
struct RopeStep(Params);

impl<B: RopeOp> Backward<B, 1> for RopeStep {
    /// Cosines and sines.
    type State = [FloatTensor<B>; 2];

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [cos, sin] = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |d_y| {
            B::rope(d_y, cos, B::float_neg(sin), self.0)
        });
    }
}

impl<B: RopeOp, C: CheckpointStrategy> RopeOp for Autodiff<B, C> {
    fn rope(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        params: Params,
    ) -> FloatTensor<Self> {
        let step = RopeStep(params).prepare::<C>([x.node()]).compute_bound();
        let [x, cos, sin] = [x, cos, sin].map(|tensor| tensor.into_primitive());
        let y = B::rope(x, cos.clone(), sin.clone(), params);
        match step.stateful() {
            OpsKind::Tracked(prep) => prep.finish([cos, sin], y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

/// Rotary positions: rotates channels `2j` and `2j + 1` of every head by the angle of pair `j`.
///
/// `x` is `[tokens, heads · head_dim]`, `cos` and `sin` are `[tokens, head_dim / 2]`, the result
/// has the shape of `x`. All are f32. Differentiable in `x`; `cos` and `sin` are constants.
///
/// # Panics
///
/// If the shapes do not fit.
pub fn rope(x: Tensor<2>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<2> {
    let [tokens, width] = x.dims();
    let [angles, pairs] = cos.dims();
    assert!(
        angles == tokens && sin.dims() == [angles, pairs] && width.is_multiple_of(2 * pairs),
        "rope: x {:?}, cos {:?}, sin {:?}",
        x.dims(),
        cos.dims(),
        sin.dims()
    );
    let params = Params {
        tokens: u32_from(tokens),
        heads: u32_from(width / (2 * pairs)),
        pairs: u32_from(pairs),
    };
    Tensor::from_dispatch(Dispatch::rope(
        x.into_dispatch(),
        cos.into_dispatch(),
        sin.into_dispatch(),
        params,
    ))
}
