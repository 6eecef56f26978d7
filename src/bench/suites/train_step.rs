//! A step of training a block, optimizer included: full precision, fake-quantized, and with Φ.
//!
//! As in training, the forward pass runs twice: once without a graph, and once more for the
//! gradients. It is verified with a few tokens against the CPU, by the gradients of the input and
//! of the first projection, and by how far the step moves that projection.

use super::{Selection, distance, not_run, read};
use crate::bench::models::Model;
use crate::bench::random::{matrix, values};
use crate::bench::{Baseline, Entry, Failure, Identity, Job, Suite, Verified, Work};
use crate::kernels::device::OpenDevice;
use crate::method::Scope;
use crate::method::qvgen::{Auxiliary, Method, Recipe};
use crate::models::DenoiserConfig;
use crate::models::denoiser::EmbeddedShapes;
use crate::nn::{Limits, Weights};
use crate::quant::{Bits, Precision};
use crate::train::{
    Group, OptimizerSettings, Parameter, ParameterSource, Parameters, QuantizedLayers, square_sum,
};
use burn::tensor::{Device, Tensor};
use std::sync::Arc;

/// Patch rows and columns that are compared with the CPU.
const FEW: [usize; 3] = [1, 2, 8];
/// Largest distance of a gradient from the CPU's: codes at ties differ.
const TOLERANCE: f64 = 0.03;

pub(super) fn entries(selection: &Selection, open: &OpenDevice) -> Vec<Entry> {
    let model = &selection.step_model;
    let frame = model.config.grid(model.latent(1, model.size));
    let grid = if model.is_pocket() { [3, 8, 8] } else { frame };
    let plain = Recipe { auxiliary: Auxiliary::None, ..Method::QDm.recipe(32, 0.5) };
    let cases = [
        ("forward, backward, AdamW", "full", None),
        ("q-dm", "w4a4", Some(plain)),
        ("qvgen, rank 32", "w4a4", Some(Method::Qvgen.recipe(32, 0.5))),
    ];
    let limits = Limits { max_elements: open.max_elements() };
    cases
        .into_iter()
        .map(|(kernel, precision, recipe)| entry(model, grid, limits, kernel, precision, recipe))
        .collect()
}

fn entry(
    model: &Model,
    grid: [usize; 3],
    limits: Limits,
    kernel: &str,
    precision: &str,
    recipe: Option<Recipe>,
) -> Entry {
    let config = model.config.with_num_layers(1);
    let (tokens, text) = (grid.iter().product::<usize>(), model.text_tokens);
    let parameters = [("tokens", tokens), ("text_tokens", text), ("dim", config.dim())];
    let case = format!("{} block, {tokens} tokens", model.name);
    let identity = Identity::new(Suite::TrainStep, case, kernel, precision, &parameters);
    // Two forward passes, and a backward pass of two products for each.
    let forward = super::block::block_work(&*config, Precision::FULL, tokens, text);
    // The optimizer reads four tensors per parameter and writes three.
    let updated = 28.0 * block_parameters(&*config) as f64;
    let bytes = 4.0 * forward.bytes + updated;
    let work = Work { f32_ops: 4.0 * forward.f32_ops, bytes, ..forward };
    let largest = tokens * config.ffn_dim();
    let is_full = recipe.is_none();
    let entry = Entry::new(identity, work, largest, move |device| {
        Ok(Box::new(Pass::new(&config, recipe.as_ref(), grid, text, limits, device)?))
    });
    if is_full { entry.as_baseline(Baseline::F32) } else { entry }
}

