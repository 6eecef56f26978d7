//! `CogVideoXDDIMScheduler`: the deterministic step of DDIM (arXiv 2010.02502, eq. 12 with σ = 0)
//! written on the sample and the predicted clean sample.
//!
//! ```text
//! x ← k·x + (√ᾱ_to − √ᾱ·k)·x₀,   k = √((1 − ᾱ_to)/(1 − ᾱ))
//! ```

use super::cogvideox::{CogVideoXConfig, Run, combined};
use super::{Scheduler, SchedulerError};

/// A run with deterministic first-order steps.
#[derive(Clone, Debug)]
pub struct CogVideoXDdim(Run);

impl CogVideoXDdim {
    /// A run of `steps` steps; [`super::SchedulerConfig::build`] has checked their number.
    pub(super) fn new(config: &CogVideoXConfig, steps: usize) -> Result<Self, SchedulerError> {
        Run::new(config, steps).map(Self)
    }
}

impl Scheduler for CogVideoXDdim {
    fn timesteps(&self) -> &[f32] {
        self.0.timesteps()
    }

    fn sigmas(&self) -> &[f32] {
        self.0.sigmas()
    }

    fn step(&mut self, model_output: &[f32], sample: &mut [f32]) {
        let step = self.0.next_step(model_output, sample);
        let kept = ((1.0 - step.alpha_to) / (1.0 - step.alpha)).sqrt();
        let clean = step.alpha_to.sqrt() - step.alpha.sqrt() * kept;
        sample.copy_from_slice(&combined(kept, sample, clean, &step.predicted));
    }
}
