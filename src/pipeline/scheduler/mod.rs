//! Schedulers: which noise levels a sampling run visits, and how a sample moves between them.
//!
//! The flow-matching family of Wan: a sample at noise level `σ` is `x = (1 − σ)·x₀ + σ·noise`, and
//! the model predicts the velocity `v = noise − x₀`, so `x₀ = x − σ·v`. The discrete diffusion of
//! CogVideoX: `x = √ᾱ·x₀ + √(1 − ᾱ)·noise`, of which `σ = √(1 − ᾱ)` is the noise level here; see
//! [`NoiseLevels`]. A sample starts as standard normal noise in both.
//!
//! A [`SchedulerConfig`] is read from `scheduler/scheduler_config.json`, may be adjusted, and
//! builds a [`Scheduler`] for a number of steps. Samples are f32 slices on the host: a step costs a
//! few passes over the latent, nothing beside one evaluation of the transformer.

mod cogvideox;
mod cogvideox_ddim;
mod cogvideox_dpm;
mod config;
mod flow_match_euler;
mod options;
mod unipc;

pub use cogvideox::{CogVideoXConfig, NoiseLevels, Prediction, TimestepSpacing};
pub use cogvideox_ddim::CogVideoXDdim;
pub use cogvideox_dpm::CogVideoXDpm;
pub use config::{FlowMatchEulerConfig, SchedulerConfig, SolverType, UniPcConfig};
pub use flow_match_euler::FlowMatchEuler;
pub use unipc::UniPc;

use serde_json::Value;
use std::fmt;
use std::str::FromStr;

/// Why a scheduler cannot be had.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SchedulerError {
    /// The configuration is not a JSON object, or has no `_class_name`.
    #[error("the scheduler configuration names no class: {message}")]
    NoClass {
        /// What was found instead.
        message: String,
    },
    /// A key has a value that is not implemented, or of the wrong type.
    #[error("scheduler option {key} = {value} is not supported, only {supported}")]
    Unsupported {
        /// The key in `scheduler_config.json`, or the name of an override.
        key: String,
        /// Its value, as JSON.
        value: String,
        /// What would be accepted.
        supported: String,
    },
    /// No such number of steps.
    #[error("{steps} sampling steps are not possible, only 1 to {max}")]
    Steps {
        /// The number asked for.
        steps: usize,
        /// The number of noise levels the model was trained with.
        max: usize,
    },
}

/// A scheduler by the name users give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SchedulerKind {
    /// `unipc`: a multistep predictor-corrector, what Wan's checkpoints ask for.
    UniPc,
    /// `euler`: one first-order step per evaluation.
    FlowMatchEuler,
    /// `ddim`: deterministic first-order steps, what CogVideoX-2B asks for.
    CogVideoXDdim,
    /// `dpm`: second-order steps with fresh noise, what the larger CogVideoX models ask for.
    CogVideoXDpm,
}

impl SchedulerKind {
    /// Every kind, in the order shown to users.
    pub const ALL: [Self; 4] =
        [Self::UniPc, Self::FlowMatchEuler, Self::CogVideoXDdim, Self::CogVideoXDpm];

    /// The name users give it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UniPc => "unipc",
            Self::FlowMatchEuler => "euler",
            Self::CogVideoXDdim => "ddim",
            Self::CogVideoXDpm => "dpm",
        }
    }

    /// The class in `scheduler_config.json`.
    pub const fn class_name(self) -> &'static str {
        match self {
            Self::UniPc => "UniPCMultistepScheduler",
            Self::FlowMatchEuler => "FlowMatchEulerDiscreteScheduler",
            Self::CogVideoXDdim => "CogVideoXDDIMScheduler",
            Self::CogVideoXDpm => "CogVideoXDPMScheduler",
        }
    }
}

impl fmt::Display for SchedulerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SchedulerKind {
    type Err = SchedulerError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            SchedulerError::Unsupported {
                key: "scheduler".into(),
                value: name.into(),
                supported: Self::ALL.map(Self::name).join(", "),
            }
        })
    }
}

/// One sampling run: a list of noise levels and the rule that leads from one to the next.
///
/// It has a position: [`Scheduler::step`] is called once for each timestep, in order.
pub trait Scheduler: fmt::Debug + Send {
    /// What the transformer is told before each step, `[steps]`, from noise to data.
    fn timesteps(&self) -> &[f32];

    /// Noise levels, `[steps + 1]`; the last one, where the run ends, is 0 or nearly so.
    fn sigmas(&self) -> &[f32];

    /// Moves `sample` from the current noise level to the next one.
    ///
    /// `model_output` is what the transformer predicts for `sample`, of the kind that
    /// [`SchedulerConfig::prediction`] says; both are of the same length, in the same layout, which
    /// is up to the caller. A sample starts as standard normal noise.
    ///
    /// # Panics
    ///
    /// If the lengths differ, from each other or from those of the step before, or if all steps
    /// are done.
    fn step(&mut self, model_output: &[f32], sample: &mut [f32]);
}

/// The first `count` of `intervals + 1` numbers from `start` to `stop`, computed as
/// `numpy.linspace` does, `i·step + start`: its rounding decides where a timestep is cut off.
fn linspace(start: f64, stop: f64, intervals: usize, count: usize) -> impl Iterator<Item = f64> {
    let step = (stop - start) / intervals as f64;
    (0..count).map(move |i| i as f64 * step + start)
}

/// Moves a noise level towards noise: `shift·σ / (1 + (shift − 1)·σ)`.
fn shifted(shift: f64, sigma: f64) -> f64 {
    shift * sigma / (1.0 + (shift - 1.0) * sigma)
}

/// The error that `value` of `key` is not among what is `supported`.
fn unsupported(key: &str, value: &Value, supported: impl ToString) -> SchedulerError {
    SchedulerError::Unsupported {
        key: key.into(),
        value: value.to_string(),
        supported: supported.to_string(),
    }
}

/// Checks what all schedulers require of the arguments of a step.
#[track_caller]
fn check_step(step_index: usize, steps: usize, model_output: &[f32], sample: &[f32]) {
    assert!(step_index < steps, "step {step_index} of a run of {steps} steps");
    assert_eq!(model_output.len(), sample.len(), "lengths of model output and sample differ");
}
