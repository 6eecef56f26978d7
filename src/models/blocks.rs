//! The blocks of a transformer: all on the device, or the last of them in host memory.

use crate::nn::{
    AttentionPrecision, HostWeights, Limits, MemoryWatch, RunClock, WeightError, Weights,
};
use burn::tensor::Device;
use std::fmt::Debug;

/// One of a transformer's equal blocks.
pub(super) trait Block: Debug + Sized {
    /// Sizes of the transformer.
    type Config: Clone + Debug;

    /// How many blocks the transformer has.
    fn count(config: &Self::Config) -> usize;

    /// Block `index` of the transformer at `weights`.
    ///
    /// # Errors
    ///
    /// If a tensor is missing or unusable.
    fn load(
        weights: &Weights<'_>,
        config: &Self::Config,
        limits: Limits,
        index: usize,
    ) -> Result<Self, WeightError>;

    /// The same with attention in another precision.
    fn with_attention(self, precision: AttentionPrecision) -> Self;
}

/// The blocks in order.
#[derive(Debug)]
pub(super) struct Blocks<B: Block> {
    resident: Vec<B>,
    streamed: Vec<StreamedBlock>,
    config: B::Config,
    limits: Limits,
    attention: AttentionPrecision,
    device: Device,
    clock: RunClock,
}

/// A block in host memory.
#[derive(Debug)]
struct StreamedBlock {
    index: usize,
    weights: HostWeights,
}

impl<B: Block> Blocks<B> {
    /// The blocks of the transformer at `weights`, the first `resident` of them on the device.
    ///
    /// `loaded(done, total)` is called after each.
    ///
    /// # Errors
    ///
    /// If a tensor is missing or unusable.
    pub(super) fn load(
        weights: &Weights<'_>,
        config: &B::Config,
        limits: Limits,
        resident: usize,
        loaded: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, WeightError> {
        let mut blocks = Self {
            resident: Vec::new(),
            streamed: Vec::new(),
            config: config.clone(),
            limits,
            attention: AttentionPrecision::default(),
            device: weights.device().clone(),
            clock: weights.clock().clone(),
        };
        let count = B::count(config);
        for index in 0..count {
            let load = |weights: &Weights<'_>| B::load(weights, config, limits, index);
            if index < resident {
                blocks.resident.push(load(weights)?);
            } else {
                let (weights, _) = weights.record(load)?;
                blocks.streamed.push(StreamedBlock { index, weights });
            }
            loaded(index + 1, count);
        }
        Ok(blocks)
    }

    /// The same with attention in another precision.
    pub(super) fn with_attention(self, attention: AttentionPrecision) -> Self {
        let resident = self.resident.into_iter().map(|block| block.with_attention(attention));
        Self { resident: resident.collect(), attention, ..self }
    }

    /// Calls `visit` with each block and its index.
    ///
    /// Streamed blocks are sent while the device is busy with the block before, so at most two of
    /// them are there at once. Waiting for the device after each keeps the host from running ahead
    /// and filling the driver's buffers with all the others.
    pub(super) fn for_each(&self, mut visit: impl FnMut(usize, &B)) {
        for (index, block) in self.resident.iter().enumerate() {
            visit(index, block);
        }
        let upload = |block: &StreamedBlock| self.upload(block);
        let mut next = self.streamed.first().map(upload);
        for (position, streamed) in self.streamed.iter().enumerate() {
            let Some(block) = next.take() else { break };
            visit(streamed.index, &block);
            next = self.streamed.get(position + 1).map(upload);
            MemoryWatch::look_at(&self.device);
            // A failure shows when the result is read.
            let _ = self.device.sync();
        }
    }

    /// Sends a block to the device; the transfer may go on when this returns.
    fn upload(&self, block: &StreamedBlock) -> B {
        let weights = Weights::new(&block.weights, &self.device).with_clock(&self.clock);
        B::load(&weights, &self.config, self.limits, block.index)
            .expect("the block was loaded before from the same parameters")
            .with_attention(self.attention)
    }
}
