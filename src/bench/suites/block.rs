//! One transformer block of true size with random weights, by precision.
//!
//! It is verified with a few tokens against the CPU: every token's way through the block is the
//! same, and the kernels prove themselves at full size in their own suites.

use super::{ModelName, Selection, check_finite, distance, network_tolerance, not_run, read};
use crate::bench::random::matrix;
use crate::bench::weights::RandomWeights;
use crate::bench::{Baseline, Entry, Failure, Identity, Job, Suite, Verified, Work};
use crate::kernels::device::OpenDevice;
use crate::models::wan::{BlockTimestep, WanBlock, WanConfig, rotations};
use crate::nn::{KeysValues, Limits, Rotation, Trace, Weights};
use crate::quant::Precision;
use burn::tensor::{Device, Tensor};

/// Tokens that are compared with the CPU.
const CHECKED: usize = 16;

pub(super) fn entries(selection: &Selection, open: &OpenDevice) -> Vec<Entry> {
    let (model, tokens) = (selection.model, selection.block_tokens);
    let most = open.max_elements();
    selection.precisions.iter().map(|&p| entry(model, p, tokens, most)).collect()
}

fn entry(model: ModelName, precision: Precision, tokens: usize, max_elements: usize) -> Entry {
    let (config, text) = (model.config(), model.text_tokens());
    let case = format!("{} {tokens} tokens", model.name());
    let parameters = [("tokens", tokens), ("text_tokens", text), ("dim", config.dim())];
    let name = precision.to_string();
    let identity = Identity::new(Suite::Block, case, "wan block", name, &parameters);
    let work = block_work(&config, precision, tokens, text);
    let entry = Entry::new(identity, work, tokens * config.dim(), move |device| {
        let limits = Limits { max_elements };
        Ok(Box::new(Block::new(&config, precision, tokens, text, limits, device)?))
    })
    .with_breakdown();
    if precision == Precision::FULL { entry.as_baseline(Baseline::F32) } else { entry }
}

/// The least work of a block over `tokens` that attend to `text` tokens as well.
pub(super) fn block_work(
    config: &WanConfig,
    precision: Precision,
    tokens: usize,
    text: usize,
) -> Work {
    let (dim, ffn, m) = (config.dim() as f64, config.ffn_dim as f64, tokens as f64);
    let weights = 6.0 * dim * dim + 2.0 * dim * ffn;
    let linear = 2.0 * m * weights;
    let attention = 4.0 * m * (m + text as f64) * dim;
    let is_integer = precision.activations.is_some();
    let weight_bytes = precision.weights.map_or(4.0, |bits| f64::from(bits.get()) / 8.0) * weights;
    Work {
        f32_ops: attention + if is_integer { 0.0 } else { linear },
        f16_ops: 0.0,
        integer_ops: if is_integer { linear } else { 0.0 },
        bytes: weight_bytes + 8.0 * m * dim,
    }
}

/// Frames, patch rows and patch columns of some tokens.
fn grid(tokens: usize) -> Result<[usize; 3], Failure> {
    let grid = match tokens {
        t if t.is_multiple_of(1560) => [t / 1560, 30, 52],
        t if t.is_multiple_of(8) => [1, 8, t / 8],
        t => [1, 1, t],
    };
    let most = WanConfig::wan2_1_t2v_1_3b().rope_max_seq_len;
    if grid.iter().all(|&size| (1..=most).contains(&size)) {
        Ok(grid)
    } else {
        Err(Failure::Skipped(format!("{tokens} tokens make no video: use a multiple of 1560")))
    }
}

/// Inputs of a block.
struct Inputs {
    hidden: Vec<Tensor<2>>,
    timestep: BlockTimestep,
    rotations: Vec<Rotation>,
    text: KeysValues,
}

impl Inputs {
    fn new(
        config: &WanConfig,
        block: &WanBlock,
        [tokens, text]: [usize; 2],
        limits: Limits,
        device: &Device,
    ) -> Result<Self, Failure> {
        let dim = config.dim();
        let hidden = matrix([tokens, dim], 1, 1.0, device);
        Ok(Self {
            hidden: hidden.split(limits.tokens(dim), 0),
            timestep: block.timestep(&matrix([6, dim], 2, 1.0, device)),
            rotations: rotations(config, grid(tokens)?, limits, device),
            text: block.text_keys_values(&matrix([text, dim], 3, 1.0, device)),
        })
    }

    fn run(&self, block: &WanBlock) -> Vec<Tensor<2>> {
        let (hidden, off) = (self.hidden.clone(), &mut Trace::off());
        block.forward(hidden, &self.timestep, &self.rotations, &self.text, off)
    }
}

struct Block {
    block: WanBlock,
    inputs: Inputs,
    few: Inputs,
    expected: Vec<f32>,
    tolerance: f64,
    y: Option<Vec<Tensor<2>>>,
}

impl Block {
    fn new(
        config: &WanConfig,
        precision: Precision,
        tokens: usize,
        text: usize,
        limits: Limits,
        device: &Device,
    ) -> Result<Self, Failure> {
        let load = |device: &Device| {
            let weights = RandomWeights::new(precision, limits.max_elements);
            WanBlock::load(&Weights::new(&weights, device), config, limits, 0)
                .map_err(|err| Failure::Device(err.to_string()))
        };
        let cpu = Device::flex();
        let twin = load(&cpu)?;
        let sizes = [CHECKED, 16];
        let expected = Inputs::new(config, &twin, sizes, limits, &cpu)?.run(&twin);
        let expected = read(Tensor::cat(expected, 0))?;
        drop(twin);
        let block = load(device)?;
        Ok(Self {
            inputs: Inputs::new(config, &block, [tokens, text], limits, device)?,
            few: Inputs::new(config, &block, sizes, limits, device)?,
            block,
            expected,
            tolerance: network_tolerance(precision),
            y: None,
        })
    }
}

impl Job for Block {
    fn run(&mut self) {
        self.y = None;
        self.y = Some(self.inputs.run(&self.block));
    }

    fn verify(&mut self) -> Result<Verified, Failure> {
        for part in self.y.clone().ok_or_else(not_run)? {
            check_finite(part)?;
        }
        let few = read(Tensor::cat(self.few.run(&self.block), 0))?;
        Verified::within(distance(&few, &self.expected), self.tolerance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_become_videos_that_rotary_positions_can_address() {
        assert_eq!(grid(32_760), Ok([21, 30, 52]));
        assert_eq!(grid(64), Ok([1, 8, 8]));
        assert!(grid(8 * 1025).is_err());
    }
}
