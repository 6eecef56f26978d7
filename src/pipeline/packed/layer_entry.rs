//! What a packed file says about one layer.

use super::activation_entry::{ActivationEntry, FrameEntry, LogEntry, StepEntry};
use super::manifest::{ManifestError, unknown};
use crate::method::LayerSpec;
use crate::quant::{
    ActivationQuantizer, Bits, Calibration, QuantizedLayer, Scheme, WeightSpec, check_hadamard,
};
use serde::{Deserialize, Serialize};

/// How one layer was quantized.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerEntry {
    /// Width of the weight's codes.
    pub bits: u32,
    /// Name of the weight's [`Scheme`].
    pub scheme: String,
    /// `per_channel` or `per_group`.
    pub granularity: String,
    /// Elements of a row that share a grid, for `per_group`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_size: Option<usize>,
    /// `minmax`, `mse` or the method that found the codes; informative.
    pub calibration: String,
    /// How the activations are quantized; absent for weight-only, or if one of the next three says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations: Option<ActivationEntry>,
    /// How they are quantized by step of a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations_by_step: Option<StepEntry>,
    /// How they are quantized by frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations_per_frame: Option<FrameEntry>,
    /// How their logarithms become codes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations_log: Option<LogEntry>,
    /// What happens to tokens before they are quantized; absent for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transform: Option<TransformEntry>,
    /// Rank of a branch beside the weight; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low_rank: Option<usize>,
}

/// What happens to tokens before they are quantized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransformEntry {
    /// Whether `<layer>.input_shift` is subtracted.
    #[serde(default)]
    pub shift: bool,
    /// Whether they are divided by `<layer>.input_scale`.
    #[serde(default)]
    pub scale: bool,
    /// Width of the blocks of a Walsh–Hadamard transform; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hadamard: Option<usize>,
}

impl LayerEntry {
    /// The entry of a layer quantized by `spec`.
    pub fn from_spec(spec: &LayerSpec) -> Self {
        let calibration = match spec.weights.calibration {
            Calibration::MinMax => "minmax",
            Calibration::Mse => "mse",
        };
        Self {
            activations: spec.activations.as_ref().map(ActivationEntry::from_spec),
            ..Self::weight_only(&spec.weights, calibration)
        }
    }

    /// The entry of `layer`, which `method` found.
    pub fn from_layer(layer: &QuantizedLayer, method: &str) -> Self {
        let rows = &layer.rows;
        let spec = WeightSpec {
            bits: rows.bits,
            scheme: layer.scheme,
            group_size: (rows.groups() > 1).then_some(rows.group_size),
            calibration: Calibration::MinMax,
        };
        let transform = (!layer.transform.is_none()).then_some(TransformEntry {
            shift: layer.transform.shift.is_some(),
            scale: layer.transform.scale.is_some(),
            hadamard: layer.transform.hadamard,
        });
        let low_rank = layer.low_rank.as_ref().map(|branch| branch.rank);
        let entry = Self { transform, low_rank, ..Self::weight_only(&spec, method) };
        match &layer.activations {
            None => entry,
            Some(quantizer) => entry.with_activations(quantizer),
        }
    }

    /// The same with activations quantized by `quantizer`.
    #[must_use]
    pub fn with_activations(self, quantizer: &ActivationQuantizer) -> Self {
        let mut entry = Self {
            activations: None,
            activations_by_step: None,
            activations_per_frame: None,
            activations_log: None,
            ..self
        };
        match quantizer {
            ActivationQuantizer::Uniform(spec) => {
                entry.activations = Some(ActivationEntry::from_spec(spec));
            }
            ActivationQuantizer::ByStep(steps) => {
                entry.activations_by_step = Some(StepEntry::from_steps(steps));
            }
            ActivationQuantizer::PerFrame(frames) => {
                entry.activations_per_frame = Some(FrameEntry::from_frames(frames));
            }
            ActivationQuantizer::Log(log) => {
                entry.activations_log = Some(LogEntry::from_log(*log));
            }
        }
        entry
    }

    fn weight_only(spec: &WeightSpec, calibration: &str) -> Self {
        let WeightSpec { bits, scheme, group_size, .. } = *spec;
        Self {
            bits: bits.get(),
            scheme: scheme.name().to_owned(),
            granularity: if group_size.is_some() { "per_group" } else { "per_channel" }.to_owned(),
            group_size,
            calibration: calibration.to_owned(),
            activations: None,
            activations_by_step: None,
            activations_per_frame: None,
            activations_log: None,
            transform: None,
            low_rank: None,
        }
    }

    /// Whether the first version of the format has no words for this layer.
    pub(super) fn is_extended(&self) -> bool {
        let plain = Self {
            activations_by_step: None,
            activations_per_frame: None,
            activations_log: None,
            transform: None,
            low_rank: None,
            ..self.clone()
        };
        let activation_bits = self.activations.as_ref().map_or(0, |entry| entry.bits);
        plain != *self || [self.bits, activation_bits].contains(&Bits::B6.get())
    }

