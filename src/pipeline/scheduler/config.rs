//! `scheduler_config.json`: what is implemented is read, what is not is an error.
//!
//! Missing keys take the defaults of diffusers. Keys that cannot change the result (`beta_start` of
//! a flow schedule, `clip_sample` of CogVideoX, …) are ignored.

use super::cogvideox::{CogVideoXConfig, Prediction};
use super::options::{Options, check_shift};
use super::{CogVideoXDdim, CogVideoXDpm, FlowMatchEuler, UniPc};
use super::{Scheduler, SchedulerError, SchedulerKind, unsupported};
use crate::pipeline::noise::StepNoise;
use serde_json::Value;

/// How `UniPC` weighs the change of the prediction, `B(h)` of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SolverType {
    /// `B(h) = h`.
    Bh1,
    /// `B(h) = eʰ − 1`.
    Bh2,
}

/// Options of [`UniPc`].
#[derive(Clone, Debug, PartialEq)]
pub struct UniPcConfig {
    /// Noise levels the model was trained with.
    pub num_train_timesteps: usize,
    /// Shift of the schedule towards noise; 1 leaves it as it is.
    pub flow_shift: f64,
    /// Order of the predictor, 1 to 3.
    pub solver_order: usize,
    /// Weight of the change of the prediction.
    pub solver_type: SolverType,
    /// Steps after which the corrector is not applied.
    pub disable_corrector: Vec<usize>,
}

/// Options of [`FlowMatchEuler`].
#[derive(Clone, Debug, PartialEq)]
pub struct FlowMatchEulerConfig {
    /// Noise levels the model was trained with.
    pub num_train_timesteps: usize,
    /// Shift of the schedule towards noise; 1 leaves it as it is.
    pub shift: f64,
}

/// Everything about a scheduler but the number of steps.
///
/// There are two families, and a model belongs to one: flow matching ([`SchedulerConfig::UniPc`],
/// [`SchedulerConfig::FlowMatchEuler`]) and the discrete diffusion of CogVideoX.
#[derive(Clone, Debug, PartialEq)]
pub enum SchedulerConfig {
    /// `UniPCMultistepScheduler` with flow sigmas.
    UniPc(UniPcConfig),
    /// `FlowMatchEulerDiscreteScheduler`.
    FlowMatchEuler(FlowMatchEulerConfig),
    /// `CogVideoXDDIMScheduler`.
    CogVideoXDdim(CogVideoXConfig),
    /// `CogVideoXDPMScheduler`.
    CogVideoXDpm(CogVideoXConfig),
}

impl SchedulerConfig {
    /// Reads the content of `scheduler_config.json`.
    ///
    /// # Errors
    ///
    /// If the class is unknown or an option has a value that is not implemented.
    pub fn from_json(json: &Value) -> Result<Self, SchedulerError> {
        let class = json.get("_class_name").and_then(Value::as_str);
        let (Some(class), Some(map)) = (class, json.as_object()) else {
            let message = json
                .get("_class_name")
                .map_or("no \"_class_name\"".into(), |value| format!("\"_class_name\" is {value}"));
            return Err(SchedulerError::NoClass { message });
        };
        let options = Options(map);
        match SchedulerKind::ALL.into_iter().find(|kind| kind.class_name() == class) {
            Some(SchedulerKind::UniPc) => options.unipc().map(Self::UniPc),
            Some(SchedulerKind::FlowMatchEuler) => options.euler().map(Self::FlowMatchEuler),
            Some(SchedulerKind::CogVideoXDdim) => options.cogvideox().map(Self::CogVideoXDdim),
            Some(SchedulerKind::CogVideoXDpm) => options.cogvideox().map(Self::CogVideoXDpm),
            None => {
                let supported = SchedulerKind::ALL.map(SchedulerKind::class_name).join(", ");
                Err(unsupported("_class_name", &Value::from(class), supported))
            }
        }
    }

    /// Which scheduler this configures.
    pub const fn kind(&self) -> SchedulerKind {
        match self {
            Self::UniPc(_) => SchedulerKind::UniPc,
            Self::FlowMatchEuler(_) => SchedulerKind::FlowMatchEuler,
            Self::CogVideoXDdim(_) => SchedulerKind::CogVideoXDdim,
            Self::CogVideoXDpm(_) => SchedulerKind::CogVideoXDpm,
        }
    }

    /// What a model under this scheduler predicts.
    pub const fn prediction(&self) -> Prediction {
        match self {
            Self::UniPc(_) | Self::FlowMatchEuler(_) => Prediction::FlowVelocity,
            Self::CogVideoXDdim(config) | Self::CogVideoXDpm(config) => config.prediction,
        }
    }

