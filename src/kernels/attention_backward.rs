//! `shaders/attention_backward.wgsl` — gradients of attention, without storing a score matrix.
//!
//! Two dispatches, one over tiles of queries and one over tiles of keys, each recomputing the
//! probabilities from the log-sum-exp that [`attention`](mod@super::attention) returned. This file
//! also makes that operation differentiable: see `attention_backward/autodiff.rs`.

use super::attention::{self, Attention};
use super::launch::{
    MAX_DISPATCH_OPS, contiguous_f32, empty_like, flex_f32, flex_from_f32, launch, linear_grid,
    u32_from,
};
use super::params::params;
use super::{Const, Kernel};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Flex, Shape, TensorMetadata};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

mod autodiff;
mod twin;

pub use twin::{Inputs, reference};

/// The kernel, specialized to the channels of a head and to what it differentiates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionBackward {
    /// Channels per head, 1 to [`attention::MAX_HEAD_DIM`].
    pub head_dim: u32,
    /// Which gradients are computed.
    pub side: Side,
}

/// What a dispatch differentiates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The queries: one gradient.
    Queries,
    /// Keys and values: two gradients.
    Keys,
}

params! {
    pub struct Params {
        /// Tokens of the side that is differentiated.
        pub own: u32,
        /// Tokens of the other side.
        pub walked: u32,
        /// Heads side by side in a row.
        pub heads: u32,
        /// Factor of the scores before the softmax.
        pub scale: f32,
        /// First workgroup of this dispatch.
        pub first: u32,
        /// Workgroup after the last of this dispatch.
        pub end: u32,
    }
}

/// How a workgroup's invocations are laid out; each owns 4 tokens × 4 columns.
struct Tile {
    row_groups: u32,
    column_groups: u32,
    /// Length of a matrix product between two barriers.
    step: u32,
}

impl AttentionBackward {
    /// An invocation accumulates two gradients of `head_dim / column_groups` vectors: wide heads
    /// are spread over more columns. Both layouts have 64 invocations and stay below 16 KiB.
    fn tile(self) -> Tile {
        if self.head_dim <= 128 {
            Tile { row_groups: 8, column_groups: 8, step: 32 }
        } else {
            Tile { row_groups: 2, column_groups: 32, step: 16 }
        }
    }

    /// Tokens whose gradients one workgroup computes.
    pub fn tile_tokens(self) -> usize {
        4 * self.tile().row_groups as usize
    }

    /// `params` of the dispatches that together cover all tokens, each of at most `max_ops`
    /// multiplications and additions, but one workgroup.
    pub fn dispatches(self, forward: attention::Params, max_ops: u64) -> Vec<Params> {
        let (own, walked, products) = match self.side {
            Side::Queries => (forward.queries, forward.keys, 3),
            Side::Keys => (forward.keys, forward.queries, 4),
        };
        let total = (own as usize).div_ceil(self.tile_tokens()) * forward.heads as usize;
        let row_ops = 2 * products * u64::from(walked) * u64::from(self.head_dim);
        let most = max_ops / (row_ops * self.tile_tokens() as u64);
        let most = usize::try_from(most).unwrap_or(usize::MAX).clamp(1, total);
        let part = |first| Params {
            own,
            walked,
            heads: forward.heads,
            scale: forward.scale,
            first: u32_from(first),
            end: u32_from(total.min(first + most)),
        };
        (0..total).step_by(most).map(part).collect()
    }
}

impl Params {
    /// The dispatch for these parameters.
    pub fn grid(self) -> [u32; 3] {
        linear_grid((self.end - self.first) as usize)
    }
}

impl Kernel for AttentionBackward {
    const NAME: &'static str = "attention_backward";
    const SOURCE: &'static str = include_str!("../../shaders/attention_backward.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let sides = |head_dim| [Side::Queries, Side::Keys].map(|side| Self { head_dim, side });
        [1, 5, 16, 64, 128, 129, 384, 512].into_iter().flat_map(sides).collect()
    }

    fn workgroup_size(&self) -> u32 {
        let Tile { row_groups, column_groups, .. } = self.tile();
        row_groups * column_groups
    }

    fn constants(&self) -> Vec<Const> {
        let Tile { row_groups, column_groups, step } = self.tile();
        vec![
            Const::U32("HEAD_DIM", self.head_dim),
            Const::Bool("KEYS", self.side == Side::Keys),
            Const::U32("ROW_GROUPS", row_groups),
            Const::U32("COLUMN_GROUPS", column_groups),
            Const::U32("STEP", step),
        ]
    }
}

/// Tensors of a backward pass; see [`Inputs`] for their shapes.
struct Tensors<B: Backend> {
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    d_o: FloatTensor<B>,
    lse: FloatTensor<B>,
    delta: FloatTensor<B>,
}

/// Not a backend extension: only backward passes call it, on the backend inside.
trait AttentionBackwardOp: Backend {
    /// Gradients of `q`, `k` and `v`; `None` for a side that is not among `sides`.
    fn attention_backward(
        inputs: Tensors<Self>,
        kernel: Attention,
        params: attention::Params,
        sides: &[Side],
    ) -> [Option<FloatTensor<Self>>; 3];
}

impl AttentionBackwardOp for CubeBackend {
    fn attention_backward(
        Tensors { q, k, v, d_o, lse, delta }: Tensors<Self>,
        Attention { head_dim }: Attention,
        params: attention::Params,
        sides: &[Side],
    ) -> [Option<FloatTensor<Self>>; 3] {
        let [q, k, v, d_o, lse, delta] = [q, k, v, d_o, lse, delta].map(contiguous_f32);
        let like = |x: &CubeTensor| empty_like(x, x.shape(), DType::F32);
        let run = |side, own: [&CubeTensor; 2], walk: [&CubeTensor; 2], d: [&CubeTensor; 2]| {
            let kernel = AttentionBackward { head_dim, side };
            let reads = [own[0], own[1], walk[0], walk[1], &lse, &delta];
            for params in kernel.dispatches(params, MAX_DISPATCH_OPS) {
                launch(kernel, &reads, &d, params, params.grid());
            }
        };
        let d_q = sides.contains(&Side::Queries).then(|| {
            let (d_q, unused) = (like(&q), empty_like(&q, Shape::new([1]), DType::F32));
            run(Side::Queries, [&q, &d_o], [&k, &v], [&d_q, &unused]);
            d_q
        });
        let d_k_v = sides.contains(&Side::Keys).then(|| {
            let (d_k, d_v) = (like(&k), like(&v));
            run(Side::Keys, [&k, &v], [&q, &d_o], [&d_k, &d_v]);
            (d_k, d_v)
        });
        let (d_k, d_v) = d_k_v.unzip();
        [d_q, d_k, d_v]
    }
}

impl AttentionBackwardOp for Flex {
    fn attention_backward(
        inputs: Tensors<Self>,
        kernel: Attention,
        params: attention::Params,
        _: &[Side],
    ) -> [Option<FloatTensor<Self>>; 3] {
        let Tensors { q, k, v, d_o, lse, delta } = inputs;
        let [q, k, v, d_o, lse, delta] = [&q, &k, &v, &d_o, &lse, &delta].map(flex_f32);
        let inputs = Inputs { q: &q, k: &k, v: &v, d_o: &d_o, lse: &lse, delta: &delta };
        let width = kernel.head_dim as usize * params.heads as usize;
        reference(kernel, inputs, params).map(|gradient| {
            let tokens = gradient.len() / width;
            Some(flex_from_f32(gradient, [tokens, width]))
        })
    }
}
