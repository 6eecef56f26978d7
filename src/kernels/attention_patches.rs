//! `shaders/attention_patches.wgsl` — attention of heads up to 128 channels in register patches.
//!
//! Floor: `4 · queries · keys · head_dim` operations per head at the adapter's multiply-add rate;
//! the inputs are read once per 64 queries, which is far below any bandwidth limit.
//!
//! On lavapipe (Mesa 25.0.7, LLVM 15, 12 heads × 128, 2048 tokens, per second of CPU time, by
//! `examples/attention_forms`): 6.6 GFLOP/s with 8 columns (f16 inputs 6.8), 4.9 with 16; the 4 × 4
//! tile of `attention.wgsl` 2.6; Burn's attention 5.5, which stores the scores and takes 8 heads
//! at a time, since more do not fit a binding.
//!
//! A gather of eight lanes costs about 6 cycles from workgroup memory and 11 from a buffer, uniform
//! or not, a multiply-add half a cycle: the size of the patch is what counts. What did not help
//! (512 tokens): keys and values straight from the buffer (5.1 GFLOP/s; rows of one head lie a
//! multiple of 1 KiB apart and probably evict each other), all channels unrolled (1.3, and compiles
//! for 72 s), `fma` instead of a product and a sum (equal). `exp2` takes 6 cycles for eight values
//! and is no bottleneck. Loops that Mesa unrolls cost compile time only: bounds that it cannot know
//! took that from 7 s to 2.5 (Mesa 26: 0.6). Nothing was measured on a GPU.

use super::AdapterFacts;
use super::attention::{Attention, Params};
use super::element::Element;
use super::launch::linear_grid;
use super::{Const, Kernel, Tier};
use burn_cubecl::CubeDevice;

/// The layout for a device: in software large patches win, a GPU wants more invocations.
pub(super) fn preferred_columns(device: &CubeDevice) -> u32 {
    if AdapterFacts::of_cube(device).is_software { 8 } else { 16 }
}

/// Queries that a workgroup computes.
const TILE_QUERIES: usize = 64;

/// The kernel; its twin is that of [`Attention`], whose contract it shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionPatches {
    /// Channels per head: a multiple of 4, at most 128.
    pub head_dim: u32,
    /// Invocations side by side, 8 or 16: more share a tile in smaller patches.
    pub columns: u32,
    /// How `q`, `k` and `v` are stored.
    pub element: Element,
}

impl AttentionPatches {
    /// Whether it computes heads of `head_dim` channels.
    pub fn takes(head_dim: usize) -> bool {
        head_dim.is_multiple_of(4) && (4..=128).contains(&head_dim)
    }

    /// The dispatch for `params`.
    pub fn grid(params: Params) -> [u32; 3] {
        linear_grid((params.queries as usize).div_ceil(TILE_QUERIES) * params.heads as usize)
    }

    /// The specialization-free kernel whose twin says what the result is.
    pub fn twin(self) -> Attention {
        Attention { head_dim: self.head_dim }
    }
}

impl Kernel for AttentionPatches {
    const NAME: &'static str = "attention_patches";
    const SOURCE: &'static str = include_str!("../../shaders/attention_patches.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for element in Element::ALL {
            for columns in [8, 16] {
                all.extend([4, 20, 64, 128].map(|head_dim| Self { head_dim, columns, element }));
            }
        }
        all
    }

    fn tier(&self) -> Tier {
        self.element.tier()
    }

    fn workgroup_size(&self) -> u32 {
        8 * self.columns
    }

    fn constants(&self) -> Vec<Const> {
        vec![
            Const::Alias("Elem", self.element.wgsl()),
            Const::U32("HEAD_DIM", self.head_dim),
            Const::U32("COLUMNS", self.columns),
        ]
    }
}
