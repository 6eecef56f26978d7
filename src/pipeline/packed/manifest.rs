//! What a packed file says about itself.

use crate::method::LayerSpec;
use crate::quant::{Bits, Calibration, Scheme, TokenRange, TokenSpec, WeightSpec};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Grids of activations: the integer correction needs a whole zero point within the codes.
const ACTIVATION_SCHEMES: [Scheme; 3] =
    [Scheme::Symmetric, Scheme::Asymmetric, Scheme::AsymmetricClamped];

/// Value of the metadata entry `format`.
pub const FORMAT: &str = "qvgen-packed";
/// Value of the metadata entry `version`: the layout of codes and tensors.
pub const VERSION: &str = "1";

/// Why a packed file cannot be used; the caller adds the path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The metadata is missing or no manifest.
    #[error("its quantization metadata is unusable ({0})")]
    Unreadable(String),
    /// A later or foreign layout.
    #[error("it has packed format version {0:?}, this program reads version \"{VERSION}\"")]
    Version(String),
    /// A value that is not implemented.
    #[error(
        "layer \"{layer}\" has {key} {value:?}, which this program does not implement ({known})"
    )]
    Unknown {
        /// Layer name.
        layer: String,
        /// Key of the entry.
        key: &'static str,
        /// Value found.
        value: String,
        /// Values that are implemented.
        known: String,
    },
}

/// All there is to know about the quantization of a component.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Program and version that wrote the file.
    pub generator: String,
    /// Precision that was asked for, such as `w4a4`; layers may differ.
    pub precision: String,
    /// SHA-256 of the source's weight files, in order of their names, hexadecimal.
    pub source_sha256: String,
    /// Quantized layers by name; a linear layer that is not listed is in full precision.
    pub layers: BTreeMap<String, LayerEntry>,
}

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
    /// `minmax`, `mse` or the method that trained the codes; informative.
    pub calibration: String,
    /// How the activations are quantized; absent for weight-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations: Option<ActivationEntry>,
}

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

impl Manifest {
    /// Reads the metadata of a file; `None` if it is not of this format.
    ///
    /// # Errors
    ///
    /// If it is of this format but of another version, or unreadable.
    pub fn from_metadata(
        metadata: &BTreeMap<String, String>,
    ) -> Result<Option<Self>, ManifestError> {
        if metadata.get("format").map(String::as_str) != Some(FORMAT) {
            return Ok(None);
        }
        let version = metadata.get("version").cloned().unwrap_or_default();
        if version != VERSION {
            return Err(ManifestError::Version(version));
        }
        let text = metadata
            .get("quantization")
            .ok_or_else(|| ManifestError::Unreadable("it is missing".to_owned()))?;
        let manifest: Self =
            serde_json::from_str(text).map_err(|err| ManifestError::Unreadable(err.to_string()))?;
        for (name, entry) in &manifest.layers {
            entry.to_spec(name)?;
        }
        Ok(Some(manifest))
    }

    /// The metadata of a file.
    ///
    /// # Panics
    ///
    /// Never: a manifest has only keys and values that JSON can hold.
    pub fn to_metadata(&self) -> BTreeMap<String, String> {
        let text = serde_json::to_string(self).expect("a manifest is plain data");
        [("format", FORMAT), ("version", VERSION), ("quantization", &text)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }
}

impl LayerEntry {
    /// The entry of a layer quantized by `spec`.
    pub fn from_spec(spec: &LayerSpec) -> Self {
        let WeightSpec { bits, scheme, group_size, calibration } = spec.weights;
        Self {
            bits: bits.get(),
            scheme: scheme.name().to_owned(),
            granularity: if group_size.is_some() { "per_group" } else { "per_channel" }.to_owned(),
            group_size,
            calibration: match calibration {
                Calibration::MinMax => "minmax",
                Calibration::Mse => "mse",
            }
            .to_owned(),
            activations: spec.activations.as_ref().map(ActivationEntry::from_spec),
        }
    }

