//! A model in the diffusers layout: `model_index.json` and one folder per component.

use super::error::{quoted, shorten};
use super::{
    Checkpoint, CheckpointError, Layout, Lora, Tensors, config_from_json, layout, locate, read_json,
};
use crate::pipeline::family::{FAMILIES, FamilyReader};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Switches of later models under the same class name; on, they change the computation.
const UNSUPPORTED_OPTIONS: [&str; 2] = ["expand_timesteps", "boundary_ratio"];

/// The parts of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ComponentKind {
    /// The denoiser.
    Transformer,
    /// Between video and latent.
    Vae,
    /// From tokens to embeddings.
    TextEncoder,
    /// From text to tokens.
    Tokenizer,
    /// Noise levels and steps.
    Scheduler,
}

impl ComponentKind {
    /// Every component of a pipeline.
    pub const ALL: [Self; 5] =
        [Self::Transformer, Self::Vae, Self::TextEncoder, Self::Tokenizer, Self::Scheduler];

    /// Key in `model_index.json` and name of the folder.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transformer => "transformer",
            Self::Vae => "vae",
            Self::TextEncoder => "text_encoder",
            Self::Tokenizer => "tokenizer",
            Self::Scheduler => "scheduler",
        }
    }

    /// Name of the configuration in the folder.
    pub const fn config_file(self) -> &'static str {
        match self {
            Self::Transformer | Self::Vae | Self::TextEncoder => "config.json",
            Self::Tokenizer => "tokenizer_config.json",
            Self::Scheduler => "scheduler_config.json",
        }
    }

    /// Name of the weights without `.safetensors`, for components that have weights.
    pub const fn weights_stem(self) -> Option<&'static str> {
        match self {
            Self::Transformer | Self::Vae => Some("diffusion_pytorch_model"),
            Self::TextEncoder => Some("model"),
            Self::Tokenizer | Self::Scheduler => None,
        }
    }
}

/// A model on disk; opening reads `model_index.json` only.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    path: PathBuf,
    class_name: String,
    index: Map<String, Value>,
    references: References,
    /// What is added to the transformer.
    loras: Arc<Vec<Lora>>,
}

/// What a model folder takes from elsewhere, by the names of components.
#[derive(Clone, Debug, Default, serde::Deserialize)]
struct References {
    /// Folders that a packed model left where they were.
    #[serde(default)]
    components: BTreeMap<String, PathBuf>,
    /// Weight files that stand for those in the folders.
    #[serde(default)]
    weights: BTreeMap<String, PathBuf>,
}

/// File in which a packed model says where its other components are.
pub const REFERENCES_FILE: &str = "qvgen.json";

/// One component: where it is and how it is configured.
#[derive(Clone, Debug)]
pub struct Component {
    /// Which one.
    pub kind: ComponentKind,
    /// Its class according to `model_index.json`, such as `WanTransformer3DModel`.
    pub class_name: String,
    /// Its folder.
    pub path: PathBuf,
    /// Contents of its configuration file, an object.
    pub config: Value,
    /// The file or index of its weights, if it is none of those in its folder.
    pub weights_file: Option<PathBuf>,
    /// What is added to its weights.
    pub loras: Arc<Vec<Lora>>,
}

