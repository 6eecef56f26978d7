//! One transformer block of true size with random weights, by precision.
//!
//! It is verified with a few tokens against the CPU: every token's way through the block is the
//! same, and the kernels prove themselves at full size in their own suites.

use super::{Selection, check_finite, distance, network_tolerance, not_run, read};
use crate::bench::models::Model;
use crate::bench::random::matrix;
use crate::bench::weights::RandomWeights;
use crate::bench::{Baseline, Entry, Failure, Identity, Job, Suite, Verified, Work};
use crate::kernels::device::OpenDevice;
use crate::models::DenoiserConfig;
use crate::models::denoiser::BlockPass;
use crate::nn::{Limits, Weights};
use crate::quant::Precision;
use burn::tensor::{Device, Tensor};

/// Patches that are compared with the CPU.
const CHECKED: [usize; 3] = [1, 2, 8];
/// Text tokens of the comparison.
const CHECKED_TEXT: usize = 16;

pub(super) fn entries(selection: &Selection, open: &OpenDevice) -> Vec<Entry> {
    let (model, tokens) = (&selection.model, selection.block_tokens);
    let most = open.max_elements();
    selection.precisions.iter().map(|&p| entry(model, p, tokens, most)).collect()
}

fn entry(model: &Model, precision: Precision, tokens: usize, max_elements: usize) -> Entry {
    let (config, text) = (model.config.clone(), model.text_tokens);
    let case = format!("{} {tokens} tokens", model.name);
    let parameters = [("tokens", tokens), ("text_tokens", text), ("dim", config.dim())];
    let name = precision.to_string();
    let identity = Identity::new(Suite::Block, case, "block", name, &parameters);
    let work = block_work(&*config, precision, tokens, text);
    let (largest, grid) = (tokens * config.dim(), model.grid(tokens));
    let entry = Entry::new(identity, work, largest, move |device| {
        let unaddressed = || {
            let message = format!("the model has no positions for {tokens} tokens in one video");
            Failure::Skipped(message)
        };
        let sizes = Sizes { grid: grid.ok_or_else(unaddressed)?, text };
        let limits = Limits { max_elements };
        Ok(Box::new(Block::new(&*config, precision, sizes, limits, device)?))
    })
    .with_breakdown();
    if precision == Precision::FULL { entry.as_baseline(Baseline::F32) } else { entry }
}

/// The least work of a block over `tokens` that see `text` tokens as well.
pub(super) fn block_work(
    config: &dyn DenoiserConfig,
    precision: Precision,
    tokens: usize,
    text: usize,
) -> Work {
    let (ops, m) = (config.ops(tokens, text), tokens as f64);
    let weights = ops.block_linears / (2.0 * m);
    let is_integer = precision.activations.is_some();
    let weight_bytes = precision.weights.map_or(4.0, |bits| f64::from(bits.get()) / 8.0) * weights;
    Work {
        f32_ops: ops.block_attention + if is_integer { 0.0 } else { ops.block_linears },
        f16_ops: 0.0,
        integer_ops: if is_integer { ops.block_linears } else { 0.0 },
        bytes: weight_bytes + 8.0 * m * config.dim() as f64,
    }
}

/// Patches of a video and tokens of a text.
#[derive(Clone, Copy)]
struct Sizes {
    grid: [usize; 3],
    text: usize,
}

/// A block with inputs.
struct Ready {
    block: BlockPass,
    hidden: Vec<Tensor<2>>,
}

impl Ready {
    fn new(
        config: &dyn DenoiserConfig,
        weights: &RandomWeights,
        sizes: Sizes,
        limits: Limits,
        device: &Device,
    ) -> Result<Self, Failure> {
        let weights = Weights::new(weights, device);
        let stages = config.stages(&weights, limits, sizes.grid);
        let shapes = stages.shapes(sizes.text);
        let random = |shapes: &[[usize; 2]], first: u32| -> Vec<Tensor<2>> {
            (first..).zip(shapes).map(|(seed, &shape)| matrix(shape, seed, 1.0, device)).collect()
        };
        let conditions = random(&shapes.conditions, 1000);
        let block = stages.block(0, &conditions);
        let block = block.map_err(|err| Failure::Device(err.to_string()))?;
        Ok(Self { block, hidden: random(&shapes.hidden, 1) })
    }

    fn run(&self) -> Vec<Tensor<2>> {
        (self.block)(self.hidden.clone())
    }
}

struct Block {
    ready: Ready,
    few: Ready,
    expected: Vec<f32>,
    tolerance: f64,
    y: Option<Vec<Tensor<2>>>,
}

impl Block {
    fn new(
        config: &dyn DenoiserConfig,
        precision: Precision,
        sizes: Sizes,
        limits: Limits,
        device: &Device,
    ) -> Result<Self, Failure> {
        let weights = || RandomWeights::new(config, precision, limits.max_elements);
        let few = Sizes { grid: CHECKED, text: CHECKED_TEXT };
        let expected = Ready::new(config, &weights(), few, limits, &Device::flex())?.run();
        let expected = read(Tensor::cat(expected, 0))?;
        let shared = weights();
        Ok(Self {
            ready: Ready::new(config, &shared, sizes, limits, device)?,
            few: Ready::new(config, &shared, few, limits, device)?,
            expected,
            tolerance: network_tolerance(precision),
            y: None,
        })
    }
}

impl Job for Block {
    fn run(&mut self) {
        self.y = None;
        self.y = Some(self.ready.run());
    }

    fn verify(&mut self) -> Result<Verified, Failure> {
        for part in self.y.clone().ok_or_else(not_run)? {
            check_finite(part)?;
        }
        let few = read(Tensor::cat(self.few.run(), 0))?;
        Verified::within(distance(&few, &self.expected), self.tolerance)
    }
}
