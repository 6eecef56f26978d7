//! The convolution's step backward.

use super::{Conv3d, Conv3dOp, Params};
use crate::kernels::conv3d_backward_input::{Conv3dBackwardInput, Conv3dBackwardInputOp};
use crate::kernels::conv3d_backward_weight::{Conv3dBackwardWeight, Conv3dBackwardWeightOp};
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, FloatDType, Slice, TensorMetadata};

#[derive(Clone, Copy, Debug)]
struct Step {
    kernel: Conv3d,
    params: Params,
}

impl<B> Backward<B, 4> for Step
where
    B: Conv3dOp + Conv3dBackwardInputOp + Conv3dBackwardWeightOp,
{
    /// `x`, history and the packed weight.
    type State = [FloatTensor<B>; 3];

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let Self { kernel, params } = self;
        let dy = grads.consume::<B>(&ops.node);
        let [x_node, history_node, w_node, bias_node] = ops.parents;
        let [x, history, w] = ops.state;
        if x_node.is_some() || history_node.is_some() {
            let backward = Conv3dBackwardInput { conv: kernel };
            let dx = B::conv3d_backward_input(dy.clone(), w, backward, params);
            let (dx, d_history) = split_frames::<B>(dx, &history, params.history_frames as usize);
            for (node, gradient) in [(x_node, dx), (history_node, d_history)] {
                if let Some(node) = node {
                    grads.register::<B>(node.id, gradient);
                }
            }
        }
        if w_node.is_some() || bias_node.is_some() {
            let backward = Conv3dBackwardWeight { conv: kernel };
            let (dw, d_bias) = B::conv3d_backward_weight(x, history, dy, backward, params);
            for (node, gradient) in [(w_node, dw), (bias_node, d_bias)] {
                if let Some(node) = node {
                    grads.register::<B>(node.id, gradient);
                }
            }
        }
    }
}

/// The gradients of `x` and of `history` from that of both; zeros for a history of no frames, which
/// is bound but not read.
fn split_frames<B: Conv3dOp>(
    dx: FloatTensor<B>,
    history: &FloatTensor<B>,
    history_frames: usize,
) -> (FloatTensor<B>, FloatTensor<B>) {
    if history_frames == 0 {
        let zeros = B::float_zeros(history.shape(), &history.device(), FloatDType::F32);
        return (dx, zeros);
    }
    let part = |frames: Slice| B::float_slice(dx.clone(), &[Slice::full(), frames]);
    (part((history_frames..).into()), part((..history_frames).into()))
}

impl<B, C> Conv3dOp for Autodiff<B, C>
where
    B: Conv3dOp + Conv3dBackwardInputOp + Conv3dBackwardWeightOp,
    C: CheckpointStrategy,
{
    fn conv3d(
        x: FloatTensor<Self>,
        history: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        kernel: Conv3d,
        params: Params,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), history.node(), w.node(), bias.node()];
        let [x, history, w, bias] = [x, history, w, bias].map(|tensor| tensor.into_primitive());
        let step = Backward::<B, 4>::prepare::<C>(Step { kernel, params }, nodes);
        match step.compute_bound().stateful() {
            OpsKind::Tracked(step) => {
                let state = [x.clone(), history.clone(), w.clone()];
                step.finish(state, <B as Conv3dOp>::conv3d(x, history, w, bias, kernel, params))
            }
            OpsKind::UnTracked(step) => {
                step.finish(<B as Conv3dOp>::conv3d(x, history, w, bias, kernel, params))
            }
        }
    }
}
