//! The parts that encoder and decoder share.

use super::CogVideoXVaeConfig;
use super::config::Level;
use super::frames::{Frames, run_frames};
use crate::models::causal_cache::{Cache, Slot};
use crate::nn::{
    ChunkPlace, Conv3d, ConvShape, FrameModulation, GroupNorm, Limits, WeightError, Weights,
};
use burn::tensor::Tensor;
use std::fmt::Debug;

/// Added to the variance by every norm that the configuration does not speak of.
pub(super) const NORM_EPS: f64 = 1e-6;

/// A 3×3×3 convolution that continues where the chunk before ended, or repeats the first frame.
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
        Ok(Self(Conv3d::load(weights, &format!("{name}.conv"), shape)?))
    }

    pub(super) fn forward(&self, x: &Frames, cache: &mut Cache) -> Frames {
        let slot = cache.next();
        x.map(|run, _| self.next_run(run, slot))
    }

    /// The convolution of the next run of frames.
    pub(super) fn next_run(&self, run: Tensor<4>, slot: &mut Slot) -> Tensor<4> {
        let history = slot.history_or_first(&run);
        let y = self.0.forward(run.clone(), Some(history));
        slot.remember(&run);
        y
    }

    /// `onto` plus [`CausalConv::next_run`].
    fn next_run_onto(&self, onto: Tensor<4>, run: Tensor<4>, slot: &mut Slot) -> Tensor<4> {
        let history = slot.history_or_first(&run);
        let y = self.0.forward_onto(onto, run.clone(), Some(history));
        slot.remember(&run);
        y
    }
}

/// A normalization, and what its result is modulated by.
pub(super) trait Norm: Clone + Debug + Sized {
    /// What the modulation is made of, for each chunk.
    type Condition;

    /// The norm `name` of a residual block.
    fn load(
        weights: &Weights<'_>,
        name: &str,
        channels: usize,
        config: &CogVideoXVaeConfig,
    ) -> Result<Self, WeightError>;

    fn group_norm(&self) -> &GroupNorm;

    /// What is done to normalized frames, weight and bias included.
    fn modulation(&self, condition: &Self::Condition) -> FrameModulation;

    /// The norm, with the moments of a chunk and followed by `silu`, of any run of it.
    fn of_chunk(&self, chunk: &Frames, condition: &Self::Condition) -> ChunkNorm<'_> {
        let norm = self.group_norm();
        ChunkNorm {
            norm,
            moments: norm.moments(chunk.runs()),
            modulation: self.modulation(condition),
            frames: chunk.count(),
        }
    }
}

/// The encoder's norm.
impl Norm for GroupNorm {
    type Condition = ();

    fn load(
        weights: &Weights<'_>,
        name: &str,
        channels: usize,
        config: &CogVideoXVaeConfig,
    ) -> Result<Self, WeightError> {
        Self::load(weights, name, channels, config.norm_num_groups, config.norm_eps)
    }

    fn group_norm(&self) -> &GroupNorm {
        self
    }

    fn modulation(&self, (): &()) -> FrameModulation {
        self.then(None)
    }
}

/// The decoder's norm: `GN(x)·conv_y(latent) + conv_b(latent)`, by nearest neighbor.
///
/// The convolutions are of single pixels, so they are applied before the latent is enlarged.
#[derive(Clone, Debug)]
pub(super) struct SpatialNorm {
    norm: GroupNorm,
    factor: Conv3d,
    offset: Conv3d,
}

impl Norm for SpatialNorm {
    /// The chunk's latent, `[latent_channels, latent frames, height, width]`.
    type Condition = Tensor<4>;

    fn load(
        weights: &Weights<'_>,
        name: &str,
        channels: usize,
        config: &CogVideoXVaeConfig,
    ) -> Result<Self, WeightError> {
        let weights = weights.at(name);
        let shape = ConvShape::same(config.latent_channels, channels, [1, 1, 1]);
        let groups = config.norm_num_groups;
        Ok(Self {
            norm: GroupNorm::load(&weights, "norm_layer", channels, groups, NORM_EPS)?,
            factor: Conv3d::load(&weights, "conv_y.conv", shape)?,
            offset: Conv3d::load(&weights, "conv_b.conv", shape)?,
        })
    }

    fn group_norm(&self) -> &GroupNorm {
        &self.norm
    }

