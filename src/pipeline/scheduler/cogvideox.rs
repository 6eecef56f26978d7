//! What the two CogVideoX schedulers share: noise levels of a discrete diffusion, and a run's
//! place among them.
//!
//! A sample at timestep `t` is `x = √ᾱ·x₀ + √(1 − ᾱ)·noise` with `ᾱ` falling from nearly 1 to 0,
//! and the model predicts the velocity `v = √ᾱ·noise − √(1 − ᾱ)·x₀`, so `x₀ = √ᾱ·x − √(1 − ᾱ)·v`
//! (“v-prediction”, arXiv 2202.00512 §4 and appendix D). The last level can be noise alone (“zero
//! terminal signal-to-noise ratio”, arXiv 2305.08891, algorithm 1).
//!
//! Coefficients are f64, samples f32, as in `scheduling_ddim_cogvideox.py` and
//! `scheduling_dpm_cogvideox.py` of diffusers.

use super::{SchedulerError, check_step, linspace, unsupported};
use serde_json::Value;

/// What a model predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// `noise − x₀`, of the straight paths of flow matching.
    FlowVelocity,
    /// `√ᾱ·noise − √(1 − ᾱ)·x₀`.
    Velocity,
    /// The noise.
    Noise,
    /// The clean sample `x₀`.
    Sample,
}

/// Which timesteps a run visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestepSpacing {
    /// From the noisiest level down in equal distances.
    Trailing,
    /// From level 0 up in equal whole distances, plus an offset.
    Leading,
    /// From the first to the last level, both included.
    Linspace,
}

/// Options of [`super::CogVideoXDdim`] and [`super::CogVideoXDpm`].
#[derive(Clone, Debug, PartialEq)]
pub struct CogVideoXConfig {
    /// Noise levels the model was trained with.
    pub num_train_timesteps: usize,
    /// Variance added at the first level; between them the square roots are evenly spaced.
    pub beta_start: f64,
    /// Variance added at the last level.
    pub beta_end: f64,
    /// Divisor of the signal-to-noise ratio of every level; 1 leaves them as they are.
    pub snr_shift_scale: f64,
    /// Whether levels are rescaled so that the last one is noise alone.
    pub rescale_betas_zero_snr: bool,
    /// Whether the last step leads to `ᾱ = 1` instead of that of timestep 0.
    pub set_alpha_to_one: bool,
    /// Added to the timesteps of [`TimestepSpacing::Leading`].
    pub steps_offset: usize,
    /// What the model predicts.
    pub prediction: Prediction,
    /// Which timesteps a run visits.
    pub timestep_spacing: TimestepSpacing,
}

/// `ᾱ` of every timestep a model was trained with.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseLevels {
    /// `[num_train_timesteps]`, falling.
    alphas_cumprod: Vec<f64>,
}

impl NoiseLevels {
    /// The levels that `config` describes.
    ///
    /// # Errors
    ///
    /// If values are so extreme that neighboring levels are the same number.
    pub fn new(config: &CogVideoXConfig) -> Result<Self, SchedulerError> {
        let count = config.num_train_timesteps;
        let ends = [config.beta_start.sqrt(), config.beta_end.sqrt()];
        let mut product = 1.0;
        let mut alphas_cumprod: Vec<f64> = linspace(ends[0], ends[1], (count - 1).max(1), count)
            .map(|root| {
                product *= 1.0 - root * root;
                product / (config.snr_shift_scale + (1.0 - config.snr_shift_scale) * product)
            })
            .collect();
        if config.rescale_betas_zero_snr {
            rescale_to_zero_terminal_snr(&mut alphas_cumprod);
        }
        let falls = alphas_cumprod.is_sorted_by(|cleaner, noisier| cleaner > noisier);
        let inside = alphas_cumprod.iter().all(|alpha| (0.0..1.0).contains(alpha));
        if !falls || !inside || alphas_cumprod[0] <= 0.0 {
            let supported = format!("values that keep {count} noise levels apart");
            let value = Value::from(config.snr_shift_scale);
            return Err(unsupported("snr_shift_scale", &value, supported));
        }
        Ok(Self { alphas_cumprod })
    }

    /// `ᾱ` of every timestep, `[num_train_timesteps]`.
    pub fn alphas_cumprod(&self) -> &[f64] {
        &self.alphas_cumprod
    }

    /// `√ᾱ·sample + √(1 − ᾱ)·noise`: what a model in training sees at `timestep`.
    ///
    /// # Panics
    ///
    /// If the lengths differ or there is no such timestep.
    pub fn add_noise(&self, sample: &[f32], noise: &[f32], timestep: usize) -> Vec<f32> {
        let (signal, share) = roots(self.alphas_cumprod[timestep]);
        combined(signal, sample, share, noise)
    }

    /// `√ᾱ·noise − √(1 − ᾱ)·sample`: what a model of [`Prediction::Velocity`] should say there.
    ///
    /// # Panics
    ///
    /// As [`NoiseLevels::add_noise`].
    pub fn velocity(&self, sample: &[f32], noise: &[f32], timestep: usize) -> Vec<f32> {
        let (signal, share) = roots(self.alphas_cumprod[timestep]);
        combined(signal, noise, -share, sample)
    }
}

/// `(√ᾱ, √(1 − ᾱ))`.
fn roots(alpha: f64) -> (f64, f64) {
    (alpha.sqrt(), (1.0 - alpha).sqrt())
}

