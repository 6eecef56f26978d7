//! What a packed file says about the activations of one layer.

use super::layer_entry::{bits, scheme};
use super::manifest::{ManifestError, unknown};
use crate::quant::{Bits, ByStep, LogSpec, PerFrame, Scheme, StepRule, TokenRange, TokenSpec};
use serde::{Deserialize, Serialize};

/// Grids of activations: the integer correction needs a whole zero point within the codes.
const SCHEMES: [Scheme; 3] = [Scheme::Symmetric, Scheme::Asymmetric, Scheme::AsymmetricClamped];

/// Most groups of steps and ranges of frames that a layer may have.
const MAX_GROUPS: usize = 4096;

/// How activations are quantized.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivationEntry {
    /// Width of a code.
    pub bits: u32,
    /// Name of the [`Scheme`].
    pub scheme: String,
    /// `per_token` (range from the live values) or `per_tensor` (range given here).
    pub granularity: String,
    /// Factor of the maximum, or upper end of the range.
    pub upper: f32,
    /// Factor of the minimum, or lower end of the range.
    pub lower: f32,
}

/// How activations are quantized by step of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepEntry {
    /// Name of the [`StepRule`].
    pub rule: String,
    /// For `timestep_range`: the timesteps between the groups, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bounds: Vec<f32>,
    /// One quantizer per group.
    pub groups: Vec<ActivationEntry>,
}

/// How activations are quantized by frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameEntry {
    /// Width of a code.
    pub bits: u32,
    /// Name of the [`Scheme`].
    pub scheme: String,
    /// `[lower, upper]` end of the range by latent frame.
    pub ranges: Vec<[f32; 2]>,
}

/// How logarithms of activations become codes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogEntry {
    /// Width of a code, sign and zero included.
    pub bits: u32,
    /// Codes per factor of two.
    pub steps_per_octave: u32,
    /// The largest magnitude.
    pub absmax: f32,
}

impl ActivationEntry {
    pub(super) fn from_spec(spec: &TokenSpec) -> Self {
        let (granularity, upper, lower) = match spec.range {
            TokenRange::Dynamic { clip_upper, clip_lower } => ("per_token", clip_upper, clip_lower),
            TokenRange::Static { min, max } => ("per_tensor", max, min),
        };
        Self {
            bits: spec.bits.get(),
            scheme: spec.scheme.name().to_owned(),
            granularity: granularity.to_owned(),
            upper,
            lower,
        }
    }

    pub(super) fn to_spec(&self, name: &str) -> Result<TokenSpec, ManifestError> {
        let (upper, lower) = (self.upper, self.lower);
        let is_static = self.granularity == "per_tensor";
        if !(upper.is_finite() && lower.is_finite()) || (is_static && lower > upper) {
            return Err(unknown(name, "range", format!("{lower}..{upper}"), "finite, ascending"));
        }
        let range = match self.granularity.as_str() {
            "per_token" => TokenRange::Dynamic { clip_upper: upper, clip_lower: lower },
            "per_tensor" => TokenRange::Static { min: lower, max: upper },
            other => return Err(unknown(name, "granularity", other, "per_token, per_tensor")),
        };
        let scheme = token_scheme(name, &self.scheme)?;
        Ok(TokenSpec { bits: token_bits(name, self.bits)?, scheme, range })
    }
}

impl StepEntry {
    pub(super) fn from_steps(steps: &ByStep) -> Self {
        let bounds = match &steps.rule {
            StepRule::TimestepRange(bounds) => bounds.clone(),
            _ => Vec::new(),
        };
        let groups = steps.specs.iter().map(ActivationEntry::from_spec).collect();
        Self { rule: steps.rule.name().to_owned(), bounds, groups }
    }

    pub(super) fn to_steps(&self, name: &str) -> Result<ByStep, ManifestError> {
        check_count(name, "groups", self.groups.len())?;
        let rule = match self.rule.as_str() {
            "call_countdown" => StepRule::CallCountdown,
            "step_countdown" => StepRule::StepCountdown,
            "timestep_modulo" => StepRule::TimestepModulo,
            "timestep_range" => StepRule::TimestepRange(self.bounds.clone()),
            other => {
                let known = "call_countdown, step_countdown, timestep_modulo, timestep_range";
                return Err(unknown(name, "rule", other, known));
            }
        };
        let is_ascending = self.bounds.windows(2).all(|two| two[0] < two[1]);
        let is_finite = self.bounds.iter().all(|bound| bound.is_finite());
        let expected = if self.rule == "timestep_range" { self.groups.len() - 1 } else { 0 };
        if self.bounds.len() != expected || !is_ascending || !is_finite {
            let known = format!("{expected} ascending timesteps");
            return Err(unknown(name, "bounds", format!("{:?}", self.bounds), known));
        }
        let specs = self.groups.iter().map(|group| group.to_spec(name));
        Ok(ByStep { rule, specs: specs.collect::<Result<_, _>>()? })
    }

    /// The widest code.
    pub(super) fn bits(&self) -> Option<u32> {
        self.groups.iter().map(|group| group.bits).max()
    }
}

impl FrameEntry {
    pub(super) fn from_frames(frames: &PerFrame) -> Self {
        let PerFrame { bits, scheme, ranges } = frames;
        Self { bits: bits.get(), scheme: scheme.name().to_owned(), ranges: ranges.clone() }
    }

    pub(super) fn to_frames(&self, name: &str) -> Result<PerFrame, ManifestError> {
        check_count(name, "ranges", self.ranges.len())?;
        let is_range = |range: &&[f32; 2]| {
            let [lower, upper] = **range;
            lower.is_finite() && upper.is_finite() && lower <= upper
        };
        if let Some([lower, upper]) = self.ranges.iter().find(|range| !is_range(range)) {
            return Err(unknown(name, "range", format!("{lower}..{upper}"), "finite, ascending"));
        }
        let scheme = token_scheme(name, &self.scheme)?;
        let bits = token_bits(name, self.bits)?;
        Ok(PerFrame { bits, scheme, ranges: self.ranges.clone() })
    }
}

impl LogEntry {
    pub(super) fn from_log(log: LogSpec) -> Self {
        let LogSpec { bits, steps_per_octave, absmax } = log;
        Self { bits: bits.get(), steps_per_octave, absmax }
    }

    pub(super) fn to_log(&self, name: &str) -> Result<LogSpec, ManifestError> {
        let Self { steps_per_octave, absmax, .. } = *self;
        let log = LogSpec { bits: token_bits(name, self.bits)?, steps_per_octave, absmax };
        let value = || format!("{steps_per_octave} steps_per_octave, absmax {absmax}");
        log.check().map_err(|known| unknown(name, "activations_log", value(), known))?;
        Ok(log)
    }
}

fn token_scheme(name: &str, value: &str) -> Result<Scheme, ManifestError> {
    let scheme = scheme(name, value)?;
    if SCHEMES.contains(&scheme) {
        return Ok(scheme);
    }
    Err(unknown(name, "scheme", value, SCHEMES.map(Scheme::name).join(", ")))
}

fn token_bits(name: &str, value: u32) -> Result<Bits, ManifestError> {
    let width = bits(name, value)?;
    if Bits::OF_TOKENS.contains(&width) {
        return Ok(width);
    }
    Err(unknown(name, "activation bits", value.to_string(), "3, 4, 6, 8"))
}

fn check_count(name: &str, key: &'static str, count: usize) -> Result<(), ManifestError> {
    if (1..=MAX_GROUPS).contains(&count) {
        return Ok(());
    }
    Err(unknown(name, key, count.to_string(), format!("1 to {MAX_GROUPS} of them")))
}
