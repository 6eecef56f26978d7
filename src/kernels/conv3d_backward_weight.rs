//! `shaders/conv3d_backward_weight.wgsl` — the gradients of a 3-D convolution's weight and bias.

use super::conv3d::{self, Conv3d, Params, Work};
use super::launch::{contiguous_f32, empty_like, flex_from_f32, linear_grid};
use super::{Const, Kernel};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Flex, Shape, backend_extension};
use burn_cubecl::CubeBackend;

/// Input channels of a workgroup.
const IN_TILE: u32 = 8;

/// The kernel, specialized to the convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv3dBackwardWeight {
    /// The convolution whose weight it is.
    pub conv: Conv3d,
}

impl Conv3dBackwardWeight {
    fn work(&self, params: &Params) -> Work {
        let vectors = self.filters(params) / 4;
        let tiles = params.in_channels.div_ceil(IN_TILE) as usize;
        let pixels: usize = params.out_shape()[1..].iter().product();
        Work {
            workgroups: vectors * tiles * self.conv.taps(),
            ops: 2 * 4 * u64::from(IN_TILE) * pixels as u64,
        }
    }

    /// The grid that computes everything at once.
    pub fn grid(&self, params: &Params) -> [u32; 3] {
        linear_grid(self.work(params).workgroups)
    }

    /// Output channels, the padding of the last block included.
    fn filters(&self, params: &Params) -> usize {
        params.out_channels.next_multiple_of(self.conv.out_block) as usize
    }

    fn weight_len(&self, params: &Params) -> usize {
        self.filters(params) * params.in_channels as usize * self.conv.taps()
    }
}

impl Kernel for Conv3dBackwardWeight {
    const NAME: &'static str = "conv3d_backward_weight";
    const SOURCE: &'static str = include_str!("../../shaders/conv3d_backward_weight.wgsl");
    type Params = Params;

    fn all() -> Vec<Self> {
        Conv3d::all().into_iter().map(|conv| Self { conv }).collect()
    }

    fn workgroup_size(&self) -> u32 {
        64
    }

    fn constants(&self) -> Vec<Const> {
        [self.conv.constants(), vec![Const::U32("IN_TILE", IN_TILE)]].concat()
    }
}

/// Plain-Rust twin of the shader: the gradients of the packed weight and of the bias, of the input
/// of the convolution and `dy [out_channels, out_frames, out_height, out_width]`.
pub fn reference(
    kernel: Conv3dBackwardWeight,
    x: &[f32],
    history: &[f32],
    dy: &[f32],
    params: Params,
) -> (Vec<f32>, Vec<f32>) {
    let frames = conv3d::joined_frames(&params, x, history);
    let mut dw = vec![0.0; kernel.weight_len(&params)];
    conv3d::for_each_term(kernel.conv, &params, |term| {
        dw[term.weight] += frames[term.input] * dy[term.output];
    });
    (dw, sums_of_channels(dy, &params))
}

/// `[out_channels]` of `dy`.
fn sums_of_channels(dy: &[f32], params: &Params) -> Vec<f32> {
    let channel_len = params.out_shape()[1..].iter().product();
    let sum = |values: &[f32]| {
        // Eight sums at a time, so that they become vectors.
        let (chunks, rest) = values.as_chunks::<8>();
        let mut sums = [0.0_f64; 8];
        for chunk in chunks {
            for (sum, value) in sums.iter_mut().zip(chunk) {
                *sum += f64::from(*value);
            }
        }
        let rest: f64 = rest.iter().map(|&value| f64::from(value)).sum();
        (sums.iter().sum::<f64>() + rest) as f32
    };
    dy.chunks_exact(channel_len).map(sum).collect()
}

#[backend_extension(Cube, Flex)]
pub(super) trait Conv3dBackwardWeightOp: Backend {
    fn conv3d_backward_weight(
        x: FloatTensor<Self>,
        history: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        kernel: Conv3dBackwardWeight,
        params: Params,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl Conv3dBackwardWeightOp for CubeBackend {
    fn conv3d_backward_weight(
        x: FloatTensor<Self>,
        history: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        kernel: Conv3dBackwardWeight,
        params: Params,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [x, history, dy] = [x, history, dy].map(contiguous_f32);
        let dw = empty_like(&dy, Shape::new([kernel.weight_len(&params)]), DType::F32);
        let d_bias = empty_like(&dy, Shape::new([params.out_channels as usize]), DType::F32);
        let work = kernel.work(&params);
        work.launch(kernel, &[&x, &history, &dy], &[&dw, &d_bias], params);
        (dw, d_bias)
    }
}

impl Conv3dBackwardWeightOp for Flex {
    fn conv3d_backward_weight(
        x: FloatTensor<Self>,
        history: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        kernel: Conv3dBackwardWeight,
        params: Params,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let tensors = [x, history, dy].map(|tensor| tensor.to_contiguous());
        let values = tensors.each_ref().map(|tensor| tensor.storage::<f32>());
        let dw = conv3d::backward_weight(kernel.conv, values, &params);
        let d_bias = sums_of_channels(values[2], &params);
        let [dw_len, d_bias_len] = [dw.len(), d_bias.len()];
        (flex_from_f32(dw, [dw_len]), flex_from_f32(d_bias, [d_bias_len]))
    }
}
