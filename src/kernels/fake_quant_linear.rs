//! The linear layer of quantization-aware training as one differentiable operation.
//!
//! Composed of smaller ones, a layer would keep the fake-quantized activations besides the
//! activations, and once for each of the projections that read the same tokens. This operation
//! keeps handles of its inputs only and repeats the cheap part, fake quantization, when gradients
//! are wanted. The input itself is kept, not its codes, because the gradient of a token's range
//! needs the rounding residual `round(x/scale) − x/scale` of every element, which codes have
//! lost. A handle copies nothing: query, key and value projections share one activation.

use super::fake_quantize_tokens::{
    FakeQuantTokens, FakeQuantizeTokens, FakeQuantizeTokensOp, Params, checked_params, clip_factors,
};
use super::fake_quantize_tokens_backward::{self, FakeQuantizeTokensBackwardOp};
use super::matmul_nt::{MatmulNtOp, token_gradient, weight_gradient};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;

#[backend_extension(Cube, Flex, Autodiff)]
trait FakeQuantLinearOp: Backend {
    fn fake_quant_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        factors: FloatTensor<Self>,
        kernel: FakeQuantizeTokens,
        params: Params,
    ) -> FloatTensor<Self>;
}

fn product<B: FakeQuantizeTokensOp + MatmulNtOp>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    factors: FloatTensor<B>,
    kernel: FakeQuantizeTokens,
    params: Params,
) -> FloatTensor<B> {
    let tokens = B::fake_quantize_tokens(x, factors, kernel, params);
    B::matmul_nt(tokens, weight)
}

impl FakeQuantLinearOp for CubeBackend {
    fn fake_quant_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        factors: FloatTensor<Self>,
        kernel: FakeQuantizeTokens,
        params: Params,
    ) -> FloatTensor<Self> {
        product::<Self>(x, weight, factors, kernel, params)
    }
}

impl FakeQuantLinearOp for Flex {
    fn fake_quant_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        factors: FloatTensor<Self>,
        kernel: FakeQuantizeTokens,
        params: Params,
    ) -> FloatTensor<Self> {
        product::<Self>(x, weight, factors, kernel, params)
    }
}

#[derive(Clone, Copy, Debug)]
struct LinearStep {
    kernel: FakeQuantizeTokens,
    params: Params,
}

impl<B> Backward<B, 3> for LinearStep
where
    B: FakeQuantizeTokensOp + FakeQuantizeTokensBackwardOp + MatmulNtOp,
{
    type State = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let Self { kernel, params } = self;
        let [x_node, weight_node, factors_node] = ops.parents;
        let (x, weight, factors) = ops.state;
        let d_y = grads.consume::<B>(&ops.node);
        if let Some(node) = weight_node {
            let tokens = B::fake_quantize_tokens(x.clone(), factors.clone(), kernel, params);
            grads.register::<B>(node.id, weight_gradient::<B>(d_y.clone(), tokens));
        }
        if x_node.is_none() && factors_node.is_none() {
            return;
        }
        let d_tokens = token_gradient::<B>(d_y, weight);
        let (m, k) = (params.m, params.k);
        let params = fake_quantize_tokens_backward::Params { m, k };
        let kernel = kernel.backward();
        let (d_x, d_factors) =
            B::fake_quantize_tokens_backward(x, factors, d_tokens, kernel, params);
        if let Some(node) = x_node {
            grads.register::<B>(node.id, d_x);
        }
        if let Some(node) = factors_node {
            let sum = B::float_sum_dim(d_factors, 0);
            grads.register::<B>(node.id, B::float_reshape(sum, Shape::new([2])));
        }
    }
}

impl<B, C> FakeQuantLinearOp for Autodiff<B, C>
where
    B: FakeQuantizeTokensOp + FakeQuantizeTokensBackwardOp + MatmulNtOp,
    C: CheckpointStrategy,
{
    fn fake_quant_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        factors: FloatTensor<Self>,
        kernel: FakeQuantizeTokens,
        params: Params,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), factors.node()];
        let state = (x.into_primitive(), weight.into_primitive(), factors.into_primitive());
        let (x, weight, factors) = state.clone();
        let y = product::<B>(x, weight, factors, kernel, params);
        let step = LinearStep { kernel, params };
        match Backward::<B, 3>::prepare::<C>(step, nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(state, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

/// `y = Qa(x) · weightᵀ` with fake-quantized tokens, differentiable in all three tensors.
///
/// `x` is `[tokens, in_features]`, `weight` `[out_features, in_features]` as it is to be used
/// (fake-quantized already, and with the low-rank part added), `clips` `[2]` the logits of the
/// upper and of the lower clip, see [`clip_factors`]; all f32. The result is
/// `[tokens, out_features]`. On a device without autodiff it is the same product.
///
/// The gradients are `d_weight = d_yᵀ · Qa(x)`, and those of
/// [`fake_quantize_tokens_backward`](super::fake_quantize_tokens_backward()) for `d_y · weight`.
/// Qa(x) is computed again for them; what is kept until then are handles of the three inputs.
///
/// # Panics
///
/// If shapes do not fit, or the scheme is none of those of [`FakeQuantTokens`].
pub fn fake_quant_linear(
    x: Tensor<2>,
    weight: Tensor<2>,
    clips: Tensor<1>,
    spec: FakeQuantTokens,
) -> Tensor<2> {
    let params = checked_params("fake_quant_linear", &x, &clips);
    let [_, in_features] = weight.dims();
    assert_eq!(in_features, params.k as usize, "fake_quant_linear: in_features of weight and x");
    let factors = clip_factors(clips, spec.clip_ratio);
    Tensor::from_dispatch(Dispatch::fake_quant_linear(
        x.into_dispatch(),
        weight.into_dispatch(),
        factors.into_dispatch(),
        spec.kernel(),
        params,
    ))
}
