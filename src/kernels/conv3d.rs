//! `shaders/conv3d.wgsl` — 3-D convolution with a history in time and an upsampled read in space.
//!
//! On lavapipe (llvmpipe, Mesa 25.0.7, LLVM 15, 256 bits, AMD EPYC) a 3×3×3 convolution of 96 to 96
//! channels over 4 frames of 120×208 pixels reaches 8 GFLOP per core and second, as much as Burn's
//! matrix product of 1024² values there (8). On a CPU renderer blocks of 8 and of 32 output
//! channels were a sixth slower than 16.

use super::launch::{contiguous_f32, empty_like, flex_from_f32, launch, linear_grid, u32_from};
use super::params::params;
use super::{Const, Kernel};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, Flex, Shape, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;

mod autodiff;
mod padded;
mod product;
mod twin;
mod windows;

pub(super) use product::{backward_input, backward_weight};
pub use twin::reference;
pub(super) use twin::{for_each_term, joined_frames};

/// Pixels an invocation computes.
const PIXELS: u32 = 4;

/// The kernel, specialized to a window and to how many output channels an invocation computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv3d {
    /// Window in time, height and width.
    pub window: [u32; 3],
    /// Output channels per invocation, a multiple of 4.
    pub out_block: u32,
}

impl Conv3d {
    /// The specialization for a layer: few output channels do not pay for a wide block.
    pub fn new(window: [usize; 3], out_channels: usize) -> Self {
        Self { window: window.map(u32_from), out_block: if out_channels <= 4 { 4 } else { 16 } }
    }

    /// Places of the window.
    pub(super) fn taps(&self) -> usize {
        self.size().iter().product()
    }

    /// The window as sizes.
    fn size(&self) -> [usize; 3] {
        self.window.map(|size| size as usize)
    }

    fn workgroups(&self, params: &Params) -> usize {
        let blocks = params.out_channels.div_ceil(self.out_block) as usize;
        let tile = (PIXELS * self.workgroup_size()) as usize;
        let plane = params.out_height as usize * params.out_width as usize;
        blocks * plane.div_ceil(tile) * params.out_frames as usize
    }

    /// The grid the shader is dispatched with.
    pub fn grid(&self, params: &Params) -> [u32; 3] {
        linear_grid(self.workgroups(params))
    }
}

params! {
    pub struct Params {
        /// Channels of `x`.
        pub in_channels: u32,
        /// Frames of `x`.
        pub in_frames: u32,
        /// Rows of a frame of `x`.
        pub in_height: u32,
        /// Columns of a frame of `x`.
        pub in_width: u32,
        /// Frames of `history`.
        pub history_frames: u32,
        /// Channels of `y`.
        pub out_channels: u32,
        /// Frames of `y`.
        pub out_frames: u32,
        /// Rows of a frame of `y`.
        pub out_height: u32,
        /// Columns of a frame of `y`.
        pub out_width: u32,
        /// Input frames from one output frame to the next.
        pub stride_t: u32,
        /// (Upsampled) input rows from one output row to the next.
        pub stride_h: u32,
        /// (Upsampled) input columns from one output column to the next.
        pub stride_w: u32,
        /// Frames the first window reaches back before `x`: history, and zeros before that.
        pub pad_t: u32,
        /// Zero rows above the first.
        pub pad_h: u32,
        /// Zero columns left of the first.
        pub pad_w: u32,
        /// 1 to read `x` as if each pixel were 2×2 pixels, else 0.
        pub upsample_shift: u32,
    }
}

impl Params {
    /// Frames of `history` and `x`.
    pub(super) fn source_frames(&self) -> usize {
        self.history_frames as usize + self.in_frames as usize
    }

    /// Pixels of a frame of `history` and `x`.
    pub(super) fn in_pixels(&self) -> usize {
        self.in_height as usize * self.in_width as usize
    }

    /// Shape of `y`.
    pub(super) fn out_shape(&self) -> [usize; 4] {
        [self.out_channels, self.out_frames, self.out_height, self.out_width]
            .map(|size| size as usize)
    }

    fn strides(&self) -> [usize; 3] {
        [self.stride_t, self.stride_h, self.stride_w].map(|step| step as usize)
    }
}

