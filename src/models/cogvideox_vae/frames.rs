//! The frames of a chunk, in as many tensors as a device needs.
//!
//! Nine frames of 480×720 in 128 channels are 1.6 GB, more than many devices bind at once. Every
//! layer works frame by frame or looks back in time, so that a chunk may be cut anywhere; only the
//! moments of a normalization are of all its frames.

use crate::nn::Limits;
use burn::tensor::Tensor;

/// Elements above which a run gains no speed: 256 MiB.
const RUN_ELEMENTS: usize = 1 << 26;

/// Most frames of a run of `channels` and `pixels`, at least one.
pub(super) fn run_frames(limits: Limits, channels: usize, pixels: usize) -> usize {
    Limits { max_elements: limits.max_elements.min(RUN_ELEMENTS) }.tokens(channels * pixels)
}

/// Frames in order, in one or more runs `[channels, frames, height, width]`.
#[derive(Clone, Debug)]
pub(super) struct Frames(Vec<Tensor<4>>);

impl Frames {
    /// The frames of one tensor.
    pub(super) fn new(run: Tensor<4>) -> Self {
        Self(vec![run])
    }

    pub(super) fn runs(&self) -> &[Tensor<4>] {
        &self.0
    }

    pub(super) fn count(&self) -> usize {
        self.0.iter().map(|run| run.dims()[1]).sum()
    }

    /// Rows and columns of a frame.
    pub(super) fn pixels(&self) -> usize {
        self.0.first().map_or(0, |run| run.dims()[2] * run.dims()[3])
    }

    /// All frames in one tensor.
    pub(super) fn joined(self) -> Tensor<4> {
        joined(self.0)
    }

    /// `f` of each run and the place of its first frame, run by run in order.
    pub(super) fn map(&self, mut f: impl FnMut(Tensor<4>, usize) -> Tensor<4>) -> Self {
        let mut first = 0;
        let mut next = |run: &Tensor<4>| {
            let place = first;
            first += run.dims()[1];
            f(run.clone(), place)
        };
        Self(self.0.iter().map(&mut next).collect())
    }

    /// As [`Frames::map`] for two chunks of equal runs; each run goes as soon as it was used.
    pub(super) fn zip(
        self,
        other: Self,
        mut f: impl FnMut(Tensor<4>, Tensor<4>, usize) -> Tensor<4>,
    ) -> Self {
        let mut first = 0;
        let next = |(run, other): (Tensor<4>, Tensor<4>)| {
            let place = first;
            first += run.dims()[1];
            f(run, other, place)
        };
        Self(self.0.into_iter().zip(other.0).map(next).collect())
    }

    /// The same frames, `most` in each run but the last.
    pub(super) fn in_runs_of(self, most: usize) -> Self {
        if self.0.len() == 1 && self.count() <= most {
            return self;
        }
        let (mut runs, mut parts, mut missing) = (Vec::new(), Vec::new(), most);
        for run in self.0 {
            let (frames, mut first) = (run.dims()[1], 0);
            while first < frames {
                let taken = missing.min(frames - first);
                parts.push(part(&run, first, taken));
                (first, missing) = (first + taken, missing - taken);
                if missing == 0 {
                    runs.push(joined(std::mem::take(&mut parts)));
                    missing = most;
                }
            }
        }
        if !parts.is_empty() {
            runs.push(joined(parts));
        }
        Self(runs)
    }

    /// Every frame twice; of an odd number of frames the first one once. At most `most` in a run.
    pub(super) fn doubled(self, most: usize) -> Self {
        let lead = self.count() % 2;
        let mut runs = Vec::new();
        for (i, run) in self.0.into_iter().enumerate() {
            let lead = if i == 0 { lead } else { 0 };
            if lead == 1 {
                runs.push(part(&run, 0, 1));
            }
            let frames = run.dims()[1];
            let length = (most / 2).max(1);
            for first in (lead..frames).step_by(length) {
                let part = part(&run, first, length.min(frames - first));
                if most == 1 {
                    runs.extend([part.clone(), part]);
                } else {
                    runs.push(twice(part));
                }
            }
        }
        Self(runs).in_runs_of(most)
    }

