//! The blocks of a transformer: all on the device, or the last of them in host memory.

use super::WanConfig;
use super::block::WanBlock;
use crate::nn::{AttentionPrecision, HostWeights, Limits, WeightError, Weights};
use burn::tensor::Device;

/// The blocks in order.
#[derive(Debug)]
pub(super) struct Blocks {
    resident: Vec<WanBlock>,
    streamed: Vec<StreamedBlock>,
    attention: AttentionPrecision,
    device: Device,
}

/// A block in host memory.
#[derive(Debug)]
struct StreamedBlock {
    index: usize,
    weights: HostWeights,
    config: WanConfig,
    limits: Limits,
}

impl StreamedBlock {
    /// Sends the block to the device; the transfer may go on when this returns.
    fn upload(&self, device: &Device) -> WanBlock {
        let weights = Weights::new(&self.weights, device);
        WanBlock::load(&weights, &self.config, self.limits, self.index)
            .expect("the block was loaded before from the same parameters")
    }
}

impl Blocks {
    /// The blocks of the transformer at `weights`, the first `resident` of them on the device.
    ///
    /// `loaded(done, total)` is called after each.
    ///
    /// # Errors
    ///
    /// If a tensor is missing or unusable.
    pub(super) fn load(
        weights: &Weights<'_>,
        config: &WanConfig,
        limits: Limits,
        resident: usize,
        loaded: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, WeightError> {
        let mut blocks = Self {
            resident: Vec::new(),
            streamed: Vec::new(),
            attention: AttentionPrecision::default(),
            device: weights.device().clone(),
        };
        for index in 0..config.num_layers {
            let load = |weights: &Weights<'_>| WanBlock::load(weights, config, limits, index);
            if index < resident {
                blocks.resident.push(load(weights)?);
            } else {
                let (host, _) = weights.record(load)?;
                let (config, weights) = (config.clone(), host);
                blocks.streamed.push(StreamedBlock { index, weights, config, limits });
            }
            loaded(index + 1, config.num_layers);
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
    pub(super) fn for_each(&self, mut visit: impl FnMut(usize, &WanBlock)) {
        for (index, block) in self.resident.iter().enumerate() {
            visit(index, block);
        }
        let upload =
            |block: &StreamedBlock| block.upload(&self.device).with_attention(self.attention);
        let mut next = self.streamed.first().map(upload);
        for (position, streamed) in self.streamed.iter().enumerate() {
            let Some(block) = next.take() else { break };
            visit(streamed.index, &block);
            next = self.streamed.get(position + 1).map(upload);
            // A failure shows when the result is read.
            let _ = self.device.sync();
        }
    }
}