    /// How the weight of layer `name` is stored.
    ///
    /// # Errors
    ///
    /// If a value is not implemented.
    pub fn weights(&self, name: &str) -> Result<WeightSpec, ManifestError> {
        let group_size = match (self.granularity.as_str(), self.group_size) {
            ("per_channel", None) => None,
            ("per_group", Some(size)) if size > 0 && size % 32 == 0 => Some(size),
            ("per_channel" | "per_group", size) => {
                let value = format!("{size:?}");
                let known = "a multiple of 32 for per_group, none for per_channel";
                return Err(unknown(name, "group_size", value, known));
            }
            (other, _) => {
                return Err(unknown(name, "granularity", other, "per_channel, per_group"));
            }
        };
        Ok(WeightSpec {
            bits: bits(name, self.bits)?,
            scheme: scheme(name, &self.scheme)?,
            group_size,
            calibration: Calibration::MinMax,
        })
    }

    /// How the activations of layer `name` are quantized; `None` for weight-only.
    ///
    /// # Errors
    ///
    /// If a value is not implemented, or there are two quantizers.
    pub fn quantizer(&self, name: &str) -> Result<Option<ActivationQuantizer>, ManifestError> {
        let one = self.activations.as_ref().map(|entry| Ok(entry.to_spec(name)?.into()));
        let steps = self.activations_by_step.as_ref();
        let steps = steps.map(|entry| Ok(ActivationQuantizer::ByStep(entry.to_steps(name)?)));
        let frames = self.activations_per_frame.as_ref();
        let frames = frames.map(|entry| Ok(ActivationQuantizer::PerFrame(entry.to_frames(name)?)));
        let log = self.activations_log.as_ref();
        let log = log.map(|entry| Ok(ActivationQuantizer::Log(entry.to_log(name)?)));
        let mut found = [one, steps, frames, log].into_iter().flatten();
        let quantizer = found.next().transpose()?;
        match found.count() {
            0 => Ok(quantizer),
            more => {
                let known = "at most one entry of activations";
                Err(unknown(name, "activations", format!("{} entries", more + 1), known))
            }
        }
    }

    /// What happens to tokens of layer `name` first; of `in_features` values if that is known.
    ///
    /// # Errors
    ///
    /// If a value is not implemented.
    pub fn transform(
        &self,
        name: &str,
        in_features: Option<usize>,
    ) -> Result<TransformEntry, ManifestError> {
        let entry = self.transform.unwrap_or_default();
        if let Some(block) = entry.hadamard {
            check_hadamard(block, in_features.unwrap_or(block))
                .map_err(|known| unknown(name, "hadamard", block.to_string(), known))?;
        }
        Ok(entry)
    }

    /// Rank of the branch of layer `name` `[out_features, in_features]`; `None` without one.
    ///
    /// # Errors
    ///
    /// If the branch would be larger than the layer.
    pub fn rank(
        &self,
        name: &str,
        shape: Option<[usize; 2]>,
    ) -> Result<Option<usize>, ManifestError> {
        let most = shape.map_or(usize::MAX, |[n, k]| n.min(k));
        match self.low_rank {
            Some(rank) if rank == 0 || rank > most => {
                let known = "at least 1, at most the layer's smaller side";
                Err(unknown(name, "low_rank", rank.to_string(), known))
            }
            rank => Ok(rank),
        }
    }

    /// Bytes on the device of what layer `[out_features, in_features]` has beside its codes, grids
    /// and bias: all of it is f32 there.
    pub fn extra_bytes(&self, [out_features, in_features]: [u64; 2]) -> u64 {
        let entry = self.transform.unwrap_or_default();
        let rows = u64::from(entry.shift) + u64::from(entry.scale);
        let rank = self.low_rank.unwrap_or(0) as u64;
        let branch = rank.saturating_mul(in_features.saturating_add(out_features));
        rows.saturating_mul(in_features).saturating_add(branch).saturating_mul(4)
    }

    /// Precision in one word, such as `w4a4`.
    pub fn precision(&self) -> String {
        let widths = [
            self.activations.as_ref().map(|entry| entry.bits),
            self.activations_by_step.as_ref().and_then(StepEntry::bits),
            self.activations_per_frame.as_ref().map(|entry| entry.bits),
            self.activations_log.as_ref().map(|entry| entry.bits),
        ];
        let activations = widths.into_iter().flatten().next().unwrap_or(16);
        format!("w{}a{activations}", self.bits)
    }

    /// How layer `name` is quantized, for entries of the first version.
    ///
    /// # Errors
    ///
    /// If a value is not implemented, or activations have other quantizers than one for all.
    pub fn to_spec(&self, name: &str) -> Result<LayerSpec, ManifestError> {
        let activations = match self.quantizer(name)? {
            None => None,
            Some(ActivationQuantizer::Uniform(spec)) => Some(spec),
            Some(_) => {
                let known = "one quantizer for all tokens and steps";
                return Err(unknown(name, "activations", "several quantizers", known));
            }
        };
        Ok(LayerSpec { weights: self.weights(name)?, activations })
    }
}

pub(super) fn bits(layer: &str, value: u32) -> Result<Bits, ManifestError> {
    Bits::from_u32(value).ok_or_else(|| unknown(layer, "bits", value.to_string(), "2, 3, 4, 6, 8"))
}

pub(super) fn scheme(layer: &str, value: &str) -> Result<Scheme, ManifestError> {
    let known = Scheme::ALL.map(Scheme::name).join(", ");
    Scheme::from_name(value).ok_or_else(|| unknown(layer, "scheme", value, known))
}
