//! `x · wᵀ` as a differentiable operation (NT in BLAS): [`matmul`](super::matmul()) without what follows
//! a linear layer, where gradients are wanted or there is no layer.
//!
//! Burn's own product compiles a kernel for most shapes, each for up to half a minute on a software
//! adapter; this one serves all of them. The gradients, `d_x = d_y · w` and `d_w = d_yᵀ · x`, are products
//! of the same kind once their operands are transposed, which is a pass over them.

use super::epilogue::EpilogueTensors;
use super::launch::u32_from;
use super::matmul::{MatmulOp, Params};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, DType, Dispatch, Flex, Shape, TensorMetadata, backend_extension,
};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;

#[backend_extension(Cube, Flex, Autodiff)]
pub(super) trait MatmulNtOp: Backend {
    /// `x · wᵀ` of `[m, k]` and `[n, k]`, whatever views they are.
    fn matmul_nt(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl MatmulNtOp for CubeBackend {
    fn matmul_nt(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        let ([m, k], [n, _]) = (x.shape().dims(), w.shape().dims());
        let bias = Self::float_zeros(Shape::new([n]), &x.device, DType::F32.into());
        let params = Params { m: u32_from(m), n: u32_from(n), k: u32_from(k), first_tile: 0 };
        Self::matmul(x, w, EpilogueTensors::Bias(bias), params)
    }
}

impl MatmulNtOp for Flex {
    fn matmul_nt(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(x, Self::float_transpose(w))
    }
}

/// The gradients `d_x` and `d_w` of [`MatmulNtOp::matmul_nt`], for nodes that want them.
#[derive(Clone, Copy, Debug)]
struct ProductStep;

impl<B: MatmulNtOp> Backward<B, 2> for ProductStep {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let [x_node, w_node] = ops.parents;
        let (x, w) = ops.state;
        let d_y = grads.consume::<B>(&ops.node);
        if let Some(node) = w_node {
            grads.register::<B>(node.id, weight_gradient::<B>(d_y.clone(), x));
        }
        if let Some(node) = x_node {
            grads.register::<B>(node.id, token_gradient::<B>(d_y, w));
        }
    }
}

/// `d_y · w` of `[m, n]` and `[n, k]`.
pub(super) fn token_gradient<B: MatmulNtOp>(
    d_y: FloatTensor<B>,
    w: FloatTensor<B>,
) -> FloatTensor<B> {
    B::matmul_nt(d_y, B::float_transpose(w))
}

/// `d_yᵀ · x` of `[m, n]` and `[m, k]`.
pub(super) fn weight_gradient<B: MatmulNtOp>(
    d_y: FloatTensor<B>,
    x: FloatTensor<B>,
) -> FloatTensor<B> {
    B::matmul_nt(B::float_transpose(d_y), B::float_transpose(x))
}

impl<B: MatmulNtOp, C: CheckpointStrategy> MatmulNtOp for Autodiff<B, C> {
    fn matmul_nt(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        let nodes = [x.node(), w.node()];
        let state = (x.into_primitive(), w.into_primitive());
        let (x, w) = state.clone();
        let y = B::matmul_nt(x, w);
        match Backward::<B, 2>::prepare::<C>(ProductStep, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(state, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

/// `x · wᵀ` of tokens `x` `[tokens, in_features]` and a weight `w` `[out_features, in_features]`, both
/// f32; differentiable in both.
///
/// # Panics
///
/// If they differ in `in_features`, or one of the sizes is 0.
pub fn matmul_nt(x: Tensor<2>, w: Tensor<2>) -> Tensor<2> {
    let ([m, k], [n, in_features]) = (x.dims(), w.dims());
    assert_eq!(k, in_features, "matmul_nt: columns of x and in_features");
    assert!(m > 0 && n > 0 && k > 0, "matmul_nt: {m} tokens, {k} in {n} out features");
    Tensor::from_dispatch(Dispatch::matmul_nt(x.into_dispatch(), w.into_dispatch()))
}
