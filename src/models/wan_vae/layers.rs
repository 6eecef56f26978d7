//! The parts that encoder and decoder share; tensors are `[channels, frames, height, width]`.

use super::config::Resampled;
use crate::models::causal_cache::Cache;
use crate::nn::{
    ChannelNorm, Conv3d, ConvShape, KeysValues, MultiHeadAttention, WeightError, Weights,
    concatenate, in_a_row,
};
use burn::tensor::Tensor;

/// A 3×3×3 convolution that continues where the chunk before ended.
#[derive(Clone, Debug)]
pub(super) struct CausalConv(Conv3d);

impl CausalConv {
    pub(super) fn load(
        weights: &Weights<'_>,
        name: &str,
        in_channels: usize,
        out_channels: usize,
    ) -> Result<Self, WeightError> {
        let shape = ConvShape::same(in_channels, out_channels, [3, 3, 3]);
        Ok(Self(Conv3d::load(weights, name, shape)?))
    }

    pub(super) fn forward(&self, x: Tensor<4>, cache: &mut Cache) -> Tensor<4> {
        let slot = cache.next();
        let y = self.0.forward(x.clone(), slot.history());
        slot.remember(&x);
        y
    }

    /// `onto` plus [`CausalConv::forward`].
    fn forward_onto(&self, onto: Tensor<4>, x: Tensor<4>, cache: &mut Cache) -> Tensor<4> {
        let slot = cache.next();
        let y = self.0.forward_onto(onto, x.clone(), slot.history());
        slot.remember(&x);
        y
    }
}

/// A convolution of single pixels.
pub(super) fn load_pointwise(
    weights: &Weights<'_>,
    name: &str,
    in_channels: usize,
    out_channels: usize,
) -> Result<Conv3d, WeightError> {
    Conv3d::load(weights, name, ConvShape::same(in_channels, out_channels, [1, 1, 1]))
}

/// `x + conv2(silu(norm2(conv1(silu(norm1 x)))))`, with a pointwise shortcut if channels change.
#[derive(Clone, Debug)]
pub(super) struct ResBlock {
    norm1: ChannelNorm,
    conv1: CausalConv,
    norm2: ChannelNorm,
    conv2: CausalConv,
    shortcut: Option<Conv3d>,
}

impl ResBlock {
    pub(super) fn load(
        weights: &Weights<'_>,
        in_channels: usize,
        out_channels: usize,
    ) -> Result<Self, WeightError> {
        let shortcut = (in_channels != out_channels)
            .then(|| load_pointwise(weights, "conv_shortcut", in_channels, out_channels))
            .transpose()?;
        Ok(Self {
            norm1: ChannelNorm::load(weights, "norm1", in_channels, 3, true)?,
            conv1: CausalConv::load(weights, "conv1", in_channels, out_channels)?,
            norm2: ChannelNorm::load(weights, "norm2", out_channels, 3, true)?,
            conv2: CausalConv::load(weights, "conv2", out_channels, out_channels)?,
            shortcut,
        })
    }

    pub(super) fn forward(&self, x: Tensor<4>, cache: &mut Cache) -> Tensor<4> {
        let y = self.conv1.forward(self.norm1.forward(x.clone()), cache);
        let y = self.norm2.forward(y);
        let x = match &self.shortcut {
            Some(shortcut) => shortcut.forward(x, None),
            None => x,
        };
        self.conv2.forward_onto(x, y, cache)
    }
}

/// Residual block, attention, residual block, at the coarsest resolution.
#[derive(Clone, Debug)]
pub(super) struct MidBlock {
    first: ResBlock,
    attention: AttentionBlock,
    last: ResBlock,
}

impl MidBlock {
    pub(super) fn load(weights: &Weights<'_>, channels: usize) -> Result<Self, WeightError> {
        Ok(Self {
            first: ResBlock::load(&weights.at("resnets.0"), channels, channels)?,
            attention: AttentionBlock::load(&weights.at("attentions.0"), channels)?,
            last: ResBlock::load(&weights.at("resnets.1"), channels, channels)?,
        })
    }

    pub(super) fn forward(&self, x: Tensor<4>, cache: &mut Cache) -> Tensor<4> {
        let x = self.first.forward(x, cache);
        let x = self.attention.forward(x);
        self.last.forward(x, cache)
    }
}

/// Attention among the pixels of a frame, one head of all channels.
#[derive(Clone, Debug)]
struct AttentionBlock {
    norm: ChannelNorm,
    to_qkv: Conv3d,
    proj: Conv3d,
}