/// Values of the first block's tensors.
fn block_parameters(config: &dyn DenoiserConfig) -> usize {
    let shapes = config.parameter_shapes().into_iter();
    let of_block = shapes.filter(|(name, _)| config.block_of(name) == Some(0));
    of_block.map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

/// A block in training on one device.
struct Training {
    config: Arc<dyn DenoiserConfig>,
    parameters: Parameters,
    layers: Option<QuantizedLayers>,
    limits: Limits,
    device: Device,
}

/// Tokens of a pass, and what the block sees beside them.
struct Inputs {
    grid: [usize; 3],
    hidden: Vec<Tensor<2>>,
    conditions: Vec<Tensor<2>>,
}

/// Gradients of the hidden state and of the first projection, and the norm of what the step changed
/// of the latter: single values move by the sign of their gradient, which may be that of rounding.
type Outcome = [Tensor<2>; 3];

impl Training {
    fn new(
        config: &Arc<dyn DenoiserConfig>,
        recipe: Option<&Recipe>,
        limits: Limits,
        device: &Device,
    ) -> Result<Self, Failure> {
        let mut parameters = Parameters::default();
        for (seed, (name, shape)) in (0..).zip(config.parameter_shapes()) {
            if config.block_of(&name) == Some(0) {
                let inputs = shape[1..].iter().product::<usize>().max(1) as f32;
                let values = values(shape.iter().product(), seed, 1.0 / inputs.sqrt());
                parameters.insert_values(name, values, &shape, Group::Weights, device);
            }
        }
        let linears = config.block_linears();
        let bits = Some(Bits::B4);
        let precision = Precision { weights: bits, activations: bits };
        let scope = Scope::recommended(precision, config.sensitive_layers());
        let prepare = |recipe: &Recipe| {
            QuantizedLayers::prepare(&mut parameters, &linears, &scope, recipe, 1000, 0)
                .map_err(|err| Failure::Device(err.to_string()))
        };
        let layers = recipe.map(prepare).transpose()?;
        Ok(Self { config: config.clone(), parameters, layers, limits, device: device.clone() })
    }

    /// The same training on another device, before its first pass.
    fn on(&self, device: &Device) -> Self {
        let mut parameters = Parameters::default();
        for (name, parameter) in self.parameters.iter() {
            let value = parameter.value.clone().to_device(device);
            let copy = Parameter::new(value, parameter.shape.clone(), parameter.group);
            parameters.insert(name, copy);
        }
        Self {
            config: self.config.clone(),
            parameters,
            layers: self.layers.clone(),
            limits: self.limits,
            device: device.clone(),
        }
    }

    fn inputs(&self, grid: [usize; 3], text: usize) -> Inputs {
        let none = Parameters::default();
        let source = ParameterSource::plain(&none, None);
        let weights = Weights::new(&source, &self.device);
        let stages = self.config.stages(&weights, self.limits, grid);
        let EmbeddedShapes { hidden, conditions } = stages.shapes(text);
        let random = |shapes: Vec<[usize; 2]>, first: u32| {
            let one = |(seed, shape)| matrix(shape, seed, 1.0, &self.device);
            (first..).zip(shapes).map(one).collect()
        };
        Inputs { grid, hidden: random(hidden, 1), conditions: random(conditions, 1000) }
    }

    fn pass(&self, inputs: &Inputs) -> Result<Outcome, Failure> {
        let failed = |what: &str| Failure::Device(format!("there is no gradient of {what}"));
        let invalid = |err: crate::nn::WeightError| Failure::Device(err.to_string());
        let mut layers = self.layers.clone();
        let mut parameters = self.parameters.clone();
        if let Some(layers) = &mut layers {
            layers.begin_step(&mut parameters, 1, false);
        }
        let plain = ParameterSource::plain(&parameters, layers.as_ref());
        let weights = Weights::new(&plain, &self.device);
        let stages = self.config.stages(&weights, self.limits, inputs.grid);
        let block = stages.block(0, &inputs.conditions).map_err(invalid)?;
        drop(block(inputs.hidden.clone()));

        let device = self.device.clone().autodiff();
        let source = ParameterSource::graph(&parameters, layers.as_ref());
        let weights = Weights::new(&source, &device);
        let stages = self.config.stages(&weights, self.limits, inputs.grid);
        let leaves = |values: &[Tensor<2>]| -> Vec<Tensor<2>> {
            let leaf = |value: &Tensor<2>| Tensor::from_inner(value.clone()).require_grad();
            values.iter().map(leaf).collect()
        };
        let (hidden, conditions) = (leaves(&inputs.hidden), leaves(&inputs.conditions));
        let block = stages.block(0, &conditions).map_err(invalid)?;
        let out = block(hidden.clone());
        let sum = out.into_iter().map(|y| (y.clone() * y).sum()).reduce(|a, b| a + b);
        let gradients = sum.ok_or_else(|| failed("no tokens"))?.backward();
        let mut map = source.gradients(&gradients);
        if let Some(layers) = &layers {
            layers.backward(&parameters, &mut map);
        }
        let (name, of_weight) = map
            .iter()
            .find(|(name, _)| name.contains("attn1.to_q"))
            .map(|(name, gradient)| (name.clone(), gradient.clone().unsqueeze::<2>()))
            .ok_or_else(|| failed("the weights"))?;
        let squares = square_sum(&map).ok_or_else(|| failed("anything"))?;
        let norm = f64::from(read(squares)?[0]).sqrt();
        let mut updated = parameters.clone();
        OptimizerSettings::default().update(&mut updated, &map, norm, 1, (0, 1));
        let weight = |all: &Parameters| all.get(&name).map(|parameter| parameter.value.clone());
        let change = weight(&updated).zip(weight(&parameters)).map(|(new, old)| new - old);
        let change = change.ok_or_else(|| failed("the weights"))?;
        let change = (change.clone() * change).sum().sqrt().unsqueeze::<2>();
        let of_hidden: Option<Vec<_>> = hidden.iter().map(|part| part.grad(&gradients)).collect();
        let of_hidden = of_hidden.ok_or_else(|| failed("the tokens"))?;
        Ok([Tensor::cat(of_hidden, 0), of_weight, change])
    }
}

struct Pass {
    training: Training,
    inputs: Inputs,
    few: Inputs,
    expected: [Vec<f32>; 3],
    last: Option<Result<Outcome, Failure>>,
}

impl Pass {
    fn new(
        config: &Arc<dyn DenoiserConfig>,
        recipe: Option<&Recipe>,
        grid: [usize; 3],
        text: usize,
        limits: Limits,
        device: &Device,
    ) -> Result<Self, Failure> {
        let training = Training::new(config, recipe, limits, device)?;
        let twin = training.on(&Device::flex());
        let [hidden, weight, change] = twin.pass(&twin.inputs(FEW, 16))?;
        Ok(Self {
            inputs: training.inputs(grid, text),
            few: training.inputs(FEW, 16),
            training,
            expected: [read(hidden)?, read(weight)?, read(change)?],
            last: None,
        })
    }
}

impl Job for Pass {
    fn run(&mut self) {
        self.last = None;
        self.last = Some(self.training.pass(&self.inputs));
    }

    fn verify(&mut self) -> Result<Verified, Failure> {
        for outcome in self.last.clone().ok_or_else(not_run)?? {
            super::check_finite(outcome)?;
        }
        let few = self.training.pass(&self.few)?;
        let mut worst = 0.0_f64;
        for (outcome, expected) in few.into_iter().zip(&self.expected) {
            let distance = distance(&read(outcome)?, expected);
            worst = if distance.is_nan() { f64::INFINITY } else { worst.max(distance) };
        }
        Verified::within(worst, TOLERANCE)
    }
}
