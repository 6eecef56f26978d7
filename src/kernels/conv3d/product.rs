//! Convolution on the CPU device, and its gradients, as matrix products.
//!
//! Frames are written out channels last, with the history before them, the zeros around them and
//! doubled pixels: a window is then a few runs of neighbouring values, however it strides. Blocks
//! of windows, one per row, are multiplied with the weight by the CPU backend's product, which uses
//! the vectors that the processor has. The gradient of the input is a convolution too: of the
//! gradient of the result, spread apart by the strides, with the window reversed.
//!
//! GFLOP/s of one AMD EPYC (Zen 4) core with 3×3×3 windows, forward, to the input, to the weight:
//! 28, 26, 27 with 8 channels and 9 frames of 64×64; 53, 55, 55 with 16 and 9 of 32×32; 69, 64, 69
//! with 32 and 5 of 16×16. Direct loops over the same runs, which can rely on no more than SSE2,
//! reached 32 to 36 forward and 25 to the weight, whatever the channels, the layout not counted.

use super::padded::{Axis, Frames, Padded};
use super::windows::Windows;
use super::{Conv3d, Params};

/// `[out_channels, out_frames, out_height, out_width]`, as [`super::reference`].
pub(super) fn forward(
    kernel: Conv3d,
    [x, history, w, bias]: [&[f32]; 4],
    params: &Params,
) -> Vec<f32> {
    let input = padded_input(kernel, [x, history], params);
    let weight = unpacked(kernel, w, params);
    windows(kernel, &input, params).convolve(&weight, bias)
}

/// `[in_channels, history_frames + in_frames, in_height, in_width]`: the gradient of the history
/// and of `x` for the gradient `dy` of the result.
pub(in crate::kernels) fn backward_input(
    kernel: Conv3d,
    [dy, w]: [&[f32]; 2],
    params: &Params,
) -> Vec<f32> {
    let factor = 1 << params.upsample_shift;
    let [height, width] = [params.in_height, params.in_width].map(|size| size as usize * factor);
    let out = [params.source_frames(), height, width];
    let size = kernel.size();
    let strides = params.strides();
    // Negative where the history reaches further back than the window.
    let pads = [params.pad_t, params.pad_h, params.pad_w].map(i64::from);
    let pads = [pads[0] - i64::from(params.history_frames), pads[1], pads[2]];
    let [channels, lens @ ..] = params.out_shape();
    let axes = std::array::from_fn(|axis| {
        let pad = size[axis] as i64 - 1 - pads[axis];
        Axis::spread(out[axis] + size[axis] - 1, pad, lens[axis], strides[axis])
    });
    let dy = Frames { values: dy, count: lens[0] };
    let input = Padded::new([NO_FRAMES, dy], channels, [lens[1], lens[2]], &axes);
    let weight = reversed(&unpacked(kernel, w, params), params);
    let bias = vec![0.0; params.in_channels as usize];
    let dx = Windows { input: &input, size, strides: [1; 3], out }.convolve(&weight, &bias);
    if factor == 1 { dx } else { sums_of_2x2(&dx, width) }
}

/// The gradient of the packed weight for the gradient `dy` of the result.
pub(in crate::kernels) fn backward_weight(
    kernel: Conv3d,
    [x, history, dy]: [&[f32]; 3],
    params: &Params,
) -> Vec<f32> {
    let input = padded_input(kernel, [x, history], params);
    let [channels, out @ ..] = params.out_shape();
    let dy = Frames { values: dy, count: out[0] };
    let dy = Padded::new([NO_FRAMES, dy], channels, [out[1], out[2]], &out.map(Axis::whole));
    packed(kernel, &windows(kernel, &input, params).correlate(dy.values), params)
}

const NO_FRAMES: Frames<'static> = Frames { values: &[], count: 0 };

fn windows<'a>(kernel: Conv3d, input: &'a Padded, params: &Params) -> Windows<'a> {
    let [_, out @ ..] = params.out_shape();
    Windows { input, size: kernel.size(), strides: params.strides(), out }
}

/// History and `x` as the windows of the convolution read them.
fn padded_input(kernel: Conv3d, [x, history]: [&[f32]; 2], params: &Params) -> Padded {
    let [past, present] = [params.history_frames, params.in_frames].map(|count| count as usize);
    let [height, width] = [params.in_height, params.in_width].map(|size| size as usize);
    let [_, out @ ..] = params.out_shape();
    let (size, strides) = (kernel.size(), params.strides());
    let axis = |axis: usize, pad: i64, len: usize, shift: u32| {
        Axis::padded((out[axis] - 1) * strides[axis] + size[axis], pad, len, shift)
    };
    let pads = [params.pad_t, params.pad_h, params.pad_w].map(i64::from);
    let axes = [
        axis(0, pads[0] - past as i64, past + present, 0),
        axis(1, pads[1], height, params.upsample_shift),
        axis(2, pads[2], width, params.upsample_shift),
    ];
    let frames = [Frames { values: history, count: past }, Frames { values: x, count: present }];
    Padded::new(frames, params.in_channels as usize, [height, width], &axes)
}

/// `[taps, in_channels, out_channels]` of a packed weight.
fn unpacked(kernel: Conv3d, w: &[f32], params: &Params) -> Vec<f32> {
    let (rows, block) = (kernel.taps() * params.in_channels as usize, kernel.out_block as usize);
    let out_channels = params.out_channels as usize;
    let mut values = vec![0.0; rows * out_channels];
    for (row, values) in values.chunks_exact_mut(out_channels).enumerate() {
        for (i, values) in values.chunks_mut(block).enumerate() {
            values.copy_from_slice(&w[(i * rows + row) * block..][..values.len()]);
        }
    }
    values
}

/// The packed weight of `[taps, in_channels, out_channels]`, zero where its last block is padded.
fn packed(kernel: Conv3d, values: &[f32], params: &Params) -> Vec<f32> {
    let (rows, block) = (kernel.taps() * params.in_channels as usize, kernel.out_block as usize);
    let out_channels = params.out_channels as usize;
    let mut w = vec![0.0; rows * out_channels.next_multiple_of(block)];
    for (row, values) in values.chunks_exact(out_channels).enumerate() {
        for (i, values) in values.chunks(block).enumerate() {
            w[(i * rows + row) * block..][..values.len()].copy_from_slice(values);
        }
    }
    w
}

/// `[taps from the last to the first, out_channels, in_channels]` of `[taps, in_channels,
/// out_channels]`.
fn reversed(weight: &[f32], params: &Params) -> Vec<f32> {
    let [in_channels, out_channels] =
        [params.in_channels, params.out_channels].map(|channels| channels as usize);
    let mut values = Vec::with_capacity(weight.len());
    for tap in weight.chunks_exact(in_channels * out_channels).rev() {
        for out_channel in 0..out_channels {
            values.extend((0..in_channels).map(|c| tap[c * out_channels + out_channel]));
        }
    }
    values
}

/// Sums of 2×2 values in frames `width` wide and of even height.
fn sums_of_2x2(values: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0; values.len() / 4];
    for (sums, rows) in sums.chunks_exact_mut(width / 2).zip(values.chunks_exact(2 * width)) {
        let (above, below) = rows.split_at(width);
        let pairs = above.as_chunks::<2>().0.iter().zip(below.as_chunks::<2>().0);
        for (sum, (above, below)) in sums.iter_mut().zip(pairs) {
            *sum = (above[0] + above[1]) + (below[0] + below[1]);
        }
    }
    sums
}