impl AttentionBlock {
    fn load(weights: &Weights<'_>, channels: usize) -> Result<Self, WeightError> {
        let shape = |out_channels| ConvShape::same(channels, out_channels, [1, 1, 1]);
        Ok(Self {
            norm: ChannelNorm::load(weights, "norm", channels, 2, false)?,
            to_qkv: Conv3d::load_2d(weights, "to_qkv", shape(3 * channels))?,
            proj: Conv3d::load_2d(weights, "proj", shape(channels))?,
        })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [channels, frames, height, width] = x.dims();
        let attention = MultiHeadAttention::new(1, channels);
        let qkv = self.to_qkv.forward(self.norm.forward(x.clone()), None);
        let attended = (0..frames)
            .map(|frame| {
                let [q, k, v] = [0, 1, 2].map(|part| {
                    let part = qkv.clone().narrow(0, part * channels, channels);
                    part.narrow(1, frame, 1).reshape([channels, height * width]).transpose()
                });
                let attended = attention.forward(q, &[KeysValues { k, v }]).transpose();
                in_a_row(attended).reshape([channels, 1, height, width])
            })
            .collect();
        self.proj.forward_onto(x, concatenate(attended, 1), None)
    }
}

/// Twice the size in space by nearest pixels and a convolution that halves the channels;
/// optionally twice the frames before.
#[derive(Clone, Debug)]
pub(super) struct Upsample {
    time: Option<Conv3d>,
    conv: Conv3d,
}

impl Upsample {
    pub(super) fn load(
        weights: &Weights<'_>,
        channels: usize,
        resampled: Resampled,
    ) -> Result<Self, WeightError> {
        let time = ConvShape::same(channels, 2 * channels, [3, 1, 1]);
        let time = resampled.time.then(|| Conv3d::load(weights, "time_conv", time)).transpose()?;
        let conv = ConvShape::same(channels, channels / 2, [1, 3, 3]);
        let conv = ConvShape { upsample: true, ..conv };
        Ok(Self { time, conv: Conv3d::load_2d(weights, "resample.1", conv)? })
    }

    pub(super) fn forward(&self, x: Tensor<4>, cache: &mut Cache) -> Tensor<4> {
        let x = match &self.time {
            Some(time) => Self::double_frames(time, x, cache),
            None => x,
        };
        self.conv.forward(x, None)
    }

    /// Every frame becomes two, but the first of the video stays alone and is not remembered.
    fn double_frames(time: &Conv3d, x: Tensor<4>, cache: &mut Cache) -> Tensor<4> {
        let slot = cache.next();
        if slot.is_first() {
            return x;
        }
        let [channels, frames, height, width] = x.dims();
        let y = time.forward(x.clone(), slot.history());
        slot.remember(&x);
        drop(x);
        // The halves of the channels are the even and the odd frames.
        let frames_apart = y.reshape([2, channels, frames, height * width]).permute([1, 2, 0, 3]);
        in_a_row(frames_apart).reshape([channels, 2 * frames, height, width])
    }
}

/// Half the size in space by a strided convolution; optionally half the frames after.
#[derive(Clone, Debug)]
pub(super) struct Downsample {
    conv: Conv3d,
    time: Option<Conv3d>,
}

impl Downsample {
    pub(super) fn load(
        weights: &Weights<'_>,
        channels: usize,
        resampled: Resampled,
    ) -> Result<Self, WeightError> {
        let conv = ConvShape {
            stride: [1, 2, 2],
            pad_before: [0, 0, 0],
            pad_after: [1, 1],
            ..ConvShape::same(channels, channels, [1, 3, 3])
        };
        // Windows of three frames that begin with the last frame of the chunk before.
        let time = ConvShape {
            stride: [2, 1, 1],
            pad_before: [1, 0, 0],
            ..ConvShape::same(channels, channels, [3, 1, 1])
        };
        let time = resampled.time.then(|| Conv3d::load(weights, "time_conv", time)).transpose()?;
        Ok(Self { conv: Conv3d::load_2d(weights, "resample.1", conv)?, time })
    }

    pub(super) fn forward(&self, x: Tensor<4>, cache: &mut Cache) -> Tensor<4> {
        let x = self.conv.forward(x, None);
        let Some(time) = &self.time else { return x };
        let slot = cache.next();
        let history = slot.history();
        slot.remember(&x);
        // The first frame of the video passes, but the next window begins with it.
        if slot.is_first() { x } else { time.forward(x, history) }
    }
}
