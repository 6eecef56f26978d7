//! The values of a `scheduler_config.json`, each honored or refused by name.

use super::cogvideox::{CogVideoXConfig, Prediction, TimestepSpacing};
use super::config::{FlowMatchEulerConfig, SolverType, UniPcConfig};
use super::{SchedulerError, unsupported};
use serde_json::{Map, Value};
use std::fmt::Display;
use std::ops::RangeInclusive;

/// More noise levels than any model was trained with; a limit against damaged files.
const MAX_TRAIN_TIMESTEPS: u64 = 1_000_000;
const POSITIVE: &str = "positive numbers";

/// The entries of the configuration, with checked access.
pub(super) struct Options<'a>(pub(super) &'a Map<String, Value>);

impl Options<'_> {
    pub(super) fn unipc(&self) -> Result<UniPcConfig, SchedulerError> {
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
            flow_shift: self.positive("flow_shift", 1.0)?,
            solver_order: self.integer("solver_order", 2, 1..=3)?,
            solver_type,
            disable_corrector: self.disable_corrector()?,
        })
    }

    pub(super) fn euler(&self) -> Result<FlowMatchEulerConfig, SchedulerError> {
        self.require("invert_sigmas", Value::from(false), Value::from(false))?;
        self.require("stochastic_sampling", Value::from(false), Value::from(false))?;
        self.require_plain_schedule()?;
        Ok(FlowMatchEulerConfig {
            num_train_timesteps: self.num_train_timesteps()?,
            shift: self.positive("shift", 1.0)?,
        })
    }

    /// Both CogVideoX schedulers. `clip_sample` and what belongs to it are in the files, but the
    /// reference never clips.
    pub(super) fn cogvideox(&self) -> Result<CogVideoXConfig, SchedulerError> {
        let scaled = Value::from("scaled_linear");
        self.require("beta_schedule", scaled.clone(), scaled)?;
        self.require("trained_betas", Value::Null, Value::Null)?;
        let predictions = [
            ("v_prediction", Prediction::Velocity),
            ("epsilon", Prediction::Noise),
            ("sample", Prediction::Sample),
        ];
        let spacings = [
            ("trailing", TimestepSpacing::Trailing),
            ("leading", TimestepSpacing::Leading),
            ("linspace", TimestepSpacing::Linspace),
        ];
        let rescale_betas_zero_snr = self.flag("rescale_betas_zero_snr", false)?;
        let prediction = self.choice("prediction_type", "epsilon", &predictions)?;
        if rescale_betas_zero_snr && prediction == Prediction::Noise {
            // the noisiest level is noise alone: nothing of the sample can be had by subtracting it
            let supported = "\"v_prediction\" and \"sample\" together with rescale_betas_zero_snr";
            return Err(unsupported("prediction_type", &Value::from("epsilon"), supported));
        }
        Ok(CogVideoXConfig {
            num_train_timesteps: self.num_train_timesteps()?,
            beta_start: self.share("beta_start", 0.00085)?,
            beta_end: self.share("beta_end", 0.012)?,
            snr_shift_scale: self.positive("snr_shift_scale", 3.0)?,
            rescale_betas_zero_snr,
            set_alpha_to_one: self.flag("set_alpha_to_one", true)?,
            steps_offset: self.integer("steps_offset", 0, 0..=MAX_TRAIN_TIMESTEPS)?,
            prediction,
            timestep_spacing: self.choice("timestep_spacing", "leading", &spacings)?,
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

    /// One of several names.
    fn choice<T: Copy>(
        &self,
        key: &str,
        default: &str,
        choices: &[(&str, T)],
    ) -> Result<T, SchedulerError> {
        let default = Value::from(default);
        let value = self.0.get(key).unwrap_or(&default);
        let found = choices.iter().find(|(name, _)| value.as_str() == Some(name));
        found.map(|&(_, choice)| choice).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
            unsupported(key, value, names.join(", "))
        })
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, SchedulerError> {
        let Some(value) = self.0.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| unsupported(key, value, "true and false"))
    }

    fn integer(
        &self,
        key: &str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Result<usize, SchedulerError> {
        let Some(value) = self.0.get(key) else { return Ok(default as usize) };
        let number = value.as_u64().filter(|number| range.contains(number));
        number.map(|number| number as usize).ok_or_else(|| {
            let (first, last) = (range.start(), range.end());
            unsupported(key, value, format!("whole numbers from {first} to {last}"))
        })
    }

    fn num_train_timesteps(&self) -> Result<usize, SchedulerError> {
        self.integer("num_train_timesteps", 1000, 1..=MAX_TRAIN_TIMESTEPS)
    }

    fn number(
        &self,
        key: &str,
        default: f64,
        supported: impl Display,
        accepts: impl Fn(f64) -> bool,
    ) -> Result<f64, SchedulerError> {
        let Some(value) = self.0.get(key) else { return Ok(default) };
        let number = value.as_f64().filter(|&number| accepts(number));
        number.ok_or_else(|| unsupported(key, value, supported))
    }

    fn positive(&self, key: &str, default: f64) -> Result<f64, SchedulerError> {
        self.number(key, default, POSITIVE, is_positive)
    }

    /// A number between 0 and 1, without these.
    fn share(&self, key: &str, default: f64) -> Result<f64, SchedulerError> {
        let inside = |number| number > 0.0 && number < 1.0;
        self.number(key, default, "numbers between 0 and 1", inside)
    }

    fn disable_corrector(&self) -> Result<Vec<usize>, SchedulerError> {
        let Some(value) = self.0.get("disable_corrector") else { return Ok(Vec::new()) };
        let indices = value.as_array().and_then(|list| {
            list.iter().map(|index| usize::try_from(index.as_u64()?).ok()).collect()
        });
        indices.ok_or_else(|| unsupported("disable_corrector", value, "a list of step indices"))
    }
}

fn is_positive(number: f64) -> bool {
    number.is_finite() && number > 0.0
}

/// Refuses a shift that is no positive number.
pub(super) fn check_shift(key: &str, shift: f64) -> Result<(), SchedulerError> {
    if is_positive(shift) {
        return Ok(());
    }
    let value = shift.to_string();
    Err(SchedulerError::Unsupported { key: key.into(), value, supported: POSITIVE.into() })
}
