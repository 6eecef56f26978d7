//! How noise is mixed into a clean latent, and what a model should say of the mixture.
//!
//! | schedule | mixture at a level | prediction |
//! |---|---|---|
//! | flow matching, `σ` from 0 to 1 | `(1 − σ)·x₀ + σ·noise` | `noise − x₀` |
//! | discrete diffusion, `ᾱ` of a timestep | `√ᾱ·x₀ + √(1 − ᾱ)·noise` | `√ᾱ·noise − √(1 − ᾱ)·x₀`, or the noise, or `x₀` |
//!
//! A trainer draws levels and so does whoever measures a model at some of them: both name a level
//! by its share of the way from data to noise, whatever the schedule.

use super::scheduler::{NoiseLevels, Prediction, SchedulerConfig, SchedulerError};
use burn::tensor::Tensor;

/// The noise levels that a model was trained with.
#[derive(Clone, Debug, PartialEq)]
pub struct Noising {
    prediction: Prediction,
    /// Those of a discrete diffusion.
    levels: Option<NoiseLevels>,
}

/// One noise level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NoiseLevel {
    /// What the transformer is told of it, in 0 to 1000.
    pub timestep: f32,
    /// Factors of the clean latent and of the noise in the mixture.
    mixture: [f64; 2],
    /// The same in the prediction.
    prediction: [f64; 2],
}

impl Noising {
    /// The levels of a scheduler's `config`.
    ///
    /// # Errors
    ///
    /// If its values are so extreme that neighboring levels are the same number.
    pub fn of(config: &SchedulerConfig) -> Result<Self, SchedulerError> {
        let levels = config.diffusion().map(NoiseLevels::new).transpose()?;
        Ok(Self { prediction: config.prediction(), levels })
    }

    /// Those of flow matching.
    pub const fn flow_matching() -> Self {
        Self { prediction: Prediction::FlowVelocity, levels: None }
    }

    /// The level at `share` of the way from data (0) to noise (1); of a discrete diffusion the
    /// nearest there is.
    pub fn at(&self, share: f64) -> NoiseLevel {
        let Some(levels) = &self.levels else {
            return NoiseLevel {
                timestep: share as f32 * 1000.0,
                mixture: [1.0 - share, share],
                prediction: [-1.0, 1.0],
            };
        };
        let alphas = levels.alphas_cumprod();
        let count = alphas.len() as f64;
        let timestep = ((share * count).round() as usize).clamp(1, alphas.len()) - 1;
        let [signal, noise] = [alphas[timestep], 1.0 - alphas[timestep]].map(f64::sqrt);
        let prediction = match self.prediction {
            Prediction::FlowVelocity => [-1.0, 1.0],
            Prediction::Velocity => [-noise, signal],
            Prediction::Noise => [0.0, 1.0],
            Prediction::Sample => [1.0, 0.0],
        };
        NoiseLevel { timestep: timestep as f32, mixture: [signal, noise], prediction }
    }
}

impl NoiseLevel {
    /// What a model sees of `clean` under `noise`.
    pub fn mix(&self, clean: Tensor<4>, noise: Tensor<4>) -> Tensor<4> {
        let [of_clean, of_noise] = self.mixture;
        clean * of_clean + noise * of_noise
    }

    /// What it should say of the mixture.
    pub fn target(&self, clean: Tensor<4>, noise: Tensor<4>) -> Tensor<4> {
        let [of_clean, of_noise] = self.prediction;
        noise * of_noise + clean * of_clean
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use serde_json::json;

    /// Mixture and prediction of a clean 3 under noise of 2.
    fn of_three_and_two(level: NoiseLevel) -> [f32; 2] {
        let full = |value: f32| Tensor::<4>::full([1, 1, 1, 1], value, &Device::flex());
        let one = |x: Tensor<4>| x.into_data().try_to_vec::<f32>().expect("f32 values")[0];
        [one(level.mix(full(3.0), full(2.0))), one(level.target(full(3.0), full(2.0)))]
    }

    fn noising(config: serde_json::Value) -> Noising {
        Noising::of(&SchedulerConfig::from_json(&config).expect("a schedule")).expect("levels")
    }

    #[test]
    fn flow_matching_walks_a_straight_line() {
        let flow = noising(json!({ "_class_name": "FlowMatchEulerDiscreteScheduler" }));
        let level = flow.at(0.25);
        assert_eq!(level.timestep, 250.0);
        assert_eq!(of_three_and_two(level), [2.75, -1.0]);
    }

    #[test]
    fn a_diffusion_ends_in_noise_and_predicts_what_the_schedule_says() {
        let config = |prediction: &str| {
            json!({
                "_class_name": "CogVideoXDDIMScheduler", "prediction_type": prediction,
                // Of noise alone, the noise predicted would say nothing of the data.
                "rescale_betas_zero_snr": prediction != "epsilon", "timestep_spacing": "trailing",
            })
        };
        let velocity = noising(config("v_prediction"));
        let noise_alone = velocity.at(1.0);
        assert_eq!(noise_alone.timestep, 999.0);
        assert_eq!(of_three_and_two(noise_alone), [2.0, -3.0]);
        assert_eq!(velocity.at(0.0).timestep, 0.0, "the first level stands for all below");
        let [mixture, target] = of_three_and_two(velocity.at(0.5));
        let [signal, share] = velocity.at(0.5).mixture;
        assert!((signal * signal + share * share - 1.0).abs() < 1e-12);
        // x₀ = √ᾱ·x − √(1 − ᾱ)·v
        let clean = signal * f64::from(mixture) - share * f64::from(target);
        assert!((clean - 3.0).abs() < 1e-5);
        assert_eq!(of_three_and_two(noising(config("epsilon")).at(0.5))[1], 2.0);
        assert_eq!(of_three_and_two(noising(config("sample")).at(0.5))[1], 3.0);
    }
}
