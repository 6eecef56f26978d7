//! Changes of resolution, in space and in time.

use super::config::Resampled;
use super::frames::{Frames, run_frames};
use crate::nn::{Conv3d, ConvShape, Limits, WeightError, Weights};

/// Twice the size in space by nearest pixels and a convolution; optionally twice the frames.
#[derive(Clone, Debug)]
pub(super) struct Upsample {
    conv: Conv3d,
    channels: usize,
    time: bool,
}

impl Upsample {
    pub(super) fn load(
        weights: &Weights<'_>,
        channels: usize,
        resampled: Resampled,
    ) -> Result<Self, WeightError> {
        let shape = ConvShape { upsample: true, ..ConvShape::same(channels, channels, [1, 3, 3]) };
        let conv = Conv3d::load_2d(weights, "conv", shape)?;
        Ok(Self { conv, channels, time: resampled.time })
    }

    /// The convolution is of single frames, so frames are doubled behind it, which is half the work.
    pub(super) fn forward(&self, x: Frames, limits: Limits) -> Frames {
        let most = run_frames(limits, self.channels, 4 * x.pixels());
        let y = x.in_runs_of(most).map(|run, _| self.conv.forward(run, None));
        if self.time { y.doubled(most) } else { y }
    }
}

/// Half the size in space by a strided convolution; optionally half the frames before.
#[derive(Clone, Debug)]
pub(super) struct Downsample {
    conv: Conv3d,
    channels: usize,
    time: bool,
}

impl Downsample {
    pub(super) fn load(
        weights: &Weights<'_>,
        channels: usize,
        resampled: Resampled,
    ) -> Result<Self, WeightError> {
        let shape = ConvShape {
            stride: [1, 2, 2],
            pad_before: [0, 0, 0],
            pad_after: [1, 1],
            ..ConvShape::same(channels, channels, [1, 3, 3])
        };
        let conv = Conv3d::load_2d(weights, "conv", shape)?;
        Ok(Self { conv, channels, time: resampled.time })
    }

    pub(super) fn forward(&self, x: Frames, limits: Limits) -> Frames {
        let most = run_frames(limits, self.channels, x.pixels());
        let x = if self.time { x.halved(most) } else { x };
        x.map(|run, _| self.conv.forward(run, None))
    }
}
