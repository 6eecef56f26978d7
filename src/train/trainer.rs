//! The loop: draw, noise, ask the teacher, go back, update.

use super::TrainError;
use super::dataset::{Dataset, shuffled};
use super::gradients::{Example, Pass};
use super::optimizer::{OptimizerSettings, square_sum};
use super::parameters::Parameters;
use super::random::{self, Purpose, key};
use super::source::{GradientMap, accumulate};
use super::student::{QuantizedLayers, Spectra};
use crate::method::qvgen::{Loss, Phase};
use crate::models::{Denoiser, DenoiserConfig};
use crate::nn::{Limits, Trace};
use crate::pipeline::noising::Noising;
use crate::pipeline::padding::repeat_first_frame;
use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How often and on what a student is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoopSettings {
    /// Updates.
    pub steps: usize,
    /// Clips per update; their gradients are summed one by one.
    pub batch: usize,
    /// Start of all random numbers.
    pub seed: u64,
    /// Share of captions that are replaced by none.
    pub caption_dropout: f64,
    /// Shift of the noise levels: 1 draws them evenly, more draws noisier ones.
    pub timestep_shift: f64,
    /// Whether every block is computed twice to keep the activations of one only.
    pub recompute: bool,
}

impl Default for LoopSettings {
    fn default() -> Self {
        Self {
            steps: 1000,
            batch: 8,
            seed: 0,
            caption_dropout: 0.05,
            timestep_shift: 1.0,
            recompute: false,
        }
    }
}

impl LoopSettings {
    /// The noise level for a number in 0..1: one of 1000, shifted as sampling shifts it.
    pub fn sigma(&self, uniform: f64) -> f64 {
        let even = ((uniform * 1000.0).floor() + 1.0).min(1000.0) / 1000.0;
        self.timestep_shift * even / (1.0 + (self.timestep_shift - 1.0) * even)
    }
}

/// What an update did.
#[derive(Clone, Debug)]
pub struct StepReport {
    /// Number of the update, from 0.
    pub step: usize,
    /// Mean loss of its clips.
    pub loss: f64,
    /// Norm of the mean gradient, before clipping.
    pub gradient_norm: f64,
    /// What was left of Φ.
    pub phase: Option<Phase>,
    /// Singular values of Φ, at the first step of a phase.
    pub spectra: Option<Spectra>,
}

/// A transformer in training.
pub struct Trainer<'a> {
    /// Sizes.
    pub config: Arc<dyn DenoiserConfig>,
    /// What is trained.
    pub parameters: Parameters,
    /// What is quantized; `None` to train in full precision.
    pub layers: Option<QuantizedLayers>,
    /// The full-precision model to imitate.
    pub teacher: Option<Box<dyn Denoiser>>,
    /// How clips are mixed with noise.
    pub noising: Noising,
    /// What is compared.
    pub loss: Loss,
    /// The optimizer.
    pub optimizer: OptimizerSettings,
    /// The loop.
    pub settings: LoopSettings,
    /// The clips.
    pub data: &'a dyn Dataset,
    /// Where it runs, without autodiff.
    pub device: Device,
    /// Whether examples of a batch are computed side by side: on the CPU.
    pub parallel: bool,
    /// Largest tensors.
    pub limits: Limits,
    /// The next update.
    pub step: usize,
}

impl std::fmt::Debug for Trainer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer").field("step", &self.step).finish_non_exhaustive()
    }
}