    /// How layer `name` is to be computed.
    ///
    /// # Errors
    ///
    /// If a value is not implemented.
    pub fn to_spec(&self, name: &str) -> Result<LayerSpec, ManifestError> {
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
        Ok(LayerSpec {
            weights: WeightSpec {
                bits: bits(name, self.bits)?,
                scheme: scheme(name, &self.scheme)?,
                group_size,
                calibration: Calibration::MinMax,
            },
            activations: self.activations.as_ref().map(|entry| entry.to_spec(name)).transpose()?,
        })
    }
}

impl ActivationEntry {
    fn from_spec(spec: &TokenSpec) -> Self {
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

    fn to_spec(&self, name: &str) -> Result<TokenSpec, ManifestError> {
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
        let scheme = scheme(name, &self.scheme)?;
        if !ACTIVATION_SCHEMES.contains(&scheme) {
            let known = ACTIVATION_SCHEMES.map(Scheme::name).join(", ");
            return Err(unknown(name, "scheme", self.scheme.as_str(), known));
        }
        let bits = bits(name, self.bits)?;
        if bits == Bits::B2 {
            return Err(unknown(name, "activation bits", "2", "3, 4, 8"));
        }
        Ok(TokenSpec { bits, scheme, range })
    }
}

fn bits(layer: &str, value: u32) -> Result<Bits, ManifestError> {
    Bits::from_u32(value).ok_or_else(|| unknown(layer, "bits", value.to_string(), "2, 3, 4, 8"))
}

fn scheme(layer: &str, value: &str) -> Result<Scheme, ManifestError> {
    let known = Scheme::ALL.map(Scheme::name).join(", ");
    Scheme::from_name(value).ok_or_else(|| unknown(layer, "scheme", value, known))
}

fn unknown(
    layer: &str,
    key: &'static str,
    value: impl Into<String>,
    known: impl Into<String>,
) -> ManifestError {
    ManifestError::Unknown {
        layer: layer.to_owned(),
        key,
        value: value.into(),
        known: known.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let spec = LayerSpec {
            weights: WeightSpec {
                bits: Bits::B3,
                scheme: Scheme::AsymmetricReal,
                group_size: Some(64),
                calibration: Calibration::MinMax,
            },
            activations: Some(TokenSpec {
                bits: Bits::B4,
                scheme: Scheme::Asymmetric,
                range: TokenRange::Dynamic { clip_upper: 0.9, clip_lower: 0.8 },
            }),
        };
        Manifest {
            generator: "test".to_owned(),
            precision: "w3a4".to_owned(),
            source_sha256: String::new(),
            layers: [("a".to_owned(), LayerEntry::from_spec(&spec))].into(),
        }
    }

    #[test]
    fn a_manifest_survives_its_metadata() {
        let manifest = manifest();
        let metadata = manifest.to_metadata();
        let read = Manifest::from_metadata(&metadata).unwrap().unwrap();
        assert_eq!(read, manifest);
        let entry = &manifest.layers["a"];
        assert_eq!(LayerEntry::from_spec(&entry.to_spec("a").unwrap()), *entry);
    }

    #[test]
    fn other_files_are_not_of_this_format() {
        assert_eq!(Manifest::from_metadata(&BTreeMap::new()), Ok(None));
        let pytorch = [("format".to_owned(), "pt".to_owned())].into();
        assert_eq!(Manifest::from_metadata(&pytorch), Ok(None));
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        let mut metadata = manifest().to_metadata();
        metadata.insert("version".to_owned(), "2".to_owned());
        let error = Manifest::from_metadata(&metadata).unwrap_err().to_string();
        assert!(error.contains("version \"2\""), "{error}");

        type Change = fn(&mut LayerEntry);
        let changes: [(Change, &str); 6] = [
            (|entry| entry.bits = 5, "bits \"5\""),
            (|entry| entry.scheme = "log".to_owned(), "scheme \"log\""),
            (|entry| entry.granularity = "per_block".to_owned(), "granularity \"per_block\""),
            (|entry| entry.group_size = Some(33), "group_size"),
            (
                |entry| {
                    entry.activations.as_mut().unwrap().scheme = "asymmetric-real".to_owned();
                },
                "scheme \"asymmetric-real\"",
            ),
            (|entry| entry.activations.as_mut().unwrap().upper = f32::NAN, "unusable"),
        ];
        for (change, expected) in changes {
            let mut manifest = manifest();
            change(manifest.layers.get_mut("a").unwrap());
            let error = Manifest::from_metadata(&manifest.to_metadata()).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
