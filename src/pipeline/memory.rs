//! What a transformer takes on the device, from its configuration alone.

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

/// Streamed blocks on the device at once: the one at work and the one on its way.
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

    /// Blocks that can stay on the device when the parameters have `room` bytes there.
    pub fn resident_blocks(&self, room: Option<u64>) -> usize {
        let Some(room) = room.filter(|&room| self.on_device(self.blocks) > room) else {
            return self.blocks;
        };
        let taken = self.rest + STREAM_SLOTS as u64 * self.block;
        let fitting = room.saturating_sub(taken) / self.block.max(1);
        usize::try_from(fitting).unwrap_or(usize::MAX).min(self.blocks.saturating_sub(STREAM_SLOTS))
    }

    /// Bytes on the device at once, `resident` blocks among them.
    pub fn on_device(&self, resident: usize) -> u64 {
        let slots = STREAM_SLOTS.min(self.blocks - resident);
        self.rest.saturating_add(self.block.saturating_mul((resident + slots) as u64))
    }

    /// Bytes of the blocks that are not resident.
    pub fn in_host_memory(&self, resident: usize) -> u64 {
        self.block.saturating_mul((self.blocks - resident) as u64)
    }
}

/// Bytes of f32 tensors of these shapes.
pub(super) fn parameter_bytes(shapes: &[(String, Vec<usize>)]) -> u64 {
    let bytes = |shape: &[usize]| shape.iter().fold(4, |n: u64, &d| n.saturating_mul(d as u64));
    shapes.iter().fold(0, |sum: u64, (_, shape)| sum.saturating_add(bytes(shape)))
}
