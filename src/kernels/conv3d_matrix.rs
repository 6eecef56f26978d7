//! `shaders/conv3d_matrix.wgsl` — 3-D convolution on matrix units, of f16 factors with f32 sums.
//!
//! The floor is arithmetic, at the rate of the matrix units: a 3×3×3 convolution of 96 channels does
//! 2592 products per value. Per 32 input channels of a tap, a workgroup of 96 × 128 results does
//! 393 216 products and loads 7 168 values. On a card whose multiprocessors do 1024 products of halves
//! a cycle (H100's do 2048), those take 384 cycles, and loading, at about eight instructions a pixel
//! and twelve a vector of weights, 330 on its 128 lanes: both at once, if two workgroups share it.
//! `conv3d_tile` takes 3072. Not measured on a graphics card: only a software adapter that emulates
//! the matrices was at hand, to see that it computes the same.

use super::conv3d::{Conv3d, Params, Work};
use super::element::{Element, matrix_constants};
use super::launch::linear_grid;
use super::{AdapterFacts, Const, Kernel, Tier};

pub use super::conv3d::reference;

/// The kernel, specialized to the layout of the weight, the adapter's units and how many channels
/// it computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv3dMatrix {
    /// The convolution.
    pub conv: Conv3d,
    /// Rows of matrices of a subgroup, 1 to 4: a workgroup has `2 · rows · size` output channels.
    pub rows: u32,
    /// Rows, columns and depth of a unit: 8 or 16.
    pub size: u32,
    /// Invocations of a subgroup.
    pub subgroup: u32,
}

impl Conv3dMatrix {
    /// The specialization for an adapter, if it has the units and the workgroup memory, that wastes
    /// least on channels that do not exist; wider ones read less.
    pub fn on(facts: &AdapterFacts, conv: Conv3d, out_channels: u32) -> Option<Self> {
        let (size, subgroup) = (facts.matrix_size, facts.fixed_subgroup());
        let with = |rows| Self { conv, rows, size, subgroup };
        let fits = facts.offers(Tier::Matrix)
            && Self::takes(size, subgroup)
            && with(4).workgroup_bytes() <= facts.workgroup_memory_bytes;
        // Time of a channel by the rows of its tile: what it multiplies, and its share of loading.
        let cost = |kernel: &Self| {
            let channels = out_channels.next_multiple_of(kernel.channels());
            u64::from(channels) * [32, 20, 16, 14][kernel.rows as usize - 1]
        };
        fits.then(|| (1..=4).rev().map(with).min_by_key(cost)).flatten()
    }

    /// Whether there is a form for units of that size and subgroups of so many invocations.
    fn takes(size: u32, subgroup: u32) -> bool {
        [8, 16].contains(&size) && subgroup >= size && subgroup <= 32 && subgroup.is_power_of_two()
    }

    /// Output channels of a workgroup.
    fn channels(&self) -> u32 {
        2 * self.rows * self.size
    }

    /// Pixels of a workgroup.
    fn pixels(&self) -> u32 {
        8 * self.size
    }

    /// Workgroup memory: two tiles of 32 rows of halves, and eight results.
    fn workgroup_bytes(&self) -> u32 {
        2 * 32 * (self.channels() + 8 + self.pixels() + 8) + 4 * 8 * self.size * self.size
    }

    /// Workgroups of a whole convolution, and the multiplications and additions of each.
    pub(super) fn work(&self, params: &Params) -> Work {
        let plane = params.out_height as usize * params.out_width as usize;
        let tiles = plane.div_ceil(self.pixels() as usize) * params.out_frames as usize;
        Work {
            workgroups: params.out_channels.div_ceil(self.channels()) as usize * tiles,
            ops: self.conv.ops_per_output(params) * u64::from(self.channels() * self.pixels()),
        }
    }

    /// The grid that computes everything at once.
    pub fn grid(&self, params: &Params) -> [u32; 3] {
        linear_grid(self.work(params).workgroups)
    }
}

impl Kernel for Conv3dMatrix {
    const NAME: &'static str = "conv3d_matrix";
    const SOURCE: &'static str = include_str!("../../shaders/conv3d_matrix.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let units = |conv: Conv3d| {
            let most = if conv.out_block == 4 { 2 } else { 4 };
            [(8, 8), (8, 32), (16, 32)].into_iter().flat_map(move |(size, subgroup)| {
                (1..=most).map(move |rows| Self { conv, rows, size, subgroup })
            })
        };
        Conv3d::all().into_iter().flat_map(units).collect()
    }

    fn tier(&self) -> Tier {
        Tier::Matrix
    }

    fn workgroup_size(&self) -> u32 {
        8 * self.subgroup
    }

    fn constants(&self) -> Vec<Const> {
        let own = vec![
            Const::U32("ROWS", self.rows),
            Const::U32("SUBGROUP", self.subgroup),
            Const::Alias("Elem", Element::F16.wgsl()),
        ];
        [self.conv.constants(), own, matrix_constants(self.size)].concat()
    }
}
