//! `shaders/conv3d_backward_input.wgsl` — the gradient of what a 3-D convolution reads.

use super::conv3d::{self, Conv3d, Params, Work};
use super::launch::{contiguous_f32, empty_like, flex_from_f32, linear_grid};
use super::{Const, Kernel};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Flex, Shape, backend_extension};
use burn_cubecl::CubeBackend;

/// Input channels that an invocation computes.
const IN_BLOCK: u32 = 8;
/// Pixels an invocation computes.
const PIXELS: u32 = 4;

/// The kernel, specialized to the convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv3dBackwardInput {
    /// The convolution whose input it is.
    pub conv: Conv3d,
}

impl Conv3dBackwardInput {
    fn work(&self, params: &Params) -> Work {
        let blocks = params.in_channels.div_ceil(IN_BLOCK) as usize;
        let tile = (PIXELS * self.workgroup_size()) as usize;
        let copies = 1 << (2 * params.upsample_shift);
        let products = u64::from(params.out_channels) * self.conv.taps() as u64 * copies;
        Work {
            workgroups: blocks * params.in_pixels().div_ceil(tile) * params.source_frames(),
            ops: 2 * products * u64::from(IN_BLOCK) * tile as u64,
        }
    }

    /// The grid that computes everything at once.
    pub fn grid(&self, params: &Params) -> [u32; 3] {
        linear_grid(self.work(params).workgroups)
    }
}

impl Kernel for Conv3dBackwardInput {
    const NAME: &'static str = "conv3d_backward_input";
    const SOURCE: &'static str = include_str!("../../shaders/conv3d_backward_input.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        Conv3d::all().into_iter().map(|conv| Self { conv }).collect()
    }

    fn workgroup_size(&self) -> u32 {
        64
    }

    fn constants(&self) -> Vec<Const> {
        [self.conv.constants(), vec![Const::U32("IN_BLOCK", IN_BLOCK)]].concat()
    }
}

/// Plain-Rust twin of the shader: `[in_channels, history_frames + in_frames, in_height, in_width]`,
/// the gradient of the history and then of `x`, of `dy [out_channels, out_frames, out_height,
/// out_width]` and the packed weight `w`.
pub fn reference(
    Conv3dBackwardInput { conv }: Conv3dBackwardInput,
    dy: &[f32],
    w: &[f32],
    params: Params,
) -> Vec<f32> {
    let len = params.in_channels as usize * params.source_frames() * params.in_pixels();
    let mut dx = vec![0.0; len];
    conv3d::for_each_term(conv, &params, |term| {
        dx[term.input] += w[term.weight] * dy[term.output];
    });
    dx
}

#[backend_extension(Cube, Flex)]
pub(super) trait Conv3dBackwardInputOp: Backend {
    fn conv3d_backward_input(
        dy: FloatTensor<Self>,
        w: FloatTensor<Self>,
        kernel: Conv3dBackwardInput,
        params: Params,
    ) -> FloatTensor<Self>;
}

fn shape(params: &Params) -> Shape {
    let [height, width] = [params.in_height, params.in_width].map(|size| size as usize);
    Shape::new([params.in_channels as usize, params.source_frames(), height, width])
}

impl Conv3dBackwardInputOp for CubeBackend {
    fn conv3d_backward_input(
        dy: FloatTensor<Self>,
        w: FloatTensor<Self>,
        kernel: Conv3dBackwardInput,
        params: Params,
    ) -> FloatTensor<Self> {
        let [dy, w] = [dy, w].map(contiguous_f32);
        let dx = empty_like(&dy, shape(&params), DType::F32);
        kernel.work(&params).launch(kernel, &[&dy, &w], &[&dx], params);
        dx
    }
}

impl Conv3dBackwardInputOp for Flex {
    fn conv3d_backward_input(
        dy: FloatTensor<Self>,
        w: FloatTensor<Self>,
        kernel: Conv3dBackwardInput,
        params: Params,
    ) -> FloatTensor<Self> {
        let tensors = [dy, w].map(|tensor| tensor.to_contiguous());
        let values = tensors.each_ref().map(|tensor| tensor.storage::<f32>());
        flex_from_f32(conv3d::backward_input(kernel.conv, values, &params), shape(&params))
    }
}
