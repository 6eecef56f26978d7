//! `shaders/group_moments.wgsl` — count, mean and squared differences of groups of values, part by
//! part, and the joining of those of parts.

use super::launch::{contiguous_f32, empty_like, flex_from_f32, launch, linear_grid, u32_from};
use super::params::params;
use super::{Const, Kernel, vectorized};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use rayon::prelude::*;

/// Values of a part: few enough to be in a cache the second time, and 64 for each invocation.
const PART_LEN: usize = 4096;
/// Count, mean and sum of squared differences.
pub(super) const MOMENTS: usize = 3;

/// The kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupMoments {
    /// Whether the input are moments that are joined.
    pub combine: bool,
}

params! {
    pub struct Params {
        /// Groups.
        pub groups: u32,
        /// Values, or moments, of a group.
        pub len: u32,
        /// The same of a part.
        pub part_len: u32,
        /// Parts of a group.
        pub parts: u32,
    }
}

impl Params {
    /// Groups of `len` values in parts of `part_len`.
    pub fn new(groups: usize, len: usize, part_len: usize) -> Self {
        let parts = u32_from(len.div_ceil(part_len));
        Self { groups: u32_from(groups), len: u32_from(len), part_len: u32_from(part_len), parts }
    }

    /// Shape of the result.
    fn out_shape(&self) -> [usize; 3] {
        [self.groups as usize, self.parts as usize, MOMENTS]
    }
}

impl Kernel for GroupMoments {
    const NAME: &'static str = "group_moments";
    const SOURCE: &'static str = include_str!("../../shaders/group_moments.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        [false, true].map(|combine| Self { combine }).to_vec()
    }

    fn workgroup_size(&self) -> u32 {
        64
    }

    fn constants(&self) -> Vec<Const> {
        vec![Const::Bool("COMBINE", self.combine)]
    }
}

/// Plain-Rust twin of the shader; `x` is `[groups, len]`, or `[groups, len, 3]` where moments are
/// joined, the result `[groups, parts, 3]`.
pub fn reference(kernel: GroupMoments, x: &[f32], params: Params) -> Vec<f32> {
    let width = if kernel.combine { MOMENTS } else { 1 };
    let (len, part_len) = (params.len as usize * width, params.part_len as usize * width);
    let parts: Vec<&[f32]> = x.chunks_exact(len).flat_map(|group| group.chunks(part_len)).collect();
    let moments = if kernel.combine { joined_moments } else { moments_of };
    parts.into_par_iter().flat_map_iter(moments).collect()
}

fn moments_of(values: &[f32]) -> [f32; MOMENTS] {
    let count = values.len() as f64;
    let mean = (vectorized::sum(values) / count) as f32;
    let squares: Vec<f32> = values.iter().map(|x| (x - mean) * (x - mean)).collect();
    [count as f32, mean, vectorized::sum(&squares) as f32]
}

fn joined_moments(parts: &[f32]) -> [f32; MOMENTS] {
    let parts = || parts.as_chunks::<MOMENTS>().0.iter().map(|part| part.map(f64::from));
    let count: f64 = parts().map(|[n, ..]| n).sum();
    let mean = parts().map(|[n, mean, _]| n * mean).sum::<f64>() / count;
    let squares: f64 = parts().map(|[n, part, m]| m + n * (part - mean) * (part - mean)).sum();
    [count, mean, squares].map(|value| value as f32)
}

#[backend_extension(Cube, Flex)]
trait GroupMomentsOp: Backend {
    fn group_moments(
        x: FloatTensor<Self>,
        kernel: GroupMoments,
        params: Params,
    ) -> FloatTensor<Self>;
}

impl GroupMomentsOp for CubeBackend {
    fn group_moments(
        x: FloatTensor<Self>,
        kernel: GroupMoments,
        params: Params,
    ) -> FloatTensor<Self> {
        let x = contiguous_f32(x);
        let shape = params.out_shape();
        let moments = empty_like(&x, Shape::new(shape), DType::F32);
        launch(kernel, &[&x], &[&moments], params, linear_grid(shape[0] * shape[1]));
        moments
    }
}

impl GroupMomentsOp for Flex {
    fn group_moments(
        x: FloatTensor<Self>,
        kernel: GroupMoments,
        params: Params,
    ) -> FloatTensor<Self> {
        let x = x.to_contiguous();
        flex_from_f32(reference(kernel, x.storage::<f32>(), params), params.out_shape())
    }
}

/// Count, mean and sum of squared differences from the mean, of parts of the rows of `x`.
///
/// `x` is `[groups, len]`, the result `[groups, parts, 3]`; [`combine_moments`] joins the parts, also
/// of several such results behind each other. Without gradients.
///
/// # Panics
///
/// If `x` is empty.
pub fn group_moments(x: Tensor<2>) -> Tensor<3> {
    let [groups, len] = x.dims();
    assert!(groups > 0 && len > 0, "group_moments: x is [{groups}, {len}]");
    let params = Params::new(groups, len, PART_LEN);
    let kernel = GroupMoments { combine: false };
    Tensor::from_dispatch(Dispatch::group_moments(x.into_dispatch(), kernel, params))
}

/// The moments `[groups, 3]` of whole groups from those of their parts, `[groups, parts, 3]`.
///
/// # Panics
///
/// If there are no parts.
pub fn combine_moments(parts: Tensor<3>) -> Tensor<2> {
    let [groups, count, moments] = parts.dims();
    assert!(groups * count > 0 && moments == MOMENTS, "combine_moments: {:?}", parts.dims());
    let params = Params::new(groups, count, count);
    let kernel = GroupMoments { combine: true };
    let whole: Tensor<3> =
        Tensor::from_dispatch(Dispatch::group_moments(parts.into_dispatch(), kernel, params));
    whole.reshape([groups, MOMENTS])
}
