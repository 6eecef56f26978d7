//! `shaders/group_norm.wgsl` — normalization of groups of channels whose moments are known, with a
//! factor and an offset that vary in time and space, for tensors without gradients.

use super::group_moments::MOMENTS;
use super::launch::{contiguous_f32, empty_like, flex_from_f32, launch, linear_grid, u32_from};
use super::params::params;
use super::{Const, Kernel, vectorized};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use rayon::prelude::*;

/// Pixels of an invocation.
const VALUES: u32 = 8;

/// The kernel, with or without the activation that follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupNorm {
    /// Whether `silu(v) = v / (1 + exp(−v))` is applied to the result.
    pub silu: bool,
}

params! {
    pub struct Params {
        /// Channels.
        pub channels: u32,
        /// Channels that share mean and variance.
        pub channels_per_group: u32,
        /// Frames of `x`.
        pub frames: u32,
        /// Rows of a frame of `x`.
        pub height: u32,
        /// Columns of a frame of `x`.
        pub width: u32,
        /// Frames of `factor` and `offset`.
        pub factor_frames: u32,
        /// Rows of their frames.
        pub factor_height: u32,
        /// Columns of their frames.
        pub factor_width: u32,
        /// Binary logarithm of the pixels along an axis that share a factor.
        pub shift: u32,
        /// Place of the first frame of `x` in its chunk.
        pub first_frame: u32,
        /// Frames of the chunk.
        pub chunk_frames: u32,
        /// 1 if the first frame of the chunk takes the first frame of `factor` for itself, else 0.
        pub lead: u32,
        /// Added to the variance.
        pub eps: f32,
    }
}

/// Which frames of which chunk a tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkPlace {
    /// Place of its first frame.
    pub first_frame: usize,
    /// Frames of the chunk.
    pub frames: usize,
}

impl Params {
    /// Normalization in `groups` of an `x` and a factor of these shapes.
    ///
    /// A factor of one pixel serves all pixels, one of one frame all frames. Otherwise `x` is 2ˢ
    /// times as high and wide; and if a chunk has an odd number of frames, but more than one, its
    /// first frame and that of the factor belong together.
    ///
    /// # Panics
    ///
    /// If the shapes do not fit each other.
    pub fn new(x: [usize; 4], factor: [usize; 4], groups: usize, at: ChunkPlace, eps: f32) -> Self {
        let [channels, frames, height, width] = x;
        let [factor_channels, factor_frames, factor_height, factor_width] = factor;
        assert!(at.first_frame + frames <= at.frames, "group_norm: {x:?} at {at:?}");
        assert!(channels.is_multiple_of(groups), "group_norm: {channels} channels in {groups}");
        let scale = height / factor_height;
        let is_scaled = factor_channels == channels
            && height == factor_height * scale
            && width == factor_width * scale
            && scale.is_power_of_two();
        let is_single = factor == [channels, 1, 1, 1];
        assert!(is_scaled || is_single, "group_norm: {factor:?} for {x:?}");
        let has_lead = at.frames > 1 && at.frames % 2 == 1 && factor_frames > 1;
        Self {
            channels: u32_from(channels),
            channels_per_group: u32_from(channels / groups),
            frames: u32_from(frames),
            height: u32_from(height),
            width: u32_from(width),
            factor_frames: u32_from(factor_frames),
            factor_height: u32_from(factor_height),
            factor_width: u32_from(factor_width),
            // No row or column reaches 2³¹, so that all become the single one.
            shift: if is_single { 31 } else { scale.ilog2() },
            first_frame: u32_from(at.first_frame),
            chunk_frames: u32_from(at.frames),
            lead: u32::from(has_lead),
            eps,
        }
    }

    /// Shape of `x` and the result.
    fn shape(&self) -> [usize; 4] {
        [self.channels, self.frames, self.height, self.width].map(|size| size as usize)
    }

    /// The frame of the factor that frame `frame` of `x` reads.
    pub fn factor_frame(&self, frame: usize) -> usize {
        let place = self.first_frame as usize + frame;
        let [lead, frames] = [self.lead, self.chunk_frames].map(|count| count as usize);
        if place < lead {
            return place;
        }
        lead + (place - lead) * (self.factor_frames as usize - lead) / (frames - lead)
    }
}

impl GroupNorm {
    /// The grid that normalizes everything.
    pub fn grid(&self, params: &Params) -> [u32; 3] {
        let [channels, frames, height, width] = params.shape();
        let blocks = (height * width).div_ceil((VALUES * self.workgroup_size()) as usize);
        linear_grid(channels * frames * blocks)
    }
}

