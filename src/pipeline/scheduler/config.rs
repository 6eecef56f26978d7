//! `scheduler_config.json`: what is implemented is read, what is not is an error.
//!
//! Missing keys take the defaults of diffusers. Keys that cannot change the result of a flow
//! schedule (`beta_start`, `timestep_spacing`, …) are ignored.

use super::{FlowMatchEuler, Scheduler, SchedulerError, SchedulerKind, UniPc};
use serde_json::{Map, Value};

/// More noise levels than any model was trained with; a limit against damaged files.
const MAX_TRAIN_TIMESTEPS: u64 = 1_000_000;

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
#[derive(Clone, Debug, PartialEq)]
pub enum SchedulerConfig {
    /// `UniPCMultistepScheduler` with flow sigmas.
    UniPc(UniPcConfig),
    /// `FlowMatchEulerDiscreteScheduler`.
    FlowMatchEuler(FlowMatchEulerConfig),
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
        }
    }

    /// Shift of the schedule towards noise.
    pub const fn flow_shift(&self) -> f64 {
        match self {
            Self::UniPc(config) => config.flow_shift,
            Self::FlowMatchEuler(config) => config.shift,
        }
    }

    /// Noise levels the model was trained with; also the largest number of steps.
    pub const fn num_train_timesteps(&self) -> usize {
        match self {
            Self::UniPc(config) => config.num_train_timesteps,
            Self::FlowMatchEuler(config) => config.num_train_timesteps,
        }
    }

    /// The same with another shift.
    ///
    /// # Errors
    ///
    /// If it is not a positive number.
    pub fn with_flow_shift(mut self, flow_shift: f64) -> Result<Self, SchedulerError> {
        check_shift("flow_shift", flow_shift)?;
        match &mut self {
            Self::UniPc(config) => config.flow_shift = flow_shift,
            Self::FlowMatchEuler(config) => config.shift = flow_shift,
        }
        Ok(self)
    }

    /// The same shift and training length for another scheduler, whose own options are the
    /// defaults; unchanged if it is of that kind already.
    #[must_use]
    pub fn with_kind(self, kind: SchedulerKind) -> Self {
        let (num_train_timesteps, shift) = (self.num_train_timesteps(), self.flow_shift());
        match kind {
            _ if kind == self.kind() => self,
            SchedulerKind::UniPc => Self::UniPc(UniPcConfig {
                num_train_timesteps,
                flow_shift: shift,
                solver_order: 2,
                solver_type: SolverType::Bh2,
                disable_corrector: Vec::new(),
            }),
            SchedulerKind::FlowMatchEuler => {
                Self::FlowMatchEuler(FlowMatchEulerConfig { num_train_timesteps, shift })
            }
        }
    }

    /// A scheduler for a run of `steps` steps.
    ///
    /// # Errors
    ///
    /// If `steps` is 0 or more than [`SchedulerConfig::num_train_timesteps`], or if the shift is so
    /// extreme that neighboring noise levels are the same number.
    pub fn build(&self, steps: usize) -> Result<Box<dyn Scheduler>, SchedulerError> {
        let max = self.num_train_timesteps();
        if steps == 0 || steps > max {
            return Err(SchedulerError::Steps { steps, max });
        }
        let scheduler: Box<dyn Scheduler> = match self {
            Self::UniPc(config) => Box::new(UniPc::new(config, steps)),
            Self::FlowMatchEuler(config) => Box::new(FlowMatchEuler::new(config, steps)),
        };
        if !scheduler.sigmas().is_sorted_by(|noisier, cleaner| noisier > cleaner) {
            let supported = format!("values that keep {steps} noise levels apart");
            return Err(unsupported("flow_shift", &Value::from(self.flow_shift()), supported));
        }
        Ok(scheduler)
    }
}

/// The entries of the configuration, with checked access.
struct Options<'a>(&'a Map<String, Value>);

