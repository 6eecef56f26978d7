//! The first stage: an autoencoder that turns clips into latents and back.
//!
//! It is trained on single frames first and on whole clips later: what a picture looks like is
//! most of what it has to learn, and a frame takes a fraction of the time of a clip.

use crate::models::wan_vae::{WanVaeConfig, WanVaeDecoder, WanVaeEncoder};
use crate::nn::Weights;
use crate::train::TrainError;
use crate::train::optimizer::{OptimizerSettings, square_sum};
use crate::train::parameters::{Group, Parameters};
use crate::train::random::{self, Purpose, key};
use crate::train::source::{GradientMap, ParameterSource, accumulate};
use crate::train::trainer::scalar;
use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

/// Weight of the divergence of the latents from a standard normal distribution.
const KL_WEIGHT: f64 = 1e-5;

/// The clip or frame for an item of a step: `[3, frames, height, width]` in −1…1.
type Clips<'a> = dyn Fn(usize, usize) -> (Vec<f32>, [usize; 4]) + Sync + 'a;

/// The autoencoder in training.
#[derive(Debug)]
pub(super) struct AutoencoderTrainer {
    /// Sizes.
    pub(super) config: WanVaeConfig,
    /// What is trained.
    pub(super) parameters: Parameters,
    /// The optimizer.
    pub(super) optimizer: OptimizerSettings,
    /// Updates.
    pub(super) steps: usize,
    /// Clips per update.
    pub(super) batch: usize,
    /// Start of all random numbers.
    pub(super) seed: u64,
    /// Where it runs, without autodiff.
    pub(super) device: Device,
    /// Whether the clips of a batch are computed side by side.
    pub(super) parallel: bool,
}

/// What an update of the autoencoder did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AutoencoderReport {
    /// Number of the update, from 0.
    pub step: usize,
    /// Mean absolute difference of a pixel, of a range of 2.
    pub difference: f64,
    /// Norm of the gradient, before clipping.
    pub gradient_norm: f64,
}

impl AutoencoderTrainer {
    /// First values: convolutions keep the size of their input, norms are one, biases zero.
    pub(super) fn initial_parameters(
        config: &WanVaeConfig,
        seed: u64,
        device: &Device,
    ) -> Parameters {
        let mut shapes = config.encoder_parameter_shapes();
        shapes.extend(config.decoder_parameter_shapes());
        let mut parameters = Parameters::default();
        for (index, (name, shape)) in shapes.into_iter().enumerate() {
            let len: usize = shape.iter().product();
            let values = if name.ends_with(".gamma") {
                vec![1.0; len]
            } else if name == "quant_conv.bias" {
                // Little noise at first: a decoder learns nothing from latents that are drowned.
                let is_variance = |i| i >= len / 2;
                (0..len).map(|i| if is_variance(i) { -6.0 } else { 0.0 }).collect()
            } else if name.ends_with(".bias") {
                vec![0.0; len]
            } else {
                let inputs: usize = shape[1..].iter().product();
                // The last layer of a residual branch starts small, the branch as the identity.
                let gain = if name.ends_with("conv2.weight") { 0.3 } else { 1.0 };
                let spread = gain / (inputs as f32).sqrt();
                let key = key(seed, Purpose::Parameters, 1, index);
                random::normal(key, 0, len).into_iter().map(|value| value * spread).collect()
            };
            parameters.insert_values(name, values, &shape, Group::Weights, device);
        }
        parameters
    }

    /// Update number `step`.
    ///
    /// # Errors
    ///
    /// If the device fails, or loss or gradients are not finite.
    pub(super) fn update(
        &mut self,
        step: usize,
        clips: &Clips<'_>,
    ) -> Result<AutoencoderReport, TrainError> {
        let width = if self.parallel { rayon::current_num_threads().max(1) } else { 1 };
        let indices: Vec<usize> = (0..self.batch).collect();
        let (mut difference, mut loss, mut gradients) = (0.0, 0.0, GradientMap::new());
        for chunk in indices.chunks(width) {
            let one = |&index: &usize| self.gradients(step, index, clips(step, index));
            let results: Vec<_> = if self.parallel {
                chunk.par_iter().map(one).collect()
            } else {
                chunk.iter().map(one).collect()
            };
            for result in results {
                let (its_difference, its_loss, its_gradients) = result?;
                difference += its_difference;
                loss += its_loss;
                accumulate(&mut gradients, its_gradients);
            }
        }
        let squares = square_sum(&gradients).map_or(Ok(0.0), scalar)?;
        let gradient_norm = squares.sqrt() / self.batch as f64;
        if !loss.is_finite() || !gradient_norm.is_finite() {
            let what = if loss.is_finite() { "gradient" } else { "loss" };
            return Err(TrainError::NotFinite { step, what, layer: None });
        }
        let progress = (step, self.steps);
        self.optimizer.update(
            &mut self.parameters,
            &gradients,
            gradient_norm,
            self.batch,
            progress,
        );
        Ok(AutoencoderReport { step, difference: difference / self.batch as f64, gradient_norm })
    }

    /// Difference, loss and gradients of one clip.
    fn gradients(
        &self,
        step: usize,
        index: usize,
        (values, shape): (Vec<f32>, [usize; 4]),
    ) -> Result<(f64, f64, GradientMap), TrainError> {
        let source = ParameterSource::graph(&self.parameters, None);
        let device = self.device.clone().autodiff();
        let weights = Weights::new(&source, &device);
        let encoder = WanVaeEncoder::load(&weights, &self.config).map_err(vae_error)?;
        let decoder = WanVaeDecoder::load(&weights, &self.config).map_err(vae_error)?;
        let video = Tensor::<4>::from_data(TensorData::new(values, shape), &device);
        let moments = encoder.encode(video.clone()).map_err(vae_error)?;
        let mean = moments.mean();
        let log_variance = moments.log_variance().clamp(-30.0, 20.0);
        let latent_shape = mean.dims();
        let noise = random::normal(
            key(self.seed, Purpose::Noise, step, index),
            1,
            latent_shape.iter().product(),
        );
        let noise = Tensor::<4>::from_data(TensorData::new(noise, latent_shape), &device);
        let latent = mean.clone() + (log_variance.clone() / 2.0).exp() * noise;
        // The configuration's statistics are still 0 and 1: this is the latent as it is.
        let decoded = decoder.decode_all(latent, None).map_err(vae_error)?.clamp(-1.0, 1.0);
        let error = decoded - video;
        let absolute = error.clone().abs().mean();
        let divergence =
            (mean.clone() * mean + log_variance.clone().exp() - log_variance - 1.0).mean();
        let loss = absolute.clone() + (error.clone() * error).mean() + divergence * KL_WEIGHT;
        let gradients = loss.backward();
        let difference = scalar(absolute.inner())?;
        Ok((difference, scalar(loss.inner())?, source.gradients(&gradients)))
    }
}

/// Errors of the autoencoder's code, which clips of a right size never cause.
fn vae_error(error: crate::models::AutoencoderError) -> TrainError {
    TrainError::Setting(format!("the autoencoder cannot be trained: {error}"))
}
