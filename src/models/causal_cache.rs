//! What the causal convolutions remember of earlier chunks.

use crate::nn::concatenate;
use burn::tensor::Tensor;

/// Frames a window of three reaches back.
pub(super) const HISTORY_FRAMES: usize = 2;

/// The memory of every convolution that looks back in time, in the order of the forward pass.
#[derive(Debug, Default)]
pub(super) struct Cache {
    slots: Vec<Slot>,
    cursor: usize,
}

impl Cache {
    /// To be called before each chunk.
    pub(super) fn rewind(&mut self) {
        self.cursor = 0;
    }

    /// The memory of the next convolution.
    pub(super) fn next(&mut self) -> &mut Slot {
        if self.cursor == self.slots.len() {
            self.slots.push(Slot::default());
        }
        self.cursor += 1;
        &mut self.slots[self.cursor - 1]
    }
}

/// The memory of one convolution.
#[derive(Debug, Default)]
pub(super) struct Slot {
    passed: bool,
    history: Option<Tensor<4>>,
}

impl Slot {
    /// Whether this is the first chunk; true once.
    ///
    /// Resampling in time lets the first frame of a video pass.
    pub(super) fn is_first(&mut self) -> bool {
        !std::mem::replace(&mut self.passed, true)
    }

    /// The last input frames of the chunks before, or at the start the first frame of `x` repeated:
    /// `[channels, 2, height, width]`.
    pub(super) fn history_or_first(&mut self, x: &Tensor<4>) -> Tensor<4> {
        let first = || Tensor::cat(vec![x.clone().narrow(1, 0, 1); HISTORY_FRAMES], 1);
        self.history.get_or_insert_with(first).clone()
    }

    /// The last input frames of the chunks before, `[channels, 1 or 2, height, width]`.
    pub(super) fn history(&self) -> Option<Tensor<4>> {
        self.history.clone()
    }

    /// Keeps the last frames of `x [channels, frames, height, width]`.
    ///
    /// To be called after the convolution, so that the old frames go before the new ones are made.
    /// They are copied, because a slice may keep the whole tensor alive.
    pub(super) fn remember(&mut self, x: &Tensor<4>) {
        let frames = x.dims()[1];
        let frame = |of: &Tensor<4>, i: usize| of.clone().narrow(1, i, 1);
        let old = self.history.take();
        self.history = Some(match (old, frames) {
            (Some(old), 1) => concatenate(vec![frame(&old, old.dims()[1] - 1), x.clone()], 1),
            (None, 1) => x.clone(),
            (old, _) => {
                drop(old);
                concatenate(vec![frame(x, frames - 2), frame(x, frames - 1)], 1)
            }
        });
    }
}
