//! What a folder or file holds, without loading it.

use super::PipelineError;
use super::checkpoint::{ComponentKind, Layout, ModelFolder, Tensors};
use super::packed::Manifest;
use super::video::{self, VideoFormat};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// What was found.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Inspection {
    /// A model folder.
    Model(ModelFacts),
    /// Weight files.
    Weights(WeightFacts),
    /// A video with the settings it was made with.
    Video {
        /// As `qvgen sample` stored them.
        settings: Value,
    },
}

/// A model folder.
#[derive(Clone, Debug, Serialize)]
pub struct ModelFacts {
    /// Class of the pipeline.
    pub class_name: String,
    /// Its components.
    pub components: Vec<ComponentFacts>,
}

/// A component.
#[derive(Clone, Debug, Serialize)]
pub struct ComponentFacts {
    /// Name of the component.
    pub name: String,
    /// Its class.
    pub class_name: String,
    /// Plain values of its configuration.
    pub facts: BTreeMap<String, Value>,
    /// Its weights, if it has any.
    pub weights: Option<WeightFacts>,
}

/// Weight files.
#[derive(Clone, Debug, Serialize)]
pub struct WeightFacts {
    /// Number of tensors.
    pub tensor_count: usize,
    /// Number of stored elements; packed codes count as words.
    pub elements: u64,
    /// Bytes of the tensors.
    pub bytes: u64,
    /// Bytes by stored type.
    pub bytes_by_type: BTreeMap<String, u64>,
    /// What they are by the names of their tensors, if those are known.
    pub layout: Option<&'static str>,
    /// How it is quantized, if it is.
    pub quantization: Option<Manifest>,
    /// Each tensor, on request.
    pub tensors: Vec<TensorFact>,
}

/// A tensor.
#[derive(Clone, Debug, Serialize)]
pub struct TensorFact {
    /// Full name.
    pub name: String,
    /// Stored type.
    pub dtype: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Precision of the layer it belongs to, if that is quantized.
    pub quantized: Option<String>,
}

impl WeightFacts {
    /// One line.
    pub fn summary(&self) -> String {
        let types: Vec<String> = self
            .bytes_by_type
            .iter()
            .map(|(name, bytes)| format!("{name} {:.1} MiB", *bytes as f64 / (1 << 20) as f64))
            .collect();
        let quantized = self.quantization.as_ref().map_or_else(String::new, |manifest| {
            format!(
                ", packed {} ({} layers, by {})",
                manifest.precision,
                manifest.layers.len(),
                manifest.generator
            )
        });
        format!("{} tensors: {}{quantized}", self.tensor_count, types.join(", "))
    }

    fn of(tensors: &Tensors, list_tensors: bool) -> Result<Self, PipelineError> {
        let quantization = Manifest::from_metadata(tensors.metadata()).map_err(|err| {
            PipelineError::Setting(format!("{err} in {}", tensors.path().display()))
        })?;
        let mut facts = Self {
            tensor_count: tensors.names().len(),
            elements: 0,
            bytes: 0,
            bytes_by_type: BTreeMap::new(),
            tensors: Vec::new(),
            layout: Layout::of(tensors).map(Layout::description),
            quantization,
        };
        for name in tensors.names() {
            let Some(info) = tensors.info(name) else { continue };
            let elements = info.shape().iter().fold(1, |n: u64, &d| n.saturating_mul(d as u64));
            facts.elements = facts.elements.saturating_add(elements);
            facts.bytes += info.byte_len();
            *facts.bytes_by_type.entry(info.dtype().to_string()).or_default() += info.byte_len();
            if list_tensors {
                let quantized = facts.precision_of(name);
                facts.tensors.push(TensorFact {
                    name: name.to_owned(),
                    dtype: info.dtype().to_string(),
                    shape: info.shape().to_vec(),
                    quantized,
                });
            }
        }
        Ok(facts)
    }

    fn precision_of(&self, tensor: &str) -> Option<String> {
        let (layer, suffix) = tensor.rsplit_once('.')?;
        let entry = self.quantization.as_ref()?.layers.get(layer)?;
        (suffix == "codes").then(|| entry.precision())
    }
}

/// Looks at `path`; `list_tensors` adds each tensor.
///
/// # Errors
///
/// If there is nothing, or nothing this program knows.
pub fn inspect(path: &Path, list_tensors: bool) -> Result<Inspection, PipelineError> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    if matches!(extension, "safetensors" | "json" | "gguf") {
        let tensors = Tensors::open(path)?;
        return Ok(Inspection::Weights(WeightFacts::of(&tensors, list_tensors)?));
    }
    let is_model = path.join("model_index.json").exists();
    if !is_model && path.exists() && VideoFormat::from_path(path).is_ok() {
        return video::read_metadata(path)
            .map(|settings| Inspection::Video { settings })
            .ok_or_else(|| {
                PipelineError::Setting(format!(
                    "neither a model folder (with model_index.json), nor a .safetensors or .gguf \
                     file, nor a video written by `qvgen sample`: {}",
                    path.display()
                ))
            });
    }
    let folder = ModelFolder::open(path)?;
    let components = ComponentKind::ALL
        .into_iter()
        .map(|kind| {
            let component = folder.component(kind)?;
            let weights = match kind.weights_stem() {
                Some(_) => Some(WeightFacts::of(component.weights()?.tensors(), list_tensors)?),
                None => None,
            };
            let facts = component.config.as_object().into_iter().flatten();
            let facts = facts.filter(|(key, value)| {
                !key.starts_with('_') && (value.is_number() || value.is_boolean())
            });
            Ok(ComponentFacts {
                name: kind.name().to_owned(),
                class_name: component.class_name.clone(),
                facts: facts.map(|(key, value)| (key.clone(), value.clone())).collect(),
                weights,
            })
        })
        .collect::<Result<_, PipelineError>>()?;
    Ok(Inspection::Model(ModelFacts { class_name: folder.class_name().to_owned(), components }))
}
