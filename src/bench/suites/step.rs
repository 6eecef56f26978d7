//! A whole denoising step of a named model with random weights, and its time by kernel.
//!
//! It is verified as a model of one layer with a small latent, against the CPU; of the whole step
//! the result must be finite and not constant.

use super::block::block_work;
use super::{Selection, check_finite, distance, network_tolerance, not_run, read};
use crate::bench::random::{matrix, values};
use crate::bench::weights::RandomWeights;
use crate::bench::{Baseline, Entry, Failure, Identity, Job, Suite, Verified, Work};
use crate::kernels::device::OpenDevice;
use crate::models::{Denoiser, DenoiserConfig, TextContext};
use crate::nn::{Limits, Trace, Weights};
use crate::quant::Precision;
use burn::tensor::{Device, Tensor, TensorData};
use std::sync::Arc;

/// A timestep in the middle.
const TIMESTEP: f32 = 500.0;

/// A model and its latent.
#[derive(Clone, Debug)]
struct Step {
    config: Arc<dyn DenoiserConfig>,
    precision: Precision,
    latent: [usize; 4],
    text: usize,
    max_elements: usize,
}

pub(super) fn entries(selection: &Selection, open: &OpenDevice) -> Vec<Entry> {
    let each = |&precision| entry(selection, precision, open.max_elements());
    selection.precisions.iter().map(each).collect()
}

fn entry(selection: &Selection, precision: Precision, max_elements: usize) -> Entry {
    let (model, size) = (&selection.step_model, selection.size);
    let (config, latent) = (model.config.clone(), model.latent(selection.frames, size));
    let tokens = config.grid_of(latent).map_or(0, |grid| grid.iter().product::<usize>());
    let case = format!("{} {}x{} {} frames", model.name, size.0, size.1, selection.frames);
    let parameters = [
        ("tokens", tokens),
        ("text_tokens", model.text_tokens),
        ("layers", config.num_layers()),
        ("dim", config.dim()),
    ];
    let name = precision.to_string();
    let identity = Identity::new(Suite::Step, case, "step", name, &parameters);
    let one = block_work(&*config, precision, tokens, model.text_tokens);
    let layers = config.num_layers() as f64;
    let work = Work {
        f32_ops: layers * one.f32_ops,
        f16_ops: layers * one.f16_ops,
        integer_ops: layers * one.integer_ops,
        bytes: layers * one.bytes,
    };
    let step = Step { config, precision, latent, text: model.text_tokens, max_elements };
    let entry = Entry::new(identity, work, latent.iter().product(), move |device| {
        Ok(Box::new(Denoise::new(&step, device)?))
    })
    .with_breakdown();
    if precision == Precision::FULL { entry.as_baseline(Baseline::F32) } else { entry }
}

/// A loaded model with its inputs.
struct Model {
    transformer: Box<dyn Denoiser>,
    latent: Tensor<4>,
    context: TextContext,
}

impl Model {
    fn new(step: &Step, weights: &RandomWeights, device: &Device) -> Result<Self, Failure> {
        let limits = Limits { max_elements: step.max_elements };
        let weights = Weights::new(weights, device);
        let transformer =
            step.config.load(&weights, limits).map_err(|err| Failure::Device(err.to_string()))?;
        let latent = values(step.latent.iter().product(), 1, 1.7);
        let latent = Tensor::from_data(TensorData::new(latent, step.latent), device);
        let text = matrix([step.text, step.config.text_dim()], 2, 1.0, device);
        let context = transformer.text_context(text, &mut Trace::off());
        Ok(Self { transformer, latent, context })
    }

    fn run(&self) -> Tensor<4> {
        self.transformer.forward(self.latent.clone(), TIMESTEP, &self.context)
    }
}

struct Denoise {
    model: Model,
    small: Model,
    expected: Vec<f32>,
    tolerance: f64,
    y: Option<Tensor<4>>,
}

impl Denoise {
    fn new(step: &Step, device: &Device) -> Result<Self, Failure> {
        if step.config.grid_of(step.latent).is_none() {
            let message = "the model has no positions for a video of that size and length";
            return Err(Failure::Skipped(message.to_owned()));
        }
        let [t, h, w] = step.config.patch();
        let small = Step {
            text: 16,
            latent: [step.config.in_channels(), t, 4 * h, 4 * w],
            config: step.config.with_num_layers(1),
            ..step.clone()
        };
        let weights = || RandomWeights::new(&*step.config, step.precision, step.max_elements);
        let expected = read(Model::new(&small, &weights(), &Device::flex())?.run())?;
        let shared = weights();
        Ok(Self {
            small: Model::new(&small, &shared, device)?,
            model: Model::new(step, &shared, device)?,
            expected,
            tolerance: network_tolerance(step.precision),
            y: None,
        })
    }
}

impl Job for Denoise {
    fn run(&mut self) {
        self.y = None;
        self.y = Some(self.model.run());
    }

    fn verify(&mut self) -> Result<Verified, Failure> {
        let y = self.y.clone().ok_or_else(not_run)?;
        let len: usize = y.dims().iter().product();
        let columns = y.dims()[3];
        let y = y.reshape([len / columns, columns]);
        check_finite(y.clone())?;
        let first = read(y.narrow(0, 0, 1))?;
        if first.iter().all(|value| *value == first[0]) {
            return Err(Failure::Differs { error: 1.0, tolerance: 0.0 });
        }
        let small = read(self.small.run())?;
        Verified::within(distance(&small, &self.expected), self.tolerance)
    }
}
