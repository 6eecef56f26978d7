//! Attention under autodiff: two nodes over one forward pass.
//!
//! A node of Burn's graph has one output, attention has two. Its gradients are linear in those of
//! `o` and `lse`, so each output gets a node of its own, and what both contribute is added up as
//! with any tensor that is used twice. Packing both into one tensor would copy `o` in either
//! direction; this way the usual case, in which nothing follows from `lse`, costs nothing.

use super::super::attention::{Attention, AttentionOp, Params};
use super::{AttentionBackwardOp, Side, Tensors};
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Shape, TensorMetadata};

/// What the forward pass leaves for the backward pass: `q`, `k`, `v`, `o`, `lse`.
type Saved<B> = [FloatTensor<B>; 5];

/// The operation, without its tensors.
#[derive(Clone, Copy, Debug)]
struct Call {
    kernel: Attention,
    params: Params,
}

impl Call {
    /// `Σ d_o · o` over the channels of each head, `[queries, heads]`.
    fn delta<B: Backend>(self, d_o: FloatTensor<B>, o: FloatTensor<B>) -> FloatTensor<B> {
        let (queries, heads) = (self.params.queries as usize, self.params.heads as usize);
        let by_head = Shape::new([queries, heads, self.kernel.head_dim as usize]);
        let products = B::float_reshape(B::float_mul(d_o, o), by_head);
        B::float_reshape(B::float_sum_dim(products, 2), Shape::new([queries, heads]))
    }

    /// Registers the gradients of those of `q`, `k` and `v` that have a node.
    fn register<B: AttentionBackwardOp>(
        self,
        inputs: Tensors<B>,
        nodes: [Option<NodeId>; 3],
        grads: &mut Gradients,
    ) {
        let mut sides = Vec::new();
        if nodes[0].is_some() {
            sides.push(Side::Queries);
        }
        if nodes[1].or(nodes[2]).is_some() {
            sides.push(Side::Keys);
        }
        let gradients = B::attention_backward(inputs, self.kernel, self.params, &sides);
        for (node, gradient) in nodes.into_iter().zip(gradients) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node, gradient);
            }
        }
    }
}

/// What follows from a gradient of `o`.
#[derive(Debug)]
struct ResultStep(Call);

impl<B: AttentionBackwardOp> Backward<B, 3> for ResultStep {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Saved<B>, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let d_o = grads.consume::<B>(&ops.node);
        let [q, k, v, o, lse] = ops.state;
        let delta = self.0.delta::<B>(d_o.clone(), o);
        let nodes = ops.parents.map(|parent| parent.map(|node| node.id));
        self.0.register::<B>(Tensors { q, k, v, d_o, lse, delta }, nodes, grads);
    }
}

/// What follows from a gradient of `lse`: the scores' is `p · d_lse`, the values have none.
#[derive(Debug)]
struct LogSumStep(Call);

impl<B: AttentionBackwardOp> Backward<B, 2> for LogSumStep {
    type State = Saved<B>;

    fn backward(self, ops: Ops<Saved<B>, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let delta = B::float_neg(grads.consume::<B>(&ops.node));
        let [q, k, v, o, lse] = ops.state;
        let d_o = B::float_zeros(o.shape(), &o.device(), o.dtype().into());
        let [d_q, d_k] = ops.parents.map(|parent| parent.map(|node| node.id));
        self.0.register::<B>(Tensors { q, k, v, d_o, lse, delta }, [d_q, d_k, None], grads);
    }
}

impl<B: AttentionOp + AttentionBackwardOp, C: CheckpointStrategy> AttentionOp for Autodiff<B, C> {
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        kernel: Attention,
        params: Params,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let call = Call { kernel, params };
        let nodes = [q.node(), k.node(), v.node()];
        let result = Backward::<B, 3>::prepare::<C>(ResultStep(call), nodes);
        let log_sum = Backward::<B, 2>::prepare::<C>(LogSumStep(call), [q.node(), k.node()]);
        let [q, k, v] = [q, k, v].map(|tensor| tensor.into_primitive());
        // Burn's own operation has the same name.
        let forward = <B as AttentionOp>::attention;
        let (o, lse) = forward(q.clone(), k.clone(), v.clone(), kernel, params);
        let saved = [q, k, v, o.clone(), lse.clone()];
        let o = match result.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(saved.clone(), o),
            OpsKind::UnTracked(prep) => prep.finish(o),
        };
        let lse = match log_sum.compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(saved, lse),
            OpsKind::UnTracked(prep) => prep.finish(lse),
        };
        (o, lse)
    }
}