impl Kernel for GroupNorm {
    const NAME: &'static str = "group_norm";
    const SOURCE: &'static str = include_str!("../../shaders/group_norm.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        [false, true].map(|silu| Self { silu }).to_vec()
    }

    fn workgroup_size(&self) -> u32 {
        64
    }

    fn constants(&self) -> Vec<Const> {
        vec![Const::Bool("SILU", self.silu)]
    }
}

/// Plain-Rust twin of the shader; `moments` is `[groups, 3]`, `x` and the result are
/// `[channels, frames, height, width]`, `factor` and `offset` of their own size.
pub fn reference(
    kernel: GroupNorm,
    x: &[f32],
    moments: &[f32],
    factor: &[f32],
    offset: &[f32],
    params: Params,
) -> Vec<f32> {
    let [_, frames, height, width] = params.shape();
    let factor_pixels = (params.factor_height * params.factor_width) as usize;
    let mut y = vec![0.0; x.len()];
    let planes = y.par_chunks_mut(height * width).zip(x.par_chunks(height * width)).enumerate();
    planes.for_each(|(plane, (y, x))| {
        let (channel, frame) = (plane / frames, plane % frames);
        let group = &moments[channel / params.channels_per_group as usize * MOMENTS..][..MOMENTS];
        let inverse_deviation = 1.0 / (group[2] / group[0] + params.eps).sqrt();
        let factor_plane = channel * params.factor_frames as usize + params.factor_frame(frame);
        let [factor, offset] =
            [factor, offset].map(|values| &values[factor_plane * factor_pixels..][..factor_pixels]);
        for (row, (y, x)) in y.chunks_mut(width).zip(x.chunks(width)).enumerate() {
            let first = (row >> params.shift) * params.factor_width as usize;
            for (column, (y, x)) in y.iter_mut().zip(x).enumerate() {
                let at = first + (column >> params.shift);
                let value = (x - group[1]) * inverse_deviation * factor[at] + offset[at];
                *y = if kernel.silu { value / (1.0 + vectorized::exp(-value)) } else { value };
            }
        }
    });
    y
}

#[backend_extension(Cube, Flex)]
trait GroupNormOp: Backend {
    fn group_norm(
        x: FloatTensor<Self>,
        moments: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        offset: FloatTensor<Self>,
        kernel: GroupNorm,
        params: Params,
    ) -> FloatTensor<Self>;
}

impl GroupNormOp for CubeBackend {
    fn group_norm(
        x: FloatTensor<Self>,
        moments: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        offset: FloatTensor<Self>,
        kernel: GroupNorm,
        params: Params,
    ) -> FloatTensor<Self> {
        let [x, moments, factor, offset] = [x, moments, factor, offset].map(contiguous_f32);
        let y = empty_like(&x, Shape::new(params.shape()), DType::F32);
        let inputs = [&x, &moments, &factor, &offset];
        launch(kernel, &inputs, &[&y], params, kernel.grid(&params));
        y
    }
}

impl GroupNormOp for Flex {
    fn group_norm(
        x: FloatTensor<Self>,
        moments: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        offset: FloatTensor<Self>,
        kernel: GroupNorm,
        params: Params,
    ) -> FloatTensor<Self> {
        let tensors = [x, moments, factor, offset].map(|tensor| tensor.to_contiguous());
        let [x, moments, factor, offset] = tensors.each_ref().map(|tensor| tensor.storage::<f32>());
        flex_from_f32(reference(kernel, x, moments, factor, offset, params), params.shape())
    }
}

/// `act((x − mean) / √(variance + eps) · factor + offset)`, mean and variance of groups of channels.
///
/// `x` is `[channels, frames, height, width]`, the frames of a chunk that `at` says; `moments`
/// `[groups, 3]` are those of the whole chunk ([`super::group_moments::combine_moments`]). `factor`
/// and `offset` are `[channels, 1, 1, 1]`, or `[channels, frames, rows, columns]` of a coarser grid,
/// read by nearest neighbor; see [`Params::new`]. Without gradients.
///
/// # Panics
///
/// If the shapes do not fit.
pub fn group_norm(
    x: Tensor<4>,
    moments: Tensor<2>,
    [factor, offset]: [Tensor<4>; 2],
    at: ChunkPlace,
    eps: f32,
    silu: bool,
) -> Tensor<4> {
    let [groups, _] = moments.dims();
    assert_eq!(factor.dims(), offset.dims(), "group_norm: factor and offset");
    let params = Params::new(x.dims(), factor.dims(), groups, at, eps);
    Tensor::from_dispatch(Dispatch::group_norm(
        x.into_dispatch(),
        moments.into_dispatch(),
        factor.into_dispatch(),
        offset.into_dispatch(),
        GroupNorm { silu },
        params,
    ))
}
