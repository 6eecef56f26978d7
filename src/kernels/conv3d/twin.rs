//! The plain-Rust twin of the shader, which is also the convolution of the CPU device.

use super::{Conv3d, Params};
use rayon::prelude::*;

/// Columns and output channels whose sums the twin holds in registers.
const LANES: usize = 8;
const ROWS: usize = 4;

/// Plain-Rust twin of the shader, a row of a block of output channels at a time.
pub fn reference(
    kernel: Conv3d,
    x: &[f32],
    history: &[f32],
    w: &[f32],
    bias: &[f32],
    params: Params,
) -> Vec<f32> {
    let block = kernel.out_block as usize;
    let [frames, height, width] =
        [params.out_frames, params.out_height, params.out_width].map(|size| size as usize);
    let out_channels = params.out_channels as usize;
    let (rows_per_block, padded) = (frames * height, width.next_multiple_of(LANES));
    // [blocks, frames, height, block, padded width]
    let mut blocked = vec![0.0; out_channels.div_ceil(block) * rows_per_block * block * padded];
    blocked.par_chunks_exact_mut(block * padded).enumerate().for_each(|(row, sums)| {
        let place = [row / rows_per_block, row / height % frames, row % height];
        for (channel, sums) in sums.chunks_exact_mut(padded).enumerate() {
            sums.fill(bias.get(place[0] * block + channel).copied().unwrap_or(0.0));
        }
        accumulate_row(kernel, x, history, w, &params, place, sums);
    });
    let mut y = Vec::with_capacity(out_channels * rows_per_block * width);
    for channel in 0..out_channels {
        for row in 0..rows_per_block {
            let start = (channel / block * rows_per_block + row) * block + channel % block;
            y.extend_from_slice(&blocked[start * padded..][..width]);
        }
    }
    y
}

/// Adds all taps of output row `[block, frame, row]` to `sums`, `[out_block, padded width]`.
fn accumulate_row(
    kernel: Conv3d,
    x: &[f32],
    history: &[f32],
    w: &[f32],
    params: &Params,
    [block, frame, row]: [usize; 3],
    sums: &mut [f32],
) {
    let (in_channels, out_block) = (params.in_channels as usize, kernel.out_block as usize);
    let [_, kernel_h, kernel_w] = kernel.window.map(|size| size as usize);
    let (height, width) = (params.in_height as usize, params.in_width as usize);
    let padded = sums.len() / out_block;
    let mut values = vec![0.0; in_channels * padded];
    for tap in 0..kernel.taps() {
        let tap_t = tap / (kernel_h * kernel_w);
        let Some((in_history, frame)) = source_frame(params, frame, tap_t) else { continue };
        let (source, source_frames) =
            if in_history { (history, params.history_frames) } else { (x, params.in_frames) };
        let upsampled = row * params.stride_h as usize + tap / kernel_w % kernel_h;
        let Some(row) = upsampled.checked_sub(params.pad_h as usize) else { continue };
        let row = row >> params.upsample_shift;
        if row >= height {
            continue;
        }
        for (channel, values) in values.chunks_exact_mut(padded).enumerate() {
            let start = ((channel * source_frames as usize + frame) * height + row) * width;
            gather_row(params, &source[start..][..width], tap % kernel_w, values);
        }
        let weights = in_channels * out_block;
        let weights = &w[(block * kernel.taps() + tap) * weights..][..weights];
        multiply(weights, &values, padded, sums);
    }
}

/// `sums [out_block, padded] += weightsᵀ [in_channels, out_block] · values [in_channels, padded]`,
/// a patch of `ROWS × LANES` at a time.
fn multiply(weights: &[f32], values: &[f32], padded: usize, sums: &mut [f32]) {
    let (out_rows, columns) = (sums.len() / padded / ROWS, padded / LANES);
    // Arrays of a known length, so that a patch stays in registers.
    let weights = weights.as_chunks::<ROWS>().0;
    let values = values.as_chunks::<LANES>().0;
    let sums = sums.as_chunks_mut::<LANES>().0;
    for o in 0..out_rows {
        for column in 0..columns {
            let mut patch = [[0.0_f32; LANES]; ROWS];
            for (weights, values) in
                weights.chunks_exact(out_rows).zip(values.chunks_exact(columns))
            {
                let (weights, values) = (&weights[o], &values[column]);
                // Constant ranges are unrolled; iterators were not, below the highest level.
                for row in 0..ROWS {
                    for lane in 0..LANES {
                        patch[row][lane] += weights[row] * values[lane];
                    }
                }
            }
            for (row, patch) in patch.iter().enumerate() {
                let sums = &mut sums[(o * ROWS + row) * columns + column];
                for (sum, value) in sums.iter_mut().zip(patch) {
                    *sum += value;
                }
            }
        }
    }
}

/// Which frame tap `tap_t` of output frame `frame` reads, and whether it lies in the history.
fn source_frame(params: &Params, frame: usize, tap_t: usize) -> Option<(bool, usize)> {
    let padded = frame * params.stride_t as usize + tap_t;
    let pad = params.pad_t as usize;
    match padded.checked_sub(pad) {
        Some(t) => (t < params.in_frames as usize).then_some((false, t)),
        None => (padded + params.history_frames as usize).checked_sub(pad).map(|t| (true, t)),
    }
}

/// The value under tap `tap_w` for each output column, zero beyond the borders.
fn gather_row(params: &Params, row: &[f32], tap_w: usize, values: &mut [f32]) {
    let (stride, pad) = (params.stride_w as usize, params.pad_w as usize);
    if stride == 1 && params.upsample_shift == 0 {
        values.fill(0.0);
        let (skipped, from) = (pad.saturating_sub(tap_w), tap_w.saturating_sub(pad));
        for (value, x) in values.iter_mut().skip(skipped).zip(row.iter().skip(from)) {
            *value = *x;
        }
        return;
    }
    for (column, value) in values.iter_mut().enumerate() {
        let at = (column * stride + tap_w).checked_sub(pad);
        *value = at.and_then(|at| row.get(at >> params.upsample_shift)).copied().unwrap_or(0.0);
    }
}