impl ModelFolder {
    /// Opens the model at `path`.
    ///
    /// # Errors
    ///
    /// If it is no model folder, or a pipeline that this program does not implement.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let not_a_model = |problem: &str| CheckpointError::NotAModelFolder {
            problem: problem.to_owned(),
            path: path.to_owned(),
        };
        if !path.exists() {
            return Err(not_a_model("there is nothing here"));
        }
        let index_path = path.join("model_index.json");
        if !index_path.exists() {
            refuse_known(path)?;
            let is_folder = path.is_dir();
            return Err(not_a_model(if is_folder {
                "the folder has no model_index.json"
            } else {
                "this is no folder"
            }));
        }
        let index: Map<String, Value> = config_from_json(&read_json(&index_path)?, &index_path)?;
        let class_name = match index.get("_class_name") {
            Some(Value::String(name)) => name.clone(),
            other => {
                let found = other.map_or_else(|| "missing".to_owned(), ToString::to_string);
                return Err(CheckpointError::Config {
                    key: "_class_name".to_owned(),
                    problem: format!(
                        "\"_class_name\" is {}, expected the name of a pipeline",
                        shorten(&found)
                    ),
                    path: index_path,
                });
            }
        };
        let references = read_references(path)?;
        let loras = Arc::default();
        let folder = Self { path: path.to_owned(), class_name, index, references, loras };
        folder.check_supported(&index_path)?;
        Ok(folder)
    }

    /// The same with the weights of component `kind` from `file`: one in a format and layout that
    /// is known, or the index of several.
    #[must_use]
    pub fn with_weights(mut self, kind: ComponentKind, file: PathBuf) -> Self {
        self.references.weights.insert(kind.name().to_owned(), file);
        self
    }

    /// The same with `loras` added to the transformer.
    #[must_use]
    pub fn with_loras(mut self, loras: Vec<Lora>) -> Self {
        self.loras = Arc::new(loras);
        self
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Class of the pipeline, such as `WanPipeline`.
    pub fn class_name(&self) -> &str {
        &self.class_name
    }

    /// The component `kind` with its configuration.
    ///
    /// # Errors
    ///
    /// If `model_index.json` or the folder lacks it, or its configuration is unusable.
    pub fn component(&self, kind: ComponentKind) -> Result<Component, CheckpointError> {
        let missing = |problem, path: PathBuf| CheckpointError::MissingComponent {
            component: kind.name(),
            problem,
            path,
        };
        let class_name = self.index.get(kind.name()).and_then(class_of).ok_or_else(|| {
            missing("model_index.json does not name its class", self.path.join("model_index.json"))
        })?;
        // A relative reference starts at the model's folder, an absolute one stands for itself.
        let reference = self.references.components.get(kind.name()).map(PathBuf::as_path);
        let path = self.path.join(reference.unwrap_or(Path::new(kind.name())));
        if !path.is_dir() {
            return Err(missing("it has no folder", path));
        }
        let config_path = path.join(kind.config_file());
        if !config_path.exists() {
            return Err(missing("its configuration is not there", config_path));
        }
        let config: Map<String, Value> = config_from_json(&read_json(&config_path)?, &config_path)?;
        let is_changed = kind == ComponentKind::Transformer;
        Ok(Component {
            kind,
            class_name: class_name.to_owned(),
            path,
            config: config.into(),
            weights_file: self.references.weights.get(kind.name()).cloned(),
            loras: if is_changed { self.loras.clone() } else { Arc::default() },
        })
    }

    /// Refuses what would load but compute something else.
    fn check_supported(&self, index_path: &Path) -> Result<(), CheckpointError> {
        let unsupported = |found: String, supported: String| CheckpointError::Unsupported {
            found,
            supported,
            path: index_path.to_owned(),
        };
        if FamilyReader::of_pipeline(&self.class_name).is_none() {
            let found = format!("pipeline {}", quoted(&self.class_name));
            let known: Vec<&str> = FAMILIES.iter().map(|family| family.facts.pipeline).collect();
            return Err(unsupported(found, known.join(", ")));
        }
        for (key, value) in &self.index {
            let is_known = ComponentKind::ALL.iter().any(|kind| kind.name() == key);
            if let (Some(class), false) = (class_of(value), is_known) {
                let names = ComponentKind::ALL.map(ComponentKind::name).join(", ");
                let found = format!("component {} of class {}", quoted(key), quoted(class));
                return Err(unsupported(found, names));
            }
            let is_off = matches!(value, Value::Null | Value::Bool(false));
            if UNSUPPORTED_OPTIONS.contains(&key.as_str()) && !is_off {
                let found = format!("option {key:?} = {}", shorten(&value.to_string()));
                return Err(unsupported(found, "models without it".to_owned()));
            }
        }
        Ok(())
    }
}

