//! What a transformer predicts of a latent that is known, under noise.

use super::PipelineError;
use super::cancel::Cancel;
use super::model::VideoModel;
use super::noise::standard_normal;
use super::noising::Noising;
use super::padding::repeat_first_frame;
use super::sample::read;
use crate::models::Denoiser;
use crate::nn::Trace;
use burn::tensor::{Device, Tensor, TensorData};

/// A clip's latent as the transformer takes it, and the noise that it is mixed with, which is not
/// that of sampling.
#[derive(Clone, Debug)]
pub struct NoisyLatent {
    noising: Noising,
    clean: Tensor<4>,
    noise: Tensor<4>,
}

impl NoisyLatent {
    /// `latent` `[channels, frames, height, width]` under the noise of `seed`.
    ///
    /// # Errors
    ///
    /// If the noise levels of the model cannot be had.
    ///
    /// # Panics
    ///
    /// If `latent` has not the values of `shape`.
    pub fn new(
        model: &VideoModel,
        latent: Vec<f32>,
        shape: [usize; 4],
        seed: u64,
        device: &Device,
    ) -> Result<Self, PipelineError> {
        let tensor = |values: Vec<f32>, shape: [usize; 4]| {
            Tensor::<4>::from_data(TensorData::new(values, shape), device)
        };
        let padded = model.padded_shape(shape);
        Ok(Self {
            noising: model.noising()?,
            clean: repeat_first_frame(tensor(latent, shape), padded[1]),
            noise: tensor(standard_normal(seed, 1, padded.iter().product()), padded),
        })
    }

    /// What `transformer` predicts for a prompt's `embeds` at each of `levels`, shares of the way
    /// from data to noise.
    ///
    /// # Errors
    ///
    /// If the device fails or the work is canceled.
    pub fn predictions(
        &self,
        transformer: &dyn Denoiser,
        embeds: &Tensor<2>,
        levels: &[f64],
        cancel: &Cancel,
    ) -> Result<Vec<Vec<f32>>, PipelineError> {
        transformer.begin_run();
        let context = transformer.text_context(embeds.clone(), &mut Trace::off());
        let one = |&level: &f64| {
            cancel.check()?;
            let level = self.noising.at(level);
            let noisy = level.mix(self.clean.clone(), self.noise.clone());
            read(transformer.forward(noisy, level.timestep, &context))
        };
        levels.iter().map(one).collect()
    }

    /// What it should predict there.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn targets(&self, levels: &[f64]) -> Result<Vec<Vec<f32>>, PipelineError> {
        let target = |&level: &f64| {
            read(self.noising.at(level).target(self.clean.clone(), self.noise.clone()))
        };
        levels.iter().map(target).collect()
    }
}
