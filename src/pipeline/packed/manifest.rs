//! What a packed file says about itself.

use super::LayerEntry;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Value of the metadata entry `format`.
pub const FORMAT: &str = "qvgen-packed";
/// Value of the metadata entry `version`: codes, grids, and one quantizer of activations per layer.
pub const VERSION: &str = "1";
/// The same of files with 6-bit codes, transforms of tokens, branches of low rank, or activations
/// quantized by step, frame or logarithm, which a reader of the first version must refuse.
pub const VERSION_EXTENDED: &str = "2";

/// Why a packed file cannot be used; the caller adds the path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The metadata is missing or no manifest.
    #[error("its quantization metadata is unusable ({0})")]
    Unreadable(String),
    /// A later or foreign layout.
    #[error(
        "it has packed format version {0:?}, this program reads versions \"{VERSION}\" and \
         \"{VERSION_EXTENDED}\""
    )]
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
        if ![VERSION, VERSION_EXTENDED].contains(&version.as_str()) {
            return Err(ManifestError::Version(version));
        }
        let text = metadata
            .get("quantization")
            .ok_or_else(|| ManifestError::Unreadable("it is missing".to_owned()))?;
        let manifest: Self =
            serde_json::from_str(text).map_err(|err| ManifestError::Unreadable(err.to_string()))?;
        for (name, entry) in &manifest.layers {
            entry.weights(name)?;
            entry.quantizer(name)?;
            entry.transform(name, None)?;
            entry.rank(name, None)?;
        }
        Ok(Some(manifest))
    }

    /// The version that can say all this.
    pub fn version(&self) -> &'static str {
        let is_extended = self.layers.values().any(LayerEntry::is_extended);
        if is_extended { VERSION_EXTENDED } else { VERSION }
    }

    /// The metadata of a file.
    ///
    /// # Panics
    ///
    /// Never: a manifest has only keys and values that JSON can hold.
    pub fn to_metadata(&self) -> BTreeMap<String, String> {
        let text = serde_json::to_string(self).expect("a manifest is plain data");
        [("format", FORMAT), ("version", self.version()), ("quantization", &text)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }
}

pub(super) fn unknown(
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
    use crate::method::LayerSpec;
    use crate::pipeline::packed::ActivationEntry;
    use crate::quant::{
        ActivationQuantizer, Bits, ByStep, Calibration, InputTransform, LogSpec, LowRankBranch,
        PerFrame, QuantizedLayer, Scheme, StepRule, TokenRange, TokenSpec, WeightSpec,
        quantize_weight,
    };

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
        metadata.insert("version".to_owned(), "3".to_owned());
        let error = Manifest::from_metadata(&metadata).unwrap_err().to_string();
        assert!(error.contains("version \"3\""), "{error}");

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
    /// A layer with everything that there is, and one of each quantizer.
    fn extended() -> Manifest {
        let spec = token_spec();
        let rule = StepRule::TimestepRange(vec![500.0]);
        let steps = ByStep { rule, specs: vec![spec, TokenSpec { bits: Bits::B8, ..spec }] };
        let frames = PerFrame {
            bits: Bits::B8,
            scheme: Scheme::Asymmetric,
            ranges: vec![[-1.0, 1.0], [-2.0, 3.0]],
        };
        let log = LogSpec { bits: Bits::B8, steps_per_octave: 12, absmax: 4.42 };
        let quantizers = [
            ActivationQuantizer::Uniform(spec),
            ActivationQuantizer::ByStep(steps),
            ActivationQuantizer::PerFrame(frames),
            ActivationQuantizer::Log(log),
        ];
        let layer = |quantizer| QuantizedLayer {
            rows: quantize_weight(&[1.0; 2 * 64], 64, manifest().layers["a"].weights("a").unwrap()),
            scheme: Scheme::AsymmetricReal,
            bias: None,
            transform: InputTransform {
                shift: Some(vec![0.5; 64]),
                scale: Some(vec![2.0; 64]),
                hadamard: Some(64),
            },
            low_rank: Some(LowRankBranch { rank: 1, down: vec![1.0; 64], up: vec![1.0; 2] }),
            activations: Some(quantizer),
        };
        let layers = quantizers.into_iter().enumerate().map(|(i, quantizer)| {
            (format!("layer{i}"), LayerEntry::from_layer(&layer(quantizer), "svdquant"))
        });
        Manifest { layers: layers.collect(), ..manifest() }
    }

    fn token_spec() -> TokenSpec {
        TokenSpec { bits: Bits::B6, scheme: Scheme::Asymmetric, range: TokenRange::FULL }
    }

    #[test]
    fn only_what_the_first_version_cannot_say_is_of_the_second() {
        assert_eq!(manifest().version(), VERSION);
        let extended = extended();
        assert_eq!(extended.version(), VERSION_EXTENDED);
        let read = Manifest::from_metadata(&extended.to_metadata()).unwrap().unwrap();
        assert_eq!(read, extended);
        let precisions: Vec<String> = read.layers.values().map(|entry| entry.precision()).collect();
        assert_eq!(precisions, ["w3a6", "w3a8", "w3a8", "w3a8"]);
        for (name, entry) in &read.layers {
            let quantizer = entry.quantizer(name).unwrap().unwrap();
            assert_eq!(entry.clone().with_activations(&quantizer), *entry);
        }
    }

    #[test]
    fn extensions_that_are_not_implemented_are_refused_by_name() {
        type Change = fn(&mut LayerEntry);
        let changes: [(&str, Change, &str); 9] = [
            ("layer0", |entry| entry.transform.as_mut().unwrap().hadamard = Some(96), "hadamard"),
            ("layer0", |entry| entry.low_rank = Some(0), "low_rank \"0\""),
            ("layer0", |entry| entry.activations.as_mut().unwrap().bits = 2, "activation bits"),
            ("layer1", |entry| entry.activations_by_step.as_mut().unwrap().rule.clear(), "rule"),
            (
                "layer1",
                |entry| entry.activations_by_step.as_mut().unwrap().groups.clear(),
                "groups",
            ),
            (
                "layer1",
                |entry| entry.activations_by_step.as_mut().unwrap().bounds.push(400.0),
                "bounds",
            ),
            (
                "layer2",
                |entry| entry.activations_per_frame.as_mut().unwrap().ranges.clear(),
                "ranges",
            ),
            ("layer3", |entry| entry.activations_log.as_mut().unwrap().absmax = -1.0, "absmax"),
            (
                "layer3",
                |entry| entry.activations = Some(ActivationEntry::from_spec(&token_spec())),
                "2 entries",
            ),
        ];
        for (name, change, expected) in changes {
            let mut manifest = extended();
            change(manifest.layers.get_mut(name).unwrap());
            let error = Manifest::from_metadata(&manifest.to_metadata()).unwrap_err().to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let text = extended().to_metadata()["quantization"].replace("input_", "");
        let text = text.replacen("\"low_rank\"", "\"high_rank\"", 1);
        let metadata = [("format", FORMAT), ("version", "2"), ("quantization", &text)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let error = Manifest::from_metadata(&metadata).unwrap_err().to_string();
        assert!(error.contains("high_rank"), "{error}");
    }
}
