//! `shaders/conv3d_tile.wgsl` — 3-D convolution for GPUs: tiles in workgroup memory.
//!
//! The floor is arithmetic: a 3×3×3 convolution of 96 channels does 2592 products per value read
//! and written once. Per input channel and tap an invocation reads 4 (`out_vectors` + 1) values
//! of workgroup memory for 16 `out_vectors` products, so three vectors leave it 3 products per
//! value; more would leave too few registers for two workgroups per processor.

use super::conv3d::{Conv3d, Params, Work};
use super::element::Element;
use super::launch::linear_grid;
use super::{Const, Kernel, Tier};

pub use super::conv3d::reference;

/// Pixels of a workgroup.
const PIXELS: u32 = 128;

/// The kernel, specialized to the layout of the weight and to how many channels it computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv3dTile {
    /// The convolution.
    pub conv: Conv3d,
    /// Output channels of an invocation, in fours: 1 to 3. A workgroup has 32 times as many.
    pub out_vectors: u32,
    /// How weights are stored, and values in workgroup memory.
    pub element: Element,
}

impl Conv3dTile {
    /// The specialization that wastes least on channels that do not exist; wider ones read less.
    pub fn new(conv: Conv3d, out_channels: u32, element: Element) -> Self {
        // Time of a channel in a tile of 32, 64 and 96, by what it reads and multiplies.
        let cost = |out_vectors: &u32| {
            let channels = u64::from(out_channels.next_multiple_of(32 * out_vectors));
            channels * [20, 17, 16][*out_vectors as usize - 1]
        };
        let out_vectors = (1..=3).rev().min_by_key(cost).unwrap_or(1);
        Self { conv, out_vectors, element }
    }

    /// Workgroups of a whole convolution, and the multiplications and additions of each.
    pub(super) fn work(&self, params: &Params) -> Work {
        let channels = 32 * self.out_vectors;
        let plane = params.out_height as usize * params.out_width as usize;
        let tiles = plane.div_ceil(PIXELS as usize) * params.out_frames as usize;
        Work {
            workgroups: params.out_channels.div_ceil(channels) as usize * tiles,
            ops: self.conv.ops_per_output(params) * u64::from(channels * PIXELS),
        }
    }

    /// The grid that computes everything at once.
    pub fn grid(&self, params: &Params) -> [u32; 3] {
        linear_grid(self.work(params).workgroups)
    }
}

impl Kernel for Conv3dTile {
    const NAME: &'static str = "conv3d_tile";
    const SOURCE: &'static str = include_str!("../../shaders/conv3d_tile.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let widths = |conv: Conv3d| {
            let most = if conv.out_block == 4 { 1 } else { 3 };
            (1..=most).flat_map(move |out_vectors| {
                Element::ALL.map(|element| Self { conv, out_vectors, element })
            })
        };
        Conv3d::all().into_iter().flat_map(widths).collect()
    }

    fn tier(&self) -> Tier {
        self.element.tier()
    }

    fn workgroup_size(&self) -> u32 {
        256
    }

    fn constants(&self) -> Vec<Const> {
        let own = [
            Const::U32("OUT_VECTORS", self.out_vectors),
            Const::Alias("Elem", self.element.wgsl()),
        ];
        [self.conv.constants(), own.to_vec()].concat()
    }
}
