//! Latents and embedded captions as a trainer draws them.

use super::TrainError;
use super::random::{Purpose, key};
use burn::tensor::Tensor;

/// Clips for training.
///
/// Tensors are on the training device, without autodiff.
pub trait Dataset: Sync {
    /// Number of clips.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The normalized latent `[channels, frames, height, width]` and the embedded caption
    /// `[tokens, text_dim]` of clip `index`.
    ///
    /// # Errors
    ///
    /// If the clip cannot be read.
    fn clip(&self, index: usize) -> Result<(Tensor<4>, Tensor<2>), TrainError>;

    /// The embedding of no caption.
    fn empty_text(&self) -> Tensor<2>;
}

/// Clips held in memory.
#[derive(Clone, Debug)]
pub struct InMemory {
    /// Latents, and which text belongs to each.
    pub clips: Vec<(Tensor<4>, usize)>,
    /// Embedded captions.
    pub texts: Vec<Tensor<2>>,
    /// The embedding of no caption.
    pub empty_text: Tensor<2>,
}

impl Dataset for InMemory {
    fn len(&self) -> usize {
        self.clips.len()
    }

    fn clip(&self, index: usize) -> Result<(Tensor<4>, Tensor<2>), TrainError> {
        let (latent, text) = &self.clips[index];
        Ok((latent.clone(), self.texts[*text].clone()))
    }

    fn empty_text(&self) -> Tensor<2> {
        self.empty_text.clone()
    }
}

/// Which clip is the `draw`-th: every epoch has each once, in an order of its own.
pub(super) fn shuffled(seed: u64, len: usize, draw: usize) -> usize {
    let (epoch, position) = (draw / len, draw % len);
    // A permutation without a table: cycle-walking over a four-round Feistel network.
    let half_bits = (usize::BITS - (len.max(2) - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1_usize << half_bits) - 1;
    let mut x = position;
    loop {
        let (mut left, mut right) = (x >> half_bits, x & mask);
        for round in 0..4 {
            let f = key(seed, Purpose::Example, epoch * 4 + round, right) as usize & mask;
            (left, right) = (right, left ^ f);
        }
        x = left << half_bits | right;
        if x < len {
            return x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_has_every_clip_once_and_differs_from_the_next() {
        for len in [1, 2, 3, 7, 64, 1000] {
            let epoch = |e: usize| -> Vec<usize> {
                (0..len).map(|i| shuffled(5, len, e * len + i)).collect()
            };
            let mut sorted = epoch(0);
            sorted.sort_unstable();
            assert_eq!(sorted, (0..len).collect::<Vec<_>>());
            assert!(len < 7 || epoch(0) != epoch(1));
        }
    }
}