    fn modulation(&self, latent: &Tensor<4>) -> FrameModulation {
        self.norm.then(Some(FrameModulation {
            factor: self.factor.forward(latent.clone(), None),
            offset: self.offset.forward(latent.clone(), None),
        }))
    }
}

/// A norm that has seen a chunk.
pub(super) struct ChunkNorm<'a> {
    norm: &'a GroupNorm,
    moments: Tensor<2>,
    modulation: FrameModulation,
    frames: usize,
}

impl ChunkNorm<'_> {
    /// The activated run whose first frame has that place in the chunk.
    pub(super) fn forward_silu(&self, run: Tensor<4>, first_frame: usize) -> Tensor<4> {
        let at = ChunkPlace { first_frame, frames: self.frames };
        self.norm.forward_silu(run, &self.moments, &self.modulation, at)
    }
}

/// `x + conv2(silu(norm2(conv1(silu(norm1 x)))))`, with a pointwise shortcut if channels change.
#[derive(Clone, Debug)]
pub(super) struct ResBlock<N> {
    norm1: N,
    conv1: CausalConv,
    norm2: N,
    conv2: CausalConv,
    shortcut: Option<Conv3d>,
}

impl<N: Norm> ResBlock<N> {
    pub(super) fn load(
        weights: &Weights<'_>,
        in_channels: usize,
        out_channels: usize,
        config: &CogVideoXVaeConfig,
    ) -> Result<Self, WeightError> {
        let pointwise = ConvShape::same(in_channels, out_channels, [1, 1, 1]);
        let shortcut = (in_channels != out_channels)
            .then(|| Conv3d::load(weights, "conv_shortcut", pointwise))
            .transpose()?;
        Ok(Self {
            norm1: N::load(weights, "norm1", in_channels, config)?,
            conv1: CausalConv::load(weights, "conv1", in_channels, out_channels)?,
            norm2: N::load(weights, "norm2", out_channels, config)?,
            conv2: CausalConv::load(weights, "conv2", out_channels, out_channels)?,
            shortcut,
        })
    }

    pub(super) fn forward(&self, x: Frames, condition: &N::Condition, cache: &mut Cache) -> Frames {
        let norm = self.norm1.of_chunk(&x, condition);
        let slot = cache.next();
        let h = x.map(|run, first| self.conv1.next_run(norm.forward_silu(run, first), slot));
        let norm = self.norm2.of_chunk(&h, condition);
        let slot = cache.next();
        x.zip(h, |x, h, first| {
            let onto = match &self.shortcut {
                Some(shortcut) => shortcut.forward(x, None),
                None => x,
            };
            self.conv2.next_run_onto(onto, norm.forward_silu(h, first), slot)
        })
    }
}

/// Residual blocks one after the other.
#[derive(Clone, Debug)]
pub(super) struct ResBlocks<N> {
    blocks: Vec<ResBlock<N>>,
    most_channels: usize,
}

impl<N: Norm> ResBlocks<N> {
    /// The blocks `resnets.*` of a resolution.
    pub(super) fn load(
        weights: &Weights<'_>,
        level: &Level,
        config: &CogVideoXVaeConfig,
    ) -> Result<Self, WeightError> {
        let block = |i| {
            let weights = weights.at(format!("resnets.{i}"));
            ResBlock::load(&weights, level.block_in_channels(i), level.out_channels, config)
        };
        let blocks = (0..level.blocks).map(block).collect::<Result<_, _>>()?;
        Ok(Self { blocks, most_channels: level.most_channels() })
    }

    pub(super) fn forward(
        &self,
        x: Frames,
        condition: &N::Condition,
        cache: &mut Cache,
        limits: Limits,
    ) -> Frames {
        let most = run_frames(limits, self.most_channels, x.pixels());
        let blocks = self.blocks.iter();
        blocks.fold(x.in_runs_of(most), |x, block| block.forward(x, condition, cache))
    }
}

/// `conv_out(silu(norm_out x))`.
#[derive(Clone, Debug)]
pub(super) struct Head<N> {
    pub(super) norm: N,
    pub(super) conv: CausalConv,
}

impl<N: Norm> Head<N> {
    /// All frames in one tensor: few channels are left.
    pub(super) fn forward(
        &self,
        x: &Frames,
        condition: &N::Condition,
        cache: &mut Cache,
    ) -> Tensor<4> {
        let norm = self.norm.of_chunk(x, condition);
        let slot = cache.next();
        x.map(|run, first| self.conv.next_run(norm.forward_silu(run, first), slot)).joined()
    }
}
