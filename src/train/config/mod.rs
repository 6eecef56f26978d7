//! What is trained, how and on what: a TOML file, and what the command line changes of it.

mod check;
mod read;

pub use read::Override;

use super::{LoopSettings, OptimizerSettings, TrainError};
use crate::method::qvgen::{Annealing, Auxiliary, Loss, Method, Recipe};
use crate::method::{Rule, Scope};
use crate::models::DenoiserConfig;
use crate::pipeline::ModelFiles;
use crate::pipeline::checkpoint::LoraFile;
use crate::quant::Precision;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

/// Rank of Φ or of a LoRA where the configuration names none; the paper's.
const DEFAULT_RANK: usize = 32;
/// Share of Φ that a phase drops where the configuration names none; the paper's.
const DEFAULT_LAMBDA: f64 = 0.5;

/// A training, as its file describes it. Relative paths start at the working folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Full-precision model folder in the diffusers layout, or `pocket`.
    pub model: String,
    /// LoRA files to add to the model first, each `FILE` or `FILE=STRENGTH`.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        serialize_with = "write_loras",
        deserialize_with = "read_texts"
    )]
    pub loras: Vec<LoraFile>,
    /// Folder for everything that the training writes.
    pub out: PathBuf,
    /// Precision of the quantized layers; `full` trains without quantization.
    #[serde(default = "w4a4", serialize_with = "write_text", deserialize_with = "read_text")]
    pub bits: Precision,
    /// Method; absent for `qvgen`, and with `bits = "full"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// First values of the parameters.
    #[serde(default)]
    pub start: Start,
    /// Precision of some layers, `pattern=precision`; the last that matches decides.
    #[serde(default, serialize_with = "write_rules", deserialize_with = "read_texts")]
    pub layers: Vec<Rule>,
    /// Whether the embedders and the last layer are quantized too.
    #[serde(default)]
    pub every_layer: bool,
    /// Changes to the method.
    #[serde(default)]
    pub recipe: RecipeChanges,
    /// How often and on what.
    #[serde(default, rename = "loop")]
    pub training: LoopSettings,
    /// The optimizer.
    #[serde(default)]
    pub optimizer: OptimizerSettings,
    /// The clips.
    #[serde(default)]
    pub data: DataSettings,
    /// What is kept to resume from.
    #[serde(default)]
    pub checkpoint: CheckpointSettings,
    /// What is reported meanwhile.
    #[serde(default)]
    pub log: LogSettings,
}

/// First values of the parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// The model's.
    #[default]
    Model,
    /// Random ones, in the model's sizes: training from nothing.
    Random,
}

/// Changes to the settings that a method stands for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecipeChanges {
    /// Rank of Φ at the start, or of the LoRA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// Share of Φ that every phase drops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda: Option<f64>,
    /// The ranks themselves, instead of the two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranks: Option<Vec<usize>>,
    /// How `u` falls within a phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annealing: Option<Annealing>,
    /// Whether a phase starts with a new decomposition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redecompose: Option<bool>,
    /// What is compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<LossName>,
    /// `a` of the mixed loss.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharpness: Option<f64>,
    /// Whether the grid of the weights is symmetric.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symmetric_weights: Option<bool>,
    /// Share of the last sampling steps that leave the negative prompt out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late_guidance_drop: Option<f64>,
}

/// A [`Loss`] without its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LossName {
    /// [`Loss::GroundTruth`].
    GroundTruth,
    /// [`Loss::Distillation`].
    Distillation,
    /// [`Loss::Mixed`].
    Mixed,
}

/// Where the clips come from: exactly one of `cache`, `world` and `random`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSettings {
    /// Folder of latents and embedded captions that `qvgen cache` made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// Number of clips of the procedural world that the pocket model knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub world: Option<usize>,
    /// Number of latents of noise, to measure speed and memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub random: Option<usize>,
    /// Frames of a clip; the model's suggestion if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frames: Option<usize>,
    /// Pixels; the model's suggestion if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// Pixels; the model's suggestion if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub height: Option<usize>,
    /// Clips that are not trained on but measured, at most a quarter of them.
    pub hold_out: usize,
}

impl Default for DataSettings {
    fn default() -> Self {
        Self {
            cache: None,
            world: None,
            random: None,
            frames: None,
            width: None,
            height: None,
            hold_out: 8,
        }
    }
}

/// What is kept to resume from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointSettings {
    /// Updates between checkpoints.
    pub every: usize,
    /// Checkpoints that are kept, the newest ones.
    pub keep: usize,
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self { every: 200, keep: 2 }
    }
}

/// What is reported meanwhile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// Updates between lines on a screen that is no terminal; the file has every update.
    pub every: usize,
    /// Updates between measurements on the clips held out; 0 for none.
    pub validation_every: usize,
    /// Updates between sample videos; 0 for none.
    pub sample_every: usize,
    /// What the sample videos show; empty for the model's own prompt.
    pub sample_prompts: Vec<String>,
    /// Denoising steps of a sample video; the model's suggestion if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_steps: Option<usize>,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            every: 10,
            validation_every: 200,
            sample_every: 0,
            sample_prompts: Vec::new(),
            sample_steps: None,
        }
    }
}

impl Config {
    /// The method by name; `None` if nothing is quantized.
    pub fn method(&self) -> Option<Method> {
        self.bits.weights.map(|_| self.method.unwrap_or(Method::Qvgen))
    }