    /// The noise levels of a discrete diffusion; `None` for flow matching.
    pub const fn diffusion(&self) -> Option<&CogVideoXConfig> {
        match self {
            Self::UniPc(_) | Self::FlowMatchEuler(_) => None,
            Self::CogVideoXDdim(config) | Self::CogVideoXDpm(config) => Some(config),
        }
    }

    /// Shift of a flow schedule towards noise; `None` for other schedules.
    pub const fn flow_shift(&self) -> Option<f64> {
        match self {
            Self::UniPc(config) => Some(config.flow_shift),
            Self::FlowMatchEuler(config) => Some(config.shift),
            Self::CogVideoXDdim(_) | Self::CogVideoXDpm(_) => None,
        }
    }

    /// Noise levels the model was trained with; also the largest number of steps.
    pub const fn num_train_timesteps(&self) -> usize {
        match self {
            Self::UniPc(config) => config.num_train_timesteps,
            Self::FlowMatchEuler(config) => config.num_train_timesteps,
            Self::CogVideoXDdim(config) | Self::CogVideoXDpm(config) => config.num_train_timesteps,
        }
    }

    /// The same with another shift.
    ///
    /// # Errors
    ///
    /// If it is not a positive number, or the schedule is none of flow matching.
    pub fn with_flow_shift(mut self, flow_shift: f64) -> Result<Self, SchedulerError> {
        check_shift("flow_shift", flow_shift)?;
        match &mut self {
            Self::UniPc(config) => config.flow_shift = flow_shift,
            Self::FlowMatchEuler(config) => config.shift = flow_shift,
            Self::CogVideoXDdim(_) | Self::CogVideoXDpm(_) => {
                let supported = "for flow matching; the noise levels of this model are shifted by \
                                 snr_shift_scale in its scheduler_config.json";
                return Err(unsupported("flow_shift", &Value::from(flow_shift), supported));
            }
        }
        Ok(self)
    }

    /// The same schedule for another scheduler of its family, whose own options are the defaults;
    /// unchanged if it is of that kind already.
    ///
    /// # Errors
    ///
    /// If `kind` belongs to the other family: the model was trained for other noise levels.
    pub fn with_kind(self, kind: SchedulerKind) -> Result<Self, SchedulerError> {
        Ok(match (self, kind) {
            (same, kind) if kind == same.kind() => same,
            (Self::FlowMatchEuler(config), SchedulerKind::UniPc) => Self::UniPc(UniPcConfig {
                num_train_timesteps: config.num_train_timesteps,
                flow_shift: config.shift,
                solver_order: 2,
                solver_type: SolverType::Bh2,
                disable_corrector: Vec::new(),
            }),
            (Self::UniPc(config), SchedulerKind::FlowMatchEuler) => {
                Self::FlowMatchEuler(FlowMatchEulerConfig {
                    num_train_timesteps: config.num_train_timesteps,
                    shift: config.flow_shift,
                })
            }
            (Self::CogVideoXDdim(config), SchedulerKind::CogVideoXDpm) => {
                Self::CogVideoXDpm(config)
            }
            (Self::CogVideoXDpm(config), SchedulerKind::CogVideoXDdim) => {
                Self::CogVideoXDdim(config)
            }
            (other, kind) => {
                return Err(SchedulerError::Unsupported {
                    key: "scheduler".into(),
                    value: kind.to_string(),
                    supported: match other.flow_shift() {
                        Some(_) => "unipc, euler with this model".into(),
                        None => "ddim, dpm with this model".into(),
                    },
                });
            }
        })
    }

    /// A scheduler for a run of `steps` steps; one that adds noise takes it from `noise`.
    ///
    /// # Errors
    ///
    /// If `steps` is 0 or more than [`SchedulerConfig::num_train_timesteps`], or if a shift is so
    /// extreme that neighboring noise levels are the same number.
    pub fn build(
        &self,
        steps: usize,
        noise: StepNoise,
    ) -> Result<Box<dyn Scheduler>, SchedulerError> {
        let max = self.num_train_timesteps();
        if steps == 0 || steps > max {
            return Err(SchedulerError::Steps { steps, max });
        }
        let scheduler: Box<dyn Scheduler> = match self {
            Self::UniPc(config) => Box::new(UniPc::new(config, steps)),
            Self::FlowMatchEuler(config) => Box::new(FlowMatchEuler::new(config, steps)),
            Self::CogVideoXDdim(config) => Box::new(CogVideoXDdim::new(config, steps)?),
            Self::CogVideoXDpm(config) => Box::new(CogVideoXDpm::new(config, steps, noise)?),
        };
        let Some(flow_shift) = self.flow_shift() else { return Ok(scheduler) };
        if !scheduler.sigmas().is_sorted_by(|noisier, cleaner| noisier > cleaner) {
            let supported = format!("values that keep {steps} noise levels apart");
            return Err(unsupported("flow_shift", &Value::from(flow_shift), supported));
        }
        Ok(scheduler)
    }
}