/// `a·x + b·y` with the coefficients in f32, as the reference has them beside a tensor.
pub(super) fn combined(a: f64, x: &[f32], b: f64, y: &[f32]) -> Vec<f32> {
    assert_eq!(x.len(), y.len(), "lengths of two samples");
    let (a, b) = (a as f32, b as f32);
    x.iter().zip(y).map(|(x, y)| a * x + b * y).collect()
}

/// Shifts and scales `√ᾱ` so that its last value is 0 and its first stays.
fn rescale_to_zero_terminal_snr(alphas_cumprod: &mut [f64]) {
    let [first, .., last] = *alphas_cumprod else { return };
    let (first, last) = (first.sqrt(), last.sqrt());
    let scale = first / (first - last);
    for alpha in alphas_cumprod {
        *alpha = ((alpha.sqrt() - last) * scale).powi(2);
    }
}

/// The timesteps of a run, from noise to data. Rounding is half to even, as numpy's.
fn timesteps(config: &CogVideoXConfig, steps: usize) -> Vec<usize> {
    let count = config.num_train_timesteps;
    let nearest = |value: f64| value.round_ties_even() as usize;
    match config.timestep_spacing {
        TimestepSpacing::Trailing => {
            // numpy's `arange` takes the difference of its first two values for the distance: where
            // the exact value is half way between two timesteps, that decides
            let (start, step) = (count as f64, count as f64 / steps as f64);
            let distance = (start - step) - start;
            (0..steps).map(|i| nearest(start + i as f64 * distance).saturating_sub(1)).collect()
        }
        TimestepSpacing::Leading => {
            (0..steps).rev().map(|i| i * (count / steps) + config.steps_offset).collect()
        }
        TimestepSpacing::Linspace => {
            let levels = linspace(0.0, (count - 1) as f64, (steps - 1).max(1), steps);
            let mut timesteps: Vec<usize> = levels.map(nearest).collect();
            timesteps.reverse();
            timesteps
        }
    }
}

/// A run's timesteps and its position among them.
#[derive(Clone, Debug)]
pub(super) struct Run {
    levels: NoiseLevels,
    prediction: Prediction,
    /// `ᾱ` beyond timestep 0.
    final_alpha: f64,
    /// What a step takes off a timestep: not always the distance to the next one.
    stride: usize,
    indices: Vec<usize>,
    timesteps: Vec<f32>,
    sigmas: Vec<f32>,
    step_index: usize,
}

/// One step from a noise level to the next.
pub(super) struct Step {
    pub(super) index: usize,
    /// `ᾱ` of the sample.
    pub(super) alpha: f64,
    /// `ᾱ` that the step leads to.
    pub(super) alpha_to: f64,
    /// `ᾱ` of the timestep before, if there was one.
    pub(super) alpha_before: Option<f64>,
    /// Whether the step leads beyond timestep 0.
    pub(super) is_last: bool,
    /// The predicted clean sample.
    pub(super) predicted: Vec<f32>,
}

impl Run {
    pub(super) fn new(config: &CogVideoXConfig, steps: usize) -> Result<Self, SchedulerError> {
        let levels = NoiseLevels::new(config)?;
        let indices = timesteps(config, steps);
        if indices[0] >= config.num_train_timesteps {
            let supported = format!("values that keep {steps} timesteps below the number trained");
            return Err(unsupported("steps_offset", &config.steps_offset.into(), supported));
        }
        let final_alpha = if config.set_alpha_to_one { 1.0 } else { levels.alphas_cumprod[0] };
        let mut run = Self {
            levels,
            prediction: config.prediction,
            final_alpha,
            stride: config.num_train_timesteps / steps,
            timesteps: indices.iter().map(|&timestep| timestep as f32).collect(),
            sigmas: Vec::new(),
            indices,
            step_index: 0,
        };
        let visited = run.indices.iter().map(|&timestep| run.levels.alphas_cumprod[timestep]);
        let reached = run.alpha_after(run.indices[steps - 1]);
        run.sigmas = visited.chain([reached]).map(|alpha| (1.0 - alpha).sqrt() as f32).collect();
        Ok(run)
    }

    pub(super) fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    pub(super) fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    fn alpha_after(&self, timestep: usize) -> f64 {
        let to = timestep.checked_sub(self.stride);
        to.map_or(self.final_alpha, |to| self.levels.alphas_cumprod[to])
    }

    /// Goes on to the next step, from `sample` and the model's output for it.
    #[track_caller]
    pub(super) fn next_step(&mut self, model_output: &[f32], sample: &[f32]) -> Step {
        let index = self.step_index;
        check_step(index, self.indices.len(), model_output, sample);
        self.step_index += 1;
        let timestep = self.indices[index];
        let alpha_of = |timestep: usize| self.levels.alphas_cumprod[timestep];
        let alpha = alpha_of(timestep);
        let (signal, share) = roots(alpha);
        let predicted = match self.prediction {
            Prediction::Velocity => combined(signal, sample, -share, model_output),
            Prediction::Noise => combined(1.0 / signal, sample, -share / signal, model_output),
            Prediction::FlowVelocity | Prediction::Sample => model_output.to_vec(),
        };
        Step {
            index,
            alpha,
            alpha_to: self.alpha_after(timestep),
            alpha_before: index.checked_sub(1).map(|before| alpha_of(self.indices[before])),
            is_last: timestep < self.stride,
            predicted,
        }
    }
}
