//! What a transformer and a text encoder take on the device, from their configurations alone.

use crate::models::t5::T5Config;
use crate::models::{DenoiserConfig, LinearShape};
use std::collections::HashSet;

/// The parameters of a transformer, bytes.
#[derive(Clone, Copy, Debug)]
pub struct TransformerBytes {
    /// Everything outside the blocks.
    pub rest: u64,
    /// The largest block.
    pub block: u64,
    /// How many blocks there are.
    pub blocks: usize,
}

/// Streamed blocks on the device at once: the one at work and the one on its way. That one is sent
/// when the other has handed back its activations, and takes their place.
const STREAM_SLOTS: usize = 2;

impl TransformerBytes {
    /// The parameters of `config`, linear layers as large as `weight_bytes` says.
    pub fn of(config: &dyn DenoiserConfig, weight_bytes: &dyn Fn(&LinearShape) -> u64) -> Self {
        let mut total = 0_u64;
        let mut block = vec![0_u64; config.num_layers()];
        let mut add = |name: &str, bytes: u64| {
            total = total.saturating_add(bytes);
            if let Some(block) = config.block_of(name).and_then(|index| block.get_mut(index)) {
                *block = block.saturating_add(bytes);
            }
        };
        let linears = config.linears();
        for layer in &linears {
            add(&layer.name, weight_bytes(layer));
        }
        let weights: HashSet<String> =
            linears.iter().map(|layer| format!("{}.weight", layer.name)).collect();
        for (name, shape) in config.parameter_shapes() {
            if !weights.contains(&name) {
                add(&name, parameter_bytes(&[(name.clone(), shape)]));
            }
        }
        let in_blocks = block.iter().fold(0, |sum: u64, &bytes| sum.saturating_add(bytes));
        Self {
            rest: total.saturating_sub(in_blocks),
            block: block.into_iter().max().unwrap_or(0),
            blocks: config.num_layers(),
        }
    }

    /// Blocks that can stay on the device when there are `limit` bytes for the parameters and
    /// `activations` bytes of activations.
    pub fn resident_blocks(&self, limit: Option<u64>, activations: u64) -> usize {
        let fits = |resident: usize, limit: u64| {
            self.on_device(resident, activations).saturating_add(activations) <= limit
        };
        let Some(limit) = limit.filter(|&limit| !fits(self.blocks, limit)) else {
            return self.blocks;
        };
        // Fewer streamed blocks than slots save nothing.
        let most = self.blocks.saturating_sub(STREAM_SLOTS);
        (0..=most).rev().find(|&resident| fits(resident, limit)).unwrap_or(0)
    }

    /// Bytes on the device beside `activations` bytes of activations, `resident` blocks among them.
    pub fn on_device(&self, resident: usize, activations: u64) -> u64 {
        let streamed = self.blocks - resident;
        let beside = self.block.saturating_mul((resident + streamed.min(1)) as u64);
        let next = if streamed < STREAM_SLOTS { 0 } else { self.block.saturating_sub(activations) };
        self.rest.saturating_add(beside).saturating_add(next)
    }

    /// Bytes of the blocks that are not resident.
    pub fn in_host_memory(&self, resident: usize) -> u64 {
        self.block.saturating_mul((self.blocks - resident) as u64)
    }
}

/// What encoding `prompts` prompts of `tokens` tokens takes on the device: one block, its linear layers
/// as large as `weight_bytes` says, and the activations.
pub fn text_encoder_bytes(
    config: &T5Config,
    tokens: usize,
    prompts: usize,
    weight_bytes: &dyn Fn(&LinearShape) -> u64,
) -> u64 {
    let mut blocks = vec![0_u64; config.num_layers];
    let index = |name: &str| {
        let rest = name.strip_prefix("encoder.block.")?;
        rest.split('.').next()?.parse::<usize>().ok()
    };
    for layer in config.linears() {
        if let Some(block) = index(&layer.name).and_then(|index| blocks.get_mut(index)) {
            *block = block.saturating_add(weight_bytes(&layer));
        }
    }
    blocks.into_iter().max().unwrap_or(0).saturating_add(config.activation_bytes(tokens, prompts))
}

/// Bytes of f32 tensors of these shapes.
pub(super) fn parameter_bytes(shapes: &[(String, Vec<usize>)]) -> u64 {
    let bytes = |shape: &[usize]| shape.iter().fold(4, |n: u64, &d| n.saturating_mul(d as u64));
    shapes.iter().fold(0, |sum: u64, (_, shape)| sum.saturating_add(bytes(shape)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_on_its_way_takes_the_place_of_activations() {
        let model = TransformerBytes { rest: 5, block: 10, blocks: 4 };
        // All resident, two streamed, all streamed.
        let on_device = |activations| [4, 2, 0].map(|blocks| model.on_device(blocks, activations));
        assert_eq!(on_device(10), [45, 35, 15]);
        assert_eq!(on_device(3), [45, 42, 22]);
    }

    #[test]
    fn as_many_blocks_stay_as_fit_and_one_is_never_streamed_alone() {
        let model = TransformerBytes { rest: 5, block: 10, blocks: 4 };
        let resident = |limit| model.resident_blocks(limit, 20);
        assert_eq!([None, Some(65), Some(64)].map(resident), [4, 4, 2]);
        assert_eq!([55, 54, 45, 44, 0].map(|limit| resident(Some(limit))), [2, 1, 1, 0, 0]);
    }
}
