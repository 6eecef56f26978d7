//! `shaders/attention_matrix.wgsl` — attention on matrix units, of f16 factors with f32 sums.
//!
//! Floor: `4 · queries · keys · head_dim` operations per head at the rate of the matrix units. Per
//! 8 192 operations of a 16 × 16 product a subgroup reads 512 bytes (values) or 768 (keys) of
//! workgroup memory, which on an H200 (128 bytes a cycle and multiprocessor) bounds it to about 40 %
//! of that rate; scores and probabilities add 10 KiB of traffic per 64 × 32 of them. Not measured
//! there yet: it was run for correctness on lavapipe of Mesa 26 (8 × 8 matrices, which are slower
//! than `attention_patches` there: 2 to 3 GFLOP/s of CPU time against 5).

use super::AdapterFacts;
use super::attention::{Attention, Params};
use super::element::{Element, matrix_constants};
use super::launch::linear_grid;
use super::{Const, Kernel, Tier};
use burn::backend::DispatchDevice;
use burn::tensor::Device;
use burn_cubecl::CubeDevice;

/// The kernel; its twin is that of [`Attention`], from which it differs by the rounding of `q`,
/// `k`, `v` and the probabilities to f16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionMatrix {
    /// Channels per head: a multiple of `size`, at most 16 of them and 128.
    pub head_dim: u32,
    /// Edge of the matrices, 8 or 16.
    pub size: u32,
    /// Invocations of a subgroup: a multiple of `size`.
    pub subgroup: u32,
    /// How `q`, `k` and `v` are stored.
    pub element: Element,
}

impl AttentionMatrix {
    /// The kernel for heads of `head_dim` channels on a device that has such matrices, subgroups
    /// of one size, and workgroup memory for the tiles.
    pub fn on(device: &Device, head_dim: usize, element: Element) -> Option<Self> {
        match device.as_dispatch() {
            DispatchDevice::Cube(device) => Self::on_cube(device, head_dim, element),
            _ => None,
        }
    }

    pub(super) fn on_cube(device: &CubeDevice, head_dim: usize, element: Element) -> Option<Self> {
        let facts = AdapterFacts::of_cube(device);
        let (size, subgroup) = (facts.matrix_size, facts.fixed_subgroup());
        let kernel = Self { head_dim: u32::try_from(head_dim).ok()?, size, subgroup, element };
        let fits = facts.has_f16
            && size > 0
            && subgroup >= size
            && subgroup.is_multiple_of(size)
            && subgroup <= 64
            && (1..=128).contains(&head_dim)
            && kernel.head_dim.is_multiple_of(size)
            && kernel.workgroup_bytes() <= facts.workgroup_memory_bytes;
        fits.then_some(kernel)
    }

    fn workgroup_bytes(self) -> u32 {
        let Self { head_dim, size, subgroup, .. } = self;
        12 * size * (head_dim + 8) + 4 * size * (12 * size + 32) + 16 * subgroup + 4
    }

    /// The dispatch for `params`.
    pub fn grid(self, params: Params) -> [u32; 3] {
        let tiles = params.queries.div_ceil(4 * self.size) as usize;
        linear_grid(tiles * params.heads as usize)
    }

    /// The kernel whose twin says what the result is.
    pub fn twin(self) -> Attention {
        Attention { head_dim: self.head_dim }
    }
}

impl Kernel for AttentionMatrix {
    const NAME: &'static str = "attention_matrix";
    const SOURCE: &'static str = include_str!("../../shaders/attention_matrix.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for element in Element::ALL {
            for (size, subgroup) in [(8, 8), (8, 32), (16, 32)] {
                all.extend([64, 128].map(|head_dim| Self { head_dim, size, subgroup, element }));
            }
        }
        all
    }

    fn tier(&self) -> Tier {
        Tier::Matrix
    }

    fn workgroup_size(&self) -> u32 {
        4 * self.subgroup
    }

    fn constants(&self) -> Vec<Const> {
        let own = vec![
            Const::Alias("Elem", self.element.wgsl()),
            Const::U32("HEAD_DIM", self.head_dim),
            Const::U32("SUBGROUP", self.subgroup),
        ];
        [own, matrix_constants(self.size)].concat()
    }
}
