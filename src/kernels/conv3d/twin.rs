//! The plain-Rust twins of the convolution and its gradients: one definition, read three ways.

use super::{Conv3d, Params};

/// One product of the convolution, `y[output] += w[weight] · frames[input]`, as indices.
pub(in crate::kernels) struct Term {
    /// Into the weight as [`super::pack_weight`] lays it out.
    pub weight: usize,
    /// Into `[in_channels, history_frames + in_frames, in_height, in_width]`.
    pub input: usize,
    /// Into `[out_channels, out_frames, out_height, out_width]`.
    pub output: usize,
}

/// Calls `visit` with every product whose input is not a zero around the frames.
pub(in crate::kernels) fn for_each_term(
    kernel: Conv3d,
    params: &Params,
    mut visit: impl FnMut(Term),
) {
    let [_, kernel_h, kernel_w] = kernel.size();
    let in_channels = params.in_channels as usize;
    let block = kernel.out_block as usize;
    let [out_channels, frames, height, width] = params.out_shape();
    let [in_frames, in_pixels] = [params.source_frames(), params.in_pixels()];
    for output in 0..out_channels * frames * height * width {
        let out_channel = output / (frames * height * width);
        let place = [output / (height * width) % frames, output / width % height, output % width];
        for tap in 0..kernel.taps() {
            let tap_place =
                [tap / (kernel_h * kernel_w), tap / kernel_w % kernel_h, tap % kernel_w];
            let Some([frame, pixel]) = source(params, place, tap_place) else { continue };
            for channel in 0..in_channels {
                let row = (out_channel / block * kernel.taps() + tap) * in_channels + channel;
                visit(Term {
                    weight: row * block + out_channel % block,
                    input: (channel * in_frames + frame) * in_pixels + pixel,
                    output,
                });
            }
        }
    }
}

/// The frame, counted from the first of the history, and the pixel that tap `tap` of output place
/// `place` reads (each in time, height and width); `None` where it reads a zero.
fn source(params: &Params, place: [usize; 3], tap: [usize; 3]) -> Option<[usize; 2]> {
    let strides = [params.stride_t, params.stride_h, params.stride_w];
    let padded: [usize; 3] =
        std::array::from_fn(|axis| place[axis] * strides[axis] as usize + tap[axis]);
    let frame = (padded[0] + params.history_frames as usize).checked_sub(params.pad_t as usize)?;
    let row = padded[1].checked_sub(params.pad_h as usize)? >> params.upsample_shift;
    let column = padded[2].checked_sub(params.pad_w as usize)? >> params.upsample_shift;
    let inside = frame < params.source_frames()
        && row < params.in_height as usize
        && column < params.in_width as usize;
    inside.then_some([frame, row * params.in_width as usize + column])
}

/// `[in_channels, history_frames + in_frames, in_height, in_width]` of `history` and `x`.
pub(in crate::kernels) fn joined_frames(params: &Params, x: &[f32], history: &[f32]) -> Vec<f32> {
    let pixels = params.in_pixels();
    let [past, present] = [params.history_frames, params.in_frames].map(|n| n as usize * pixels);
    (0..params.in_channels as usize)
        .flat_map(|channel| {
            [&history[channel * past..][..past], &x[channel * present..][..present]].concat()
        })
        .collect()
}

/// Plain-Rust twin of the shader: the definition, one product after the other.
pub fn reference(
    kernel: Conv3d,
    x: &[f32],
    history: &[f32],
    w: &[f32],
    bias: &[f32],
    params: Params,
) -> Vec<f32> {
    let frames = joined_frames(&params, x, history);
    let channel_len = params.out_shape()[1..].iter().product();
    let mut y: Vec<f32> =
        bias.iter().flat_map(|&bias| std::iter::repeat_n(bias, channel_len)).collect();
    for_each_term(kernel, &params, |term| y[term.output] += w[term.weight] * frames[term.input]);
    y
}
