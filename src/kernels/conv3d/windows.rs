//! The windows of a convolution as rows of matrices.

use super::padded::Padded;
use crate::kernels::launch::flex_from_f32;
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use rayon::prelude::*;
use std::iter::repeat_n;
use std::ops::Range;

/// Values of a block of windows: it should stay in the second-level cache.
const BLOCK_VALUES: usize = 1 << 16;
/// Fewest windows of a block, so that the weight is not read too often.
const MIN_BLOCK_WINDOWS: usize = 32;
/// Products from which it pays to wake other threads.
const PARALLEL_PRODUCTS: usize = 1 << 24;

/// The windows over `input`, one per output place; each is a few runs of neighbouring values.
pub(super) struct Windows<'a> {
    pub(super) input: &'a Padded,
    /// Size of a window in time, height and width.
    pub(super) size: [usize; 3],
    /// Steps from one window to the next.
    pub(super) strides: [usize; 3],
    /// Windows in time, height and width.
    pub(super) out: [usize; 3],
}

/// Consecutive windows that find frames at the same taps in time.
struct Block<'a> {
    taps: &'a [usize],
    windows: Range<usize>,
    /// Of these taps, `[values of a window, out_channels]`.
    weight: FlexTensor,
}

impl Windows<'_> {
    fn len(&self) -> usize {
        self.out.iter().product()
    }

    /// Neighbouring values of a window: one of its rows.
    fn run(&self) -> usize {
        self.size[2] * self.input.channels
    }

    /// Row `[tap_t, tap_h]` of window `i`.
    fn row(&self, i: usize, [tap_t, tap_h]: [usize; 2]) -> &[f32] {
        let [_, height, width] = self.out;
        let frame = i / (height * width) * self.strides[0] + tap_t;
        let row = i / width % height * self.strides[1] + tap_h;
        let start = self.input.at([frame, row, i % width * self.strides[2]]);
        &self.input.values[start..start + self.run()]
    }

    /// Whether tap `tap_t` of the windows in `frame` reads more than zeros.
    fn reads(&self, frame: usize, tap_t: usize) -> bool {
        self.input.exists[frame * self.strides[0] + tap_t]
    }

    /// `[out_channels, windows]`: `bias` plus the products with `weight [size…, in_channels,
    /// out_channels]`.
    pub(super) fn convolve(&self, weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let taps: Vec<Vec<usize>> = (0..self.out[0])
            .map(|frame| (0..self.size[0]).filter(|&tap| self.reads(frame, tap)).collect())
            .collect();
        let blocks = self.blocks(&taps, weight, bias.len());
        let multiply = |block: &Block<'_>| self.multiply(block, bias);
        let parts: Vec<Vec<f32>> = if self.len() * weight.len() >= PARALLEL_PRODUCTS {
            blocks.par_iter().map(multiply).collect()
        } else {
            blocks.iter().map(multiply).collect()
        };
        let mut y = vec![0.0; bias.len() * self.len()];
        for (block, part) in blocks.iter().zip(&parts) {
            let part = part.chunks_exact(block.windows.len());
            for (y, part) in y.chunks_exact_mut(self.len()).zip(part) {
                y[block.windows.clone()].copy_from_slice(part);
            }
        }
        y
    }

    fn blocks<'a>(
        &self,
        taps: &'a [Vec<usize>],
        weight: &[f32],
        out_channels: usize,
    ) -> Vec<Block<'a>> {
        let (mut blocks, mut start) = (Vec::new(), 0);
        let tap_values = self.size[1] * self.run();
        for frames in taps.chunk_by(|a, b| a == b) {
            let taps = &frames[0];
            let tap_len = tap_values * out_channels;
            let chosen: Vec<&[f32]> =
                taps.iter().map(|tap| &weight[tap * tap_len..][..tap_len]).collect();
            let shape = [taps.len() * tap_values, out_channels];
            let weight = flex_from_f32(chosen.concat(), shape);
            let end = start + frames.len() * self.out[1] * self.out[2];
            let len = (BLOCK_VALUES / shape[0].max(1)).max(MIN_BLOCK_WINDOWS);
            while start < end {
                let windows = start..end.min(start + len);
                start = windows.end;
                blocks.push(Block { taps, windows, weight: weight.clone() });
            }
        }
        blocks
    }

    /// `[out_channels, windows of the block]`
    fn multiply(&self, block: &Block<'_>, bias: &[f32]) -> Vec<f32> {
        let len = block.windows.len();
        if block.taps.is_empty() {
            return bias.iter().flat_map(|&bias| repeat_n(bias, len)).collect();
        }
        let window = block.taps.len() * self.size[1] * self.run();
        let mut rows = Vec::with_capacity(len * window);
        for i in block.windows.clone() {
            for &tap_t in block.taps {
                for tap_h in 0..self.size[1] {
                    rows.extend_from_slice(self.row(i, [tap_t, tap_h]));
                }
            }
        }
        let product = Flex::float_matmul(flex_from_f32(rows, [len, window]), block.weight.clone());
        let product: &[f32] = product.storage();
        let mut y = Vec::with_capacity(product.len());
        for (channel, bias) in bias.iter().enumerate() {
            y.extend((0..len).map(|i| product[i * product.len() / len + channel] + bias));
        }
        y
    }

    /// `[size…, in_channels, out_channels]`: sums over all windows of their values times those of
    /// `dy [windows, out_channels]`.
    pub(super) fn correlate(&self, dy: Vec<f32>) -> Vec<f32> {
        let out_channels = dy.len() / self.len();
        let dy = flex_from_f32(dy, [self.len(), out_channels]);
        let rows = self.size[0] * self.size[1];
        let correlate =
            |i: usize| self.correlate_row([i / self.size[1], i % self.size[1]], &dy, out_channels);
        let parts: Vec<Vec<f32>> =
            if self.len() * rows * self.run() * out_channels >= PARALLEL_PRODUCTS {
                (0..rows).into_par_iter().map(correlate).collect()
            } else {
                (0..rows).map(correlate).collect()
            };
        parts.concat()
    }

    /// The part of [`Windows::correlate`] of one row of the window.
    fn correlate_row(&self, tap: [usize; 2], dy: &FlexTensor, out_channels: usize) -> Vec<f32> {
        let run = self.run();
        let mut sums = vec![0.0; run * out_channels];
        let len = (BLOCK_VALUES / run).max(MIN_BLOCK_WINDOWS);
        let plane = self.out[1] * self.out[2];
        for frames in self.frames_read_by(tap[0]) {
            let end = frames.end * plane;
            for start in (frames.start * plane..end).step_by(len) {
                let windows = start..end.min(start + len);
                let dy = dy.narrow(0, start, windows.len());
                let shape = [windows.len(), run];
                let mut rows = Vec::with_capacity(shape[0] * shape[1]);
                windows.for_each(|i| rows.extend_from_slice(self.row(i, tap)));
                let rows = flex_from_f32(rows, shape).transpose(0, 1);
                let product = Flex::float_matmul(rows, dy);
                for (sum, value) in sums.iter_mut().zip(product.storage::<f32>()) {
                    *sum += value;
                }
            }
        }
        sums
    }

    /// Frames of windows whose tap `tap_t` reads more than zeros.
    fn frames_read_by(&self, tap_t: usize) -> Vec<Range<usize>> {
        let frames: Vec<usize> = (0..self.out[0]).collect();
        frames
            .chunk_by(|&a, &b| self.reads(a, tap_t) == self.reads(b, tap_t))
            .filter(|frames| self.reads(frames[0], tap_t))
            .map(|frames| frames[0]..frames[0] + frames.len())
            .collect()
    }
}
