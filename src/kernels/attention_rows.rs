//! `shaders/attention_rows.wgsl` — attention of few tokens, one query of one head per invocation.
//!
//! The patches of `attention_patches` are the fastest form on lavapipe, but their code takes the
//! driver seconds for every size of a head: more than a small model's whole clip. This one has a
//! fifth of their rate (12 heads of 128, 256 tokens, two cores of an EPYC with AVX2: 0.73 GFLOP/s
//! against 3.7, `examples/attention_forms`) and compiles in 0.3 s instead of 4
//! (`examples/first_use`). Results in an array of the invocation's own, read by a running index,
//! took 1.4 s; workgroup memory, in which no invocation reads another's, takes none of that.

use super::attention::{Attention, Params};
use super::attention_patches::AttentionPatches;
use super::element::Element;
use super::launch::linear_grid;
use super::{Const, Kernel, Tier};

/// Most operations of a call that takes this form by itself: hundreds of such calls lose less than
/// compiling the faster form takes.
const MAX_OPS: u64 = 1 << 24;

/// The kernel; its twin is that of [`Attention`], whose contract it shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionRows {
    /// Channels per head: a multiple of 4, at most 128.
    pub head_dim: u32,
    /// How `q`, `k` and `v` are stored.
    pub element: Element,
}

impl AttentionRows {
    /// Whether it computes heads of `head_dim` channels.
    pub fn takes(head_dim: usize) -> bool {
        AttentionPatches::takes(head_dim)
    }

    /// Whether a call is so small that compiling something faster would take longer.
    pub fn suits(head_dim: u32, params: Params) -> bool {
        let factors = [params.queries, params.keys, params.heads, head_dim, 4];
        let ops = factors.into_iter().fold(1_u64, |ops, n| ops.saturating_mul(u64::from(n)));
        ops <= MAX_OPS
    }

    /// The dispatch for `params`.
    pub fn grid(self, params: Params) -> [u32; 3] {
        let tiles = params.queries.div_ceil(self.workgroup_size()) as usize;
        linear_grid(tiles * params.heads as usize)
    }

    /// The specialization-free kernel whose twin says what the result is.
    pub fn twin(self) -> Attention {
        Attention { head_dim: self.head_dim }
    }
}

impl Kernel for AttentionRows {
    const NAME: &'static str = "attention_rows";
    const SOURCE: &'static str = include_str!("../../shaders/attention_rows.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let of = |element| [4, 20, 64, 128].map(|head_dim| Self { head_dim, element });
        Element::ALL.into_iter().flat_map(of).collect()
    }

    fn tier(&self) -> Tier {
        self.element.tier()
    }

    fn workgroup_size(&self) -> u32 {
        32
    }

    fn constants(&self) -> Vec<Const> {
        vec![Const::Alias("Elem", self.element.wgsl()), Const::U32("HEAD_DIM", self.head_dim)]
    }
}