impl Kernel for Conv3d {
    const NAME: &'static str = "conv3d";
    const SOURCE: &'static str = include_str!("../../shaders/conv3d.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        let windows = [[1, 1, 1], [3, 1, 1], [1, 3, 3], [3, 3, 3]];
        let both = |window| [4, 16].map(|out_block| Self { window, out_block });
        windows.into_iter().flat_map(both).collect()
    }

    fn workgroup_size(&self) -> u32 {
        64
    }

    fn constants(&self) -> Vec<Const> {
        let [kernel_t, kernel_h, kernel_w] = self.window;
        vec![
            Const::U32("KERNEL_T", kernel_t),
            Const::U32("KERNEL_H", kernel_h),
            Const::U32("KERNEL_W", kernel_w),
            Const::U32("OUT_BLOCK", self.out_block),
        ]
    }
}

/// Weights as the kernel reads them, `[blocks, taps, in_channels, out_block]`, from
/// `[out_channels, in_channels, taps]`; missing output channels of the last block are zero.
///
/// # Panics
///
/// If the length of `weight` is not a multiple of `in_channels` times the taps.
pub fn pack_weight(kernel: Conv3d, weight: &[f32], in_channels: usize) -> Vec<f32> {
    let (taps, block) = (kernel.taps(), kernel.out_block as usize);
    let filter = in_channels * taps;
    assert!(weight.len().is_multiple_of(filter), "{} values, {filter} a filter", weight.len());
    let mut packed = vec![0.0; (weight.len() / filter).next_multiple_of(block) * filter];
    for (i, &value) in weight.iter().enumerate() {
        let (out_channel, in_channel, tap) = (i / filter, i / taps % in_channels, i % taps);
        let row = (out_channel / block * taps + tap) * in_channels + in_channel;
        packed[row * block + out_channel % block] = value;
    }
    packed
}

#[backend_extension(Cube, Flex, Autodiff)]
pub(super) trait Conv3dOp: Backend {
    fn conv3d(
        x: FloatTensor<Self>,
        history: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        kernel: Conv3d,
        params: Params,
    ) -> FloatTensor<Self>;
}

impl Conv3dOp for CubeBackend {
    fn conv3d(
        x: FloatTensor<Self>,
        history: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        kernel: Conv3d,
        params: Params,
    ) -> FloatTensor<Self> {
        let [x, history, w, bias] = [x, history, w, bias].map(contiguous_f32);
        let y = empty_like(&x, Shape::new(params.out_shape()), DType::F32);
        launch(kernel, &[&x, &history, &w, &bias], &[&y], params, kernel.grid(&params));
        y
    }
}

impl Conv3dOp for Flex {
    fn conv3d(
        x: FloatTensor<Self>,
        history: FloatTensor<Self>,
        w: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        kernel: Conv3d,
        params: Params,
    ) -> FloatTensor<Self> {
        let tensors = [x, history, w, bias].map(|tensor| tensor.to_contiguous());
        let values = tensors.each_ref().map(|tensor| tensor.storage::<f32>());
        flex_from_f32(product::forward(kernel, values, &params), params.out_shape())
    }
}

/// `y [out_channels, out_frames, out_height, out_width]` of `x [in_channels, in_frames, in_height,
/// in_width]`, `history [in_channels, history_frames, in_height, in_width]`, weights `w` from
/// [`pack_weight`] and `bias [out_channels]`.
///
/// `history` must hold at least one value even where `history_frames` is 0: it is always bound.
///
/// # Panics
///
/// If a tensor has not the size that `params` says.
pub fn conv3d(
    kernel: Conv3d,
    x: Tensor<4>,
    history: Tensor<4>,
    w: Tensor<1>,
    bias: Tensor<1>,
    params: Params,
) -> Tensor<4> {
    let [channels, frames] = [params.in_channels, params.in_frames].map(|n| n as usize);
    let [height, width] = [params.in_height, params.in_width].map(|n| n as usize);
    assert_eq!(x.dims(), [channels, frames, height, width], "conv3d: x against {params:?}");
    if params.history_frames > 0 {
        let expected = [channels, params.history_frames as usize, height, width];
        assert_eq!(history.dims(), expected, "conv3d: history against {params:?}");
    }
    let out_channels = params.out_channels as usize;
    let filters = out_channels.next_multiple_of(kernel.out_block as usize);
    assert_eq!(w.dims(), [filters * channels * kernel.taps()], "conv3d: w against {params:?}");
    assert_eq!(bias.dims(), [out_channels], "conv3d: bias against {params:?}");
    Tensor::from_dispatch(Dispatch::conv3d(
        x.into_dispatch(),
        history.into_dispatch(),
        w.into_dispatch(),
        bias.into_dispatch(),
        kernel,
        params,
    ))
}