    /// Name of what is done, for reports and packed files.
    pub fn method_name(&self) -> &'static str {
        self.method().map_or("full-precision", Method::name)
    }

    /// The method with its changes; `None` if nothing is quantized.
    ///
    /// # Errors
    ///
    /// If a change does not belong to the method.
    pub fn recipe(&self) -> Result<Option<Recipe>, TrainError> {
        let Some(method) = self.method() else { return Ok(None) };
        let changes = &self.recipe;
        let rank = changes.rank.unwrap_or(DEFAULT_RANK);
        let lambda = changes.lambda.unwrap_or(DEFAULT_LAMBDA);
        let mut recipe = method.recipe(rank, lambda);
        changes.apply_to(&mut recipe.auxiliary, method)?;
        let sharpness = changes.sharpness.unwrap_or(5.0);
        match (changes.loss, &mut recipe.loss) {
            (Some(LossName::GroundTruth), loss) => *loss = Loss::GroundTruth,
            (Some(LossName::Distillation), loss) => *loss = Loss::Distillation,
            (Some(LossName::Mixed), loss) => *loss = Loss::Mixed { sharpness },
            (None, Loss::Mixed { sharpness: a }) => *a = sharpness,
            (None, _) => {}
        }
        if changes.sharpness.is_some() && !matches!(recipe.loss, Loss::Mixed { .. }) {
            return Err(setting("recipe.sharpness belongs to recipe.loss = \"mixed\""));
        }
        recipe.symmetric_weights = changes.symmetric_weights.unwrap_or(recipe.symmetric_weights);
        recipe.late_guidance_drop = changes.late_guidance_drop.unwrap_or(recipe.late_guidance_drop);
        Ok(Some(recipe))
    }

    /// What of `model` is quantized.
    pub fn scope(&self, model: &dyn DenoiserConfig) -> Scope {
        let mut scope = if self.every_layer {
            Scope::every_layer(self.bits)
        } else {
            Scope::recommended(self.bits, model.sensitive_layers())
        };
        scope.rules.extend(self.layers.iter().cloned());
        scope
    }

    /// Files that stand for parts of the model.
    pub fn files(&self) -> ModelFiles {
        ModelFiles { loras: self.loras.clone(), ..ModelFiles::default() }
    }

    /// Dotted keys and values of everything that decides what is learned; places and reports do
    /// not.
    ///
    /// # Panics
    ///
    /// Never: a configuration has only keys and values that JSON can hold.
    pub fn essence(&self) -> BTreeMap<String, String> {
        let value = serde_json::to_value(self).expect("a configuration is plain data");
        let mut flat = BTreeMap::new();
        flatten(String::new(), &value, &mut flat);
        let is_outward = |key: &str| {
            let outward = ["model", "loras", "out", "data.cache"];
            outward.contains(&key) || ["checkpoint.", "log."].iter().any(|p| key.starts_with(p))
        };
        flat.retain(|key, _| !is_outward(key));
        flat.insert("method".to_owned(), format!("\"{}\"", self.method_name()));
        flat
    }

    /// The file that describes this training with everything filled in.
    ///
    /// # Panics
    ///
    /// Never: a configuration has only keys and values that TOML can hold.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a configuration is plain data")
    }
}

impl RecipeChanges {
    fn apply_to(&self, auxiliary: &mut Auxiliary, method: Method) -> Result<(), TrainError> {
        let given = [
            ("rank", self.rank.is_some()),
            ("lambda", self.lambda.is_some()),
            ("ranks", self.ranks.is_some()),
            ("annealing", self.annealing.is_some()),
            ("redecompose", self.redecompose.is_some()),
        ];
        let own: &[&str] = match auxiliary {
            Auxiliary::None => &[],
            Auxiliary::Lora { .. } => &["rank"],
            Auxiliary::Phi { .. } => &["rank", "lambda", "ranks", "annealing", "redecompose"],
        };
        if let Some((key, _)) = given.iter().find(|(key, given)| *given && !own.contains(key)) {
            return Err(setting(format!("recipe.{key}: method {method} has nothing of the kind")));
        }
        if let Auxiliary::Phi { ranks, annealing, redecompose } = auxiliary {
            if let Some(own) = &self.ranks {
                if self.rank.is_some() || self.lambda.is_some() {
                    let message = "recipe.ranks stands instead of recipe.rank and recipe.lambda; \
                                   leave either out";
                    return Err(setting(message));
                }
                ranks.clone_from(own);
            }
            *annealing = self.annealing.unwrap_or(*annealing);
            *redecompose = self.redecompose.unwrap_or(*redecompose);
        }
        Ok(())
    }
}

fn setting(message: impl Into<String>) -> TrainError {
    TrainError::Setting(message.into())
}

/// `value` as dotted keys and JSON texts.
fn flatten(key: String, value: &Value, flat: &mut BTreeMap<String, String>) {
    let Value::Object(map): &Value = value else {
        flat.insert(key, value.to_string());
        return;
    };
    let join = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    let map: &Map<String, Value> = map;
    for (name, value) in map {
        flatten(join(name), value, flat);
    }
}

fn w4a4() -> Precision {
    use crate::quant::Bits;
    Precision { weights: Some(Bits::B4), activations: Some(Bits::B4) }
}

fn write_text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn read_text<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err: Display>,
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

fn write_rules<S: Serializer>(rules: &[Rule], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(rules.iter().map(ToString::to_string))
}

fn write_loras<S: Serializer>(loras: &[LoraFile], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(loras.iter().map(LoraFile::to_argument))
}

fn read_texts<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: FromStr<Err: Display>,
    D: Deserializer<'de>,
{
    let texts = Vec::<String>::deserialize(deserializer)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}
