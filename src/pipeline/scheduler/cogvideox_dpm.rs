//! `CogVideoXDPMScheduler`: second-order multistep DPM-Solver++ for the stochastic equation
//! (“SDE-DPM-Solver++(2M)”, arXiv 2211.01095), which adds fresh noise at every step.
//!
//! With `λ = ln √(ᾱ/(1 − ᾱ))` and `h = λ_to − λ`:
//!
//! ```text
//! x ← √((1 − ᾱ_to)/(1 − ᾱ))·e⁻ʰ·x + (1 − e⁻²ʰ)·√ᾱ_to·d + √(1 − ᾱ_to)·√(1 − e⁻²ʰ)·noise
//! d = x₀ + (x₀ − x₀_before)/(2r),   r = (λ − λ_before)/h
//! ```
//!
//! The first step and a last one beyond timestep 0 take `d = x₀`. Levels of noise alone and of no
//! noise have infinite `λ`; `h` and `r` become infinite there, their exponentials and inverses 0.

use super::cogvideox::{CogVideoXConfig, Run, Step, combined};
use super::{Scheduler, SchedulerError};
use crate::pipeline::noise::StepNoise;

/// A run with stochastic second-order steps.
#[derive(Clone, Debug)]
pub struct CogVideoXDpm {
    run: Run,
    noise: StepNoise,
    /// The clean sample that the step before predicted.
    predicted_before: Option<Vec<f32>>,
}

impl CogVideoXDpm {
    /// A run of `steps` steps; [`super::SchedulerConfig::build`] has checked their number.
    pub(super) fn new(
        config: &CogVideoXConfig,
        steps: usize,
        noise: StepNoise,
    ) -> Result<Self, SchedulerError> {
        Ok(Self { run: Run::new(config, steps)?, noise, predicted_before: None })
    }

    /// `d`, of first or second order.
    fn direction(&self, step: &Step, h: f64) -> Vec<f32> {
        let before = self.predicted_before.as_ref().filter(|_| !step.is_last);
        match before.zip(step.alpha_before) {
            None => step.predicted.clone(),
            Some((before, alpha_before)) => {
                let r = (lambda(step.alpha) - lambda(alpha_before)) / h;
                let weight = 1.0 / (2.0 * r);
                combined(1.0 + weight, &step.predicted, -weight, before)
            }
        }
    }
}

/// `ln √(ᾱ/(1 − ᾱ))`, from −∞ to ∞.
fn lambda(alpha: f64) -> f64 {
    (alpha / (1.0 - alpha)).sqrt().ln()
}

impl Scheduler for CogVideoXDpm {
    fn timesteps(&self) -> &[f32] {
        self.run.timesteps()
    }

    fn sigmas(&self) -> &[f32] {
        self.run.sigmas()
    }

    fn step(&mut self, model_output: &[f32], sample: &mut [f32]) {
        let step = self.run.next_step(model_output, sample);
        let (alpha, alpha_to) = (step.alpha, step.alpha_to);
        let h = lambda(alpha_to) - lambda(alpha);
        let kept = ((1.0 - alpha_to) / (1.0 - alpha)).sqrt() * (-h).exp();
        let clean = -(-2.0 * h).exp_m1() * alpha_to.sqrt();
        let added = (1.0 - alpha_to).sqrt() * (1.0 - (-2.0 * h).exp()).sqrt();
        let direction = self.direction(&step, h);
        sample.copy_from_slice(&combined(kept, sample, clean, &direction));
        if added > 0.0 {
            let noise = self.noise.of_step(step.index, sample.len());
            for (x, noise) in sample.iter_mut().zip(noise) {
                *x += added as f32 * noise;
            }
        }
        self.predicted_before = Some(step.predicted);
    }
}