/// Says what to do with weights that are known but no model folder: a file, or a folder that has
/// a transformer.
fn refuse_known(path: &Path) -> Result<(), CheckpointError> {
    let file = if path.is_dir() {
        weights_below(path, ComponentKind::Transformer)
    } else {
        Ok(path.to_owned())
    };
    // What cannot be opened is reported as no model folder, which it is in any case.
    let Some(tensors) = file.ok().and_then(|file| Tensors::open(&file).ok()) else { return Ok(()) };
    let Some(layout) = Layout::of(&tensors) else { return Ok(()) };
    Err(CheckpointError::Foreign {
        found: layout.description(),
        wanted: "a model folder with model_index.json".to_owned(),
        advice: layout.advice_alone(),
        path: tensors.path().to_owned(),
    })
}

/// The weights of component `kind` in `path`, which is its folder or has it.
///
/// # Errors
///
/// If there are none.
pub fn weights_below(path: &Path, kind: ComponentKind) -> Result<PathBuf, CheckpointError> {
    let below = path.join(kind.name());
    let folder = if below.is_dir() { &below } else { path };
    locate::weights_in(folder, kind.weights_stem().unwrap_or("model"))
}

/// What the model in `folder` says about other places, if it says something.
fn read_references(folder: &Path) -> Result<References, CheckpointError> {
    let path = folder.join(REFERENCES_FILE);
    if !path.exists() {
        return Ok(References::default());
    }
    let mut references: References = config_from_json(&read_json(&path)?, &path)?;
    for file in references.weights.values_mut() {
        *file = folder.join(&*file);
    }
    Ok(references)
}

/// The class in an entry `[library, class]`; absent components are `[null, null]`.
fn class_of(entry: &Value) -> Option<&str> {
    match entry.as_array()?.as_slice() {
        [_library, class] => class.as_str(),
        _ => None,
    }
}

impl Component {
    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.path.join(self.kind.config_file())
    }

    /// The configuration as `T`.
    ///
    /// # Errors
    ///
    /// See [`config_from_json`].
    pub fn config_as<T: DeserializeOwned>(&self) -> Result<T, CheckpointError> {
        config_from_json(&self.config, &self.config_path())
    }

    /// Refuses components of any class but `supported`.
    ///
    /// # Errors
    ///
    /// If the class is another one; the message names both.
    pub fn require_class(&self, supported: &[&str]) -> Result<(), CheckpointError> {
        if supported.contains(&&*self.class_name) {
            return Ok(());
        }
        Err(CheckpointError::Unsupported {
            found: format!("{} {}", self.kind.name(), quoted(&self.class_name)),
            supported: supported.join(", "),
            path: self.path.clone(),
        })
    }

    /// Opens the weights, under the names that diffusers gives them.
    ///
    /// # Errors
    ///
    /// If there are none in a known format, a file is damaged, or holds something else.
    ///
    /// # Panics
    ///
    /// If the component is of a kind without weights.
    pub fn weights(&self) -> Result<Checkpoint, CheckpointError> {
        let tensors = Tensors::open(&self.weights_path()?)?;
        let tensors = layout::as_component(tensors, self.kind, &self.class_name)?;
        let checkpoint = Checkpoint::from(tensors).with_loras(self.loras.clone());
        Ok(match self.kind {
            // One table under two names; savers keep either.
            ComponentKind::TextEncoder => {
                let names = ["shared.weight", "encoder.embed_tokens.weight"];
                checkpoint.with_alias(names[0], names[1]).with_alias(names[1], names[0])
            }
            _ => checkpoint,
        })
    }

    /// The file or index of the weights.
    fn weights_path(&self) -> Result<PathBuf, CheckpointError> {
        if let Some(file) = &self.weights_file {
            locate::refuse_shard(file)?;
            return Ok(file.clone());
        }
        let stem = self.kind.weights_stem();
        let stem = stem.unwrap_or_else(|| panic!("a {} has no weights", self.kind.name()));
        locate::weights_in(&self.path, stem)
    }
}