impl Options<'_> {
    fn unipc(&self) -> Result<UniPcConfig, SchedulerError> {
        self.require("prediction_type", Value::from("epsilon"), Value::from("flow_prediction"))?;
        self.require("use_flow_sigmas", Value::from(false), Value::from(true))?;
        self.require("predict_x0", Value::from(true), Value::from(true))?;
        self.require("lower_order_final", Value::from(true), Value::from(true))?;
        self.require("final_sigmas_type", Value::from("zero"), Value::from("zero"))?;
        self.require("thresholding", Value::from(false), Value::from(false))?;
        self.require("solver_p", Value::Null, Value::Null)?;
        self.require_plain_schedule()?;
        let solver_type = match self.0.get("solver_type") {
            None => SolverType::Bh2,
            Some(value) => match value.as_str() {
                Some("bh1") => SolverType::Bh1,
                // diffusers takes the names of other schedulers' solvers for bh2
                Some("bh2" | "midpoint" | "heun" | "logrho") => SolverType::Bh2,
                _ => return Err(unsupported("solver_type", value, "\"bh1\" and \"bh2\"")),
            },
        };
        Ok(UniPcConfig {
            num_train_timesteps: self.num_train_timesteps()?,
            flow_shift: self.shift("flow_shift")?,
            solver_order: self.integer("solver_order", 2, 1..=3)?,
            solver_type,
            disable_corrector: self.disable_corrector()?,
        })
    }

    fn euler(&self) -> Result<FlowMatchEulerConfig, SchedulerError> {
        self.require("invert_sigmas", Value::from(false), Value::from(false))?;
        self.require("stochastic_sampling", Value::from(false), Value::from(false))?;
        self.require_plain_schedule()?;
        Ok(FlowMatchEulerConfig {
            num_train_timesteps: self.num_train_timesteps()?,
            shift: self.shift("shift")?,
        })
    }

    /// Nothing but the constant shift may bend the schedule.
    fn require_plain_schedule(&self) -> Result<(), SchedulerError> {
        for key in [
            "use_dynamic_shifting",
            "use_karras_sigmas",
            "use_exponential_sigmas",
            "use_beta_sigmas",
        ] {
            self.require(key, Value::from(false), Value::from(false))?;
        }
        self.require("shift_terminal", Value::Null, Value::Null)
    }

    /// Accepts `supported` as the only value of `key`.
    fn require(&self, key: &str, default: Value, supported: Value) -> Result<(), SchedulerError> {
        let value = self.0.get(key).unwrap_or(&default);
        if *value == supported { Ok(()) } else { Err(unsupported(key, value, supported)) }
    }

    fn integer(
        &self,
        key: &str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<usize, SchedulerError> {
        let Some(value) = self.0.get(key) else { return Ok(default as usize) };
        value
            .as_u64()
            .filter(|number| range.contains(number))
            .map(|number| number as usize)
            .ok_or_else(|| {
                unsupported(
                    key,
                    value,
                    format!("whole numbers from {} to {}", range.start(), range.end()),
                )
            })
    }

    fn num_train_timesteps(&self) -> Result<usize, SchedulerError> {
        self.integer("num_train_timesteps", 1000, 1..=MAX_TRAIN_TIMESTEPS)
    }

    fn shift(&self, key: &str) -> Result<f64, SchedulerError> {
        let Some(value) = self.0.get(key) else { return Ok(1.0) };
        let shift = value.as_f64().ok_or_else(|| unsupported(key, value, POSITIVE))?;
        check_shift(key, shift)?;
        Ok(shift)
    }

    fn disable_corrector(&self) -> Result<Vec<usize>, SchedulerError> {
        let Some(value) = self.0.get("disable_corrector") else { return Ok(Vec::new()) };
        let indices = value.as_array().and_then(|list| {
            list.iter().map(|index| usize::try_from(index.as_u64()?).ok()).collect()
        });
        indices.ok_or_else(|| unsupported("disable_corrector", value, "a list of step indices"))
    }
}

const POSITIVE: &str = "positive numbers";

fn check_shift(key: &str, shift: f64) -> Result<(), SchedulerError> {
    if shift.is_finite() && shift > 0.0 {
        return Ok(());
    }
    let value = shift.to_string();
    Err(SchedulerError::Unsupported { key: key.into(), value, supported: POSITIVE.into() })
}

fn unsupported(key: &str, value: &Value, supported: impl ToString) -> SchedulerError {
    SchedulerError::Unsupported {
        key: key.into(),
        value: value.to_string(),
        supported: supported.to_string(),
    }
}