    /// The mean of each pair of frames; of an odd number of frames the first one stays as it is. At
    /// most `most` in a run.
    pub(super) fn halved(self, most: usize) -> Self {
        let lead = self.count() % 2;
        let singles = self.in_runs_of(1).0;
        let (first, pairs) = singles.split_at(lead);
        let means = pairs.chunks_exact(2).map(|pair| (pair[0].clone() + pair[1].clone()) / 2.0);
        Self(first.iter().cloned().chain(means).collect()).in_runs_of(most)
    }
}

fn part(run: &Tensor<4>, first: usize, count: usize) -> Tensor<4> {
    if count == run.dims()[1] { run.clone() } else { run.clone().narrow(1, first, count) }
}

fn joined(mut runs: Vec<Tensor<4>>) -> Tensor<4> {
    if runs.len() == 1 { runs.remove(0) } else { Tensor::cat(runs, 1) }
}

/// Each frame and behind it the same again.
fn twice(run: Tensor<4>) -> Tensor<4> {
    let [channels, frames, height, width] = run.dims();
    let run = run.reshape([channels, frames, 1, height * width]).repeat_dim(2, 2);
    run.reshape([channels, 2 * frames, height, width])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    /// Frames of two pixels that are their number, in runs of these lengths.
    fn numbered(lengths: &[usize]) -> Frames {
        let mut number = 0.0;
        let run = |&length: &usize| {
            let values: Vec<f32> = (0..length)
                .flat_map(|_| {
                    number += 1.0;
                    [number - 1.0; 2]
                })
                .collect();
            let data = TensorData::new(values, [1, length, 1, 2]);
            Tensor::from_data(data, &Device::flex())
        };
        Frames(lengths.iter().map(run).collect())
    }

    /// Lengths of the runs, and the first pixel of each frame.
    fn content(frames: &Frames) -> (Vec<usize>, Vec<f32>) {
        let lengths = frames.runs().iter().map(|run| run.dims()[1]).collect();
        let values = frames.clone().joined().into_data().try_to_vec::<f32>().expect("f32 values");
        assert!(values.chunks(2).all(|pixels| pixels[0] == pixels[1]));
        (lengths, values.into_iter().step_by(2).collect())
    }

    #[test]
    fn runs_are_cut_and_joined_to_the_length_asked_for() {
        let all = vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        for lengths in [&[7][..], &[1, 1, 5], &[3, 4], &[1; 7]] {
            for (most, expected) in
                [(1, vec![1; 7]), (3, vec![3, 3, 1]), (7, vec![7]), (9, vec![7])]
            {
                let cut = numbered(lengths).in_runs_of(most);
                assert_eq!(content(&cut), (expected, all.clone()), "{lengths:?} by {most}");
            }
        }
    }

    #[test]
    fn the_first_of_an_odd_number_of_frames_is_neither_doubled_nor_averaged() {
        for most in [1, 2, 3, 100] {
            for lengths in [&[3][..], &[1, 2], &[2, 1]] {
                let frames = content(&numbered(lengths).doubled(most)).1;
                assert_eq!(frames, [0.0, 1.0, 1.0, 2.0, 2.0], "{lengths:?} by {most}");
            }
            assert_eq!(content(&numbered(&[1, 1]).doubled(most)).1, [0.0, 0.0, 1.0, 1.0]);
            assert_eq!(content(&numbered(&[1]).doubled(most)).1, [0.0]);
            for lengths in [&[5][..], &[2, 3], &[1; 5]] {
                assert_eq!(content(&numbered(lengths).halved(most)).1, [0.0, 1.5, 3.5]);
            }
            assert_eq!(content(&numbered(&[3, 1]).halved(most)).1, [0.5, 2.5]);
            assert_eq!(content(&numbered(&[1]).halved(most)).1, [0.0]);
        }
    }
}
