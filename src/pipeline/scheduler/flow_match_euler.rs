//! `FlowMatchEulerDiscreteScheduler`: `x ← x + (σᵢ₊₁ − σᵢ)·v`.
//!
//! The reference shifts its schedule twice: the constructor shifts the largest and the smallest
//! level, and the levels of a run, spread evenly between the two, are shifted again.

use super::{FlowMatchEulerConfig, Scheduler, check_step, linspace, shifted};

/// A run with first-order steps.
#[derive(Clone, Debug)]
pub struct FlowMatchEuler {
    timesteps: Vec<f32>,
    sigmas: Vec<f32>,
    step_index: usize,
}

impl FlowMatchEuler {
    /// A run of `steps` steps; [`super::SchedulerConfig::build`] has checked their number.
    pub(super) fn new(config: &FlowMatchEulerConfig, steps: usize) -> Self {
        let levels = config.num_train_timesteps as f64;
        // the reference holds its levels in f32, and reads the ends back from there
        let end = |sigma: f32| {
            let shift = config.shift as f32;
            f64::from(shift * sigma / (1.0 + (config.shift - 1.0) as f32 * sigma))
        };
        let (first, last) = (end(1.0) * levels, end(1.0 / levels as f32) * levels);
        let mut sigmas: Vec<f32> = linspace(first, last, (steps - 1).max(1), steps)
            .map(|timestep| shifted(config.shift, timestep / levels) as f32)
            .collect();
        let timesteps = sigmas.iter().map(|sigma| sigma * levels as f32).collect();
        sigmas.push(0.0);
        Self { timesteps, sigmas, step_index: 0 }
    }
}

impl Scheduler for FlowMatchEuler {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn sigmas(&self) -> &[f32] {
        &self.sigmas
    }

    fn step(&mut self, model_output: &[f32], sample: &mut [f32]) {
        check_step(self.step_index, self.timesteps.len(), model_output, sample);
        let change = self.sigmas[self.step_index + 1] - self.sigmas[self.step_index];
        for (x, v) in sample.iter_mut().zip(model_output) {
            *x += change * v;
        }
        self.step_index += 1;
    }
}
