//! Rotary positions on a grid of frames × rows × columns.
//!
//! Each axis owns some of a head's channel pairs, in the order of the axes. Pair `j` of an axis of
//! `dim` channels turns by `position · 10000^(−2j/dim)`. Angles and their functions are f64 until
//! they are stored, as in the published models.

use super::FrameTokens;
use crate::kernels::rope::rope;
use burn::tensor::{Device, Tensor, TensorData};
use std::ops::Range;

/// Base of the frequencies.
const THETA: f64 = 10_000.0;

/// Cosine and sine along one axis, `[positions, pairs]`.
#[derive(Clone, Debug)]
pub struct RopeAxis {
    cos: Vec<f32>,
    sin: Vec<f32>,
    len: usize,
    pairs: usize,
}

impl RopeAxis {
    /// An axis of tokens at `positions` that rotates `dim` channels of each head, an even number.
    pub fn new(positions: impl IntoIterator<Item = f64>, dim: usize) -> Self {
        let pairs = dim / 2;
        let frequencies: Vec<f64> =
            (0..pairs).map(|j| 1.0 / THETA.powf(2.0 * j as f64 / dim as f64)).collect();
        let mut axis = Self { cos: Vec::new(), sin: Vec::new(), len: 0, pairs };
        for position in positions {
            axis.len += 1;
            axis.cos.extend(frequencies.iter().map(|f| (position * f).cos() as f32));
            axis.sin.extend(frequencies.iter().map(|f| (position * f).sin() as f32));
        }
        axis
    }

    /// An axis of `len` tokens at the positions 0, 1, 2 …
    pub fn indices(len: usize, dim: usize) -> Self {
        Self::new((0..len).map(|position| position as f64), dim)
    }

    fn at(&self, index: usize) -> Range<usize> {
        index * self.pairs..(index + 1) * self.pairs
    }
}

/// The positions of all tokens of a video, columns fastest, frames slowest.
#[derive(Clone, Debug)]
pub struct RopeGrid {
    axes: [RopeAxis; 3],
}

impl RopeGrid {
    /// The grid of the axes time, height, width.
    pub fn new(time: RopeAxis, height: RopeAxis, width: RopeAxis) -> Self {
        Self { axes: [time, height, width] }
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.axes.iter().map(|axis| axis.len).product()
    }

    /// The rotation of some of the tokens.
    pub fn rotation(&self, tokens: Range<usize>, device: &Device) -> Rotation {
        let [time, height, width] = &self.axes;
        let plane = height.len * width.len;
        let frames = FrameTokens { first: tokens.start, per_frame: plane };
        let shape = [tokens.len(), time.pairs + height.pairs + width.pairs];
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for token in tokens {
            let indices = [token / plane, token % plane / width.len, token % width.len];
            for (axis, index) in self.axes.iter().zip(indices) {
                cos.extend_from_slice(&axis.cos[axis.at(index)]);
                sin.extend_from_slice(&axis.sin[axis.at(index)]);
            }
        }
        let tensor = |values| Tensor::from_data(TensorData::new(values, shape), device);
        Rotation { cos: tensor(cos), sin: tensor(sin), frames }
    }
}

/// How some tokens' queries and keys are rotated, `[tokens, head_dim / 2]` each, and which tokens
/// they are.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// Cosines of the angles.
    pub cos: Tensor<2>,
    /// Sines of the angles.
    pub sin: Tensor<2>,
    /// The frames of the tokens.
    pub frames: FrameTokens,
}

impl Rotation {
    /// Rotates `x` `[tokens, heads · head_dim]`.
    ///
    /// # Panics
    ///
    /// If `x` is of other tokens or another head size.
    pub fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        rope(x, self.cos.clone(), self.sin.clone())
    }
}