impl Trainer<'_> {
    /// What passes need to know.
    pub fn pass(&self) -> Pass<'_> {
        Pass {
            parameters: &self.parameters,
            layers: self.layers.as_ref(),
            config: &*self.config,
            device: &self.device,
            limits: self.limits,
        }
    }

    /// One update.
    ///
    /// # Errors
    ///
    /// If a clip cannot be read, the device fails, or loss or gradients are not finite; the
    /// parameters are then as they were, but for the start of a phase.
    pub fn update(&mut self) -> Result<StepReport, TrainError> {
        let step = self.step;
        let keep = !self.settings.recompute;
        let spectra = self
            .layers
            .as_mut()
            .and_then(|layers| layers.begin_step(&mut self.parameters, step, keep));
        let (loss, mut gradients) = self.batch_gradients(step)?;
        if let Some(layers) = &self.layers {
            layers.backward(&self.parameters, &mut gradients);
        }
        let batch = self.settings.batch;
        let squares = square_sum(&gradients).map_or(Ok(0.0), scalar)?;
        let gradient_norm = squares.sqrt() / batch as f64;
        self.check_finite(step, loss, gradient_norm)?;
        let progress = (step, self.settings.steps);
        self.optimizer.update(&mut self.parameters, &gradients, gradient_norm, batch, progress);
        let phase = self.layers.as_mut().and_then(|layers| {
            layers.end_step();
            layers.phase()
        });
        self.step += 1;
        Ok(StepReport { step, loss, gradient_norm, phase, spectra })
    }

    /// Mean loss and summed gradients of the clips of `step`.
    fn batch_gradients(&self, step: usize) -> Result<(f64, GradientMap), TrainError> {
        let batch = self.settings.batch;
        let one = |index: usize| -> Result<(Tensor<1>, GradientMap), TrainError> {
            let draw = step * batch + index;
            let clip = shuffled(self.settings.seed, self.data.len(), draw);
            let example = self.example(clip, step, index)?;
            let pass = self.pass();
            let result = if self.settings.recompute {
                pass.recomputed(&example)
            } else {
                pass.whole(&example)
            };
            Ok(result?)
        };
        // As many at a time as there are threads: their gradients exist side by side. They are
        // added in the order of the clips, so that the sum does not depend on timing.
        let width = if self.parallel { rayon::current_num_threads().max(1) } else { 1 };
        let (mut loss, mut sum) = (0.0, GradientMap::new());
        let indices: Vec<usize> = (0..batch).collect();
        for chunk in indices.chunks(width) {
            let results: Vec<_> = if self.parallel {
                chunk.par_iter().map(|&index| one(index)).collect()
            } else {
                chunk.iter().map(|&index| one(index)).collect()
            };
            for result in results {
                let (value, gradients) = result?;
                loss += scalar(value)?;
                accumulate(&mut sum, gradients);
            }
        }
        Ok((loss / batch as f64, sum))
    }

    /// Clip `clip` with the noise, noise level and caption of place `index` in `step`.
    ///
    /// # Errors
    ///
    /// If the clip cannot be read or a parameter of the teacher is missing.
    pub fn example(&self, clip: usize, step: usize, index: usize) -> Result<Example, TrainError> {
        let key = |purpose| key(self.settings.seed, purpose, step, index);
        let (latent, text) = self.data.clip(clip)?;
        let is_dropped = random::uniform(key(Purpose::Dropout)) < self.settings.caption_dropout;
        let text = if is_dropped { self.data.empty_text() } else { text };
        let sigma = self.settings.sigma(random::uniform(key(Purpose::Timestep)));
        Ok(self.noised(latent, text, sigma, key(Purpose::Noise)))
    }

    /// `latent` at noise level `sigma` with the noise of `noise_key`, and what to compare with.
    pub fn noised(
        &self,
        latent: Tensor<4>,
        text: Tensor<2>,
        sigma: f64,
        noise_key: u64,
    ) -> Example {
        let frames = self.config.padded_frames(latent.dims()[1]);
        let latent = repeat_first_frame(latent, frames);
        let shape = latent.dims();
        let noise = random::normal(noise_key, 0, shape.iter().product());
        let noise = Tensor::<4>::from_data(TensorData::new(noise, shape), &self.device);
        let level = self.noising.at(sigma);
        let noisy = level.mix(latent.clone(), noise.clone());
        let mut example = Example { noisy, timestep: level.timestep, text, targets: Vec::new() };
        let of_teacher = self.loss.teacher_weight(sigma);
        if let Some(teacher) = self.teacher.as_ref().filter(|_| of_teacher > 0.0) {
            let context = teacher.text_context(example.text.clone(), &mut Trace::off());
            let velocity = teacher.forward(example.noisy.clone(), example.timestep, &context);
            example.targets.push((velocity, of_teacher as f32));
        }
        if of_teacher < 1.0 {
            let target = level.target(latent, noise);
            example.targets.push((target, (1.0 - of_teacher) as f32));
        }
        example
    }

    fn check_finite(&self, step: usize, loss: f64, norm: f64) -> Result<(), TrainError> {
        let what = match (loss.is_finite(), norm.is_finite()) {
            (true, true) => return Ok(()),
            (true, false) => "gradient",
            (false, _) => "loss",
        };
        Err(TrainError::NotFinite { step, what, layer: self.first_not_finite(step)? })
    }

    /// The first intermediate tensor of the batch of `step` that holds a value that is no number.
    fn first_not_finite(&self, step: usize) -> Result<Option<String>, TrainError> {
        for index in 0..self.settings.batch {
            let draw = step * self.settings.batch + index;
            let clip = shuffled(self.settings.seed, self.data.len(), draw);
            let example = self.example(clip, step, index)?;
            let mut found = None;
            let mut look = |name: &str, value: Tensor<2>| {
                if found.is_none() && scalar(value.abs().sum()).is_ok_and(|sum| !sum.is_finite()) {
                    found = Some(name.to_owned());
                }
            };
            self.pass().predict(&example, &mut Trace::to(&mut look))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

/// The only element of a tensor.
pub(super) fn scalar(tensor: Tensor<1>) -> Result<f64, TrainError> {
    let data = tensor.try_into_data().map_err(|err| TrainError::Device(format!("{err:?}")))?;
    let values = data.try_to_vec::<f32>().map_err(|err| TrainError::Device(err.to_string()))?;
    Ok(values.first().map_or(f64::NAN, |&value| f64::from(value)))
}
