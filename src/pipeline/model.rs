//! A text-to-video model: its components, checked against each other before any work.

use super::checkpoint::{Checkpoint, ComponentKind, ModelFolder};
use super::defaults::SamplingDefaults;
use super::family::FamilyReader;
use super::noising::Noising;
use super::packed::{Arithmetic, PackedCheckpoint, RoundingSource};
use super::prompt;
use super::scheduler::SchedulerConfig;
use super::tokenizer::{TextError, Tokenizer};
use super::{ModelFiles, PipelineError};
use crate::method::{Rounding, Scope};
use crate::models::t5::{T5Config, TokenIds};
use crate::models::{AutoencoderConfig, DenoiserConfig, FamilyFacts, LinearShape};
use crate::nn::{WeightError, WeightSource};
use crate::quant::{Precision, packed_bytes};
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

/// Longest prompt a model may ask for; Wan's are 512.
const MAX_TEXT_TOKENS: usize = 4096;

/// An opened model folder; no weights are read yet.
#[derive(Debug)]
pub struct VideoModel {
    /// The folder.
    pub folder: ModelFolder,
    /// Class names and rules of its family.
    pub family: &'static FamilyFacts,
    /// The denoiser's configuration.
    pub transformer: Arc<dyn DenoiserConfig>,
    /// The autoencoder's configuration.
    pub vae: Arc<dyn AutoencoderConfig>,
    /// The text encoder's configuration.
    pub text_encoder: T5Config,
    /// The scheduler's configuration.
    pub scheduler: SchedulerConfig,
    /// What is suggested for sampling.
    pub defaults: SamplingDefaults,
    /// Tokens of a prompt: the transformer always sees this many.
    pub text_tokens: usize,
}

impl VideoModel {
    /// Opens the folder and checks every configuration, and that they fit together.
    ///
    /// # Errors
    ///
    /// If a file is missing or a value is not implemented.
    pub fn open(path: &Path) -> Result<Self, PipelineError> {
        Self::open_with(path, &ModelFiles::default())
    }

    /// [`Self::open`] with `files` in place of parts of the folder.
    ///
    /// # Errors
    ///
    /// As [`Self::open`], or if a LoRA does not fit the transformer.
    pub fn open_with(path: &Path, files: &ModelFiles) -> Result<Self, PipelineError> {
        let folder = files.replace_weights(ModelFolder::open(path)?);
        let family = FamilyReader::of_pipeline(folder.class_name())
            .expect("a folder opens if its family is in the list");
        let transformer = (family.transformer)(&folder.component(ComponentKind::Transformer)?)?;
        let scheduler = folder.component(ComponentKind::Scheduler)?;
        let vae = (family.vae)(&folder.component(ComponentKind::Vae)?)?;
        let usual = transformer.usual_call(vae.spatial_factor());
        let defaults = SamplingDefaults::of(folder.path(), usual)?;
        let model = Self {
            family: &family.facts,
            text_encoder: (family.text_encoder)(&folder.component(ComponentKind::TextEncoder)?)?,
            scheduler: SchedulerConfig::from_json(&scheduler.config).map_err(|problem| {
                PipelineError::SchedulerFile { problem, path: scheduler.config_path() }
            })?,
            text_tokens: defaults.max_sequence_length,
            transformer,
            vae,
            defaults,
            folder,
        };
        let parameters = model.transformer.parameter_shapes();
        let folder = files.add_loras(model.folder.clone(), &parameters)?;
        let model = Self { folder, ..model };
        model.check_fit()?;
        Ok(model)
    }

    fn check_fit(&self) -> Result<(), PipelineError> {
        if !(2..=MAX_TEXT_TOKENS).contains(&self.text_tokens) {
            return Err(PipelineError::Setting(format!(
                "max_sequence_length is {}, expected 2 to {MAX_TEXT_TOKENS}, in {}",
                self.text_tokens,
                self.folder.path().join("sampling.json").display()
            )));
        }
        let (transformer, z_dim) = (&self.transformer, self.vae.z_dim());
        let pairs = [
            ("the transformer's in_channels", transformer.in_channels(), z_dim),
            ("the transformer's out_channels", transformer.out_channels(), z_dim),
            ("the transformer's text_dim", transformer.text_dim(), self.text_encoder.d_model),
        ];
        let partners = ["the VAE's z_dim", "the VAE's z_dim", "the text encoder's d_model"];
        for ((name, value, wanted), partner) in pairs.into_iter().zip(partners) {
            if value != wanted {
                let message = format!("{name} is {value} but {partner} is {wanted}");
                return Err(PipelineError::Mismatch { message, path: self.folder.path().into() });
            }
        }
        Ok(())
    }

    /// Checks that everything a run will read is there, by the headers of the files: what would
    /// fail after minutes of work fails now.
    ///
    /// # Errors
    ///
    /// Names the file and tensor that is missing or has another shape.
    pub fn check_files(&self) -> Result<(), PipelineError> {
        self.tokenizer()?;
        for kind in [ComponentKind::TextEncoder, ComponentKind::Transformer, ComponentKind::Vae] {
            self.check_component(kind)?;
        }
        Ok(())
    }

    /// Checks the weights of one component, if it has any.
    ///
    /// # Errors
    ///
    /// As [`Self::check_files`].
    pub fn check_component(&self, kind: ComponentKind) -> Result<(), PipelineError> {
        let shapes = match kind {
            ComponentKind::TextEncoder => self.text_encoder.parameter_shapes(),
            ComponentKind::Transformer => self.transformer.parameter_shapes(),
            ComponentKind::Vae => self.vae.decoder_parameter_shapes(),
            ComponentKind::Tokenizer | ComponentKind::Scheduler => return Ok(()),
        };
        let weights = self.weights(kind, None, usize::MAX)?;
        for (name, shape) in shapes {
            weights.check(&name, &shape)?;
        }
        Ok(())
    }

    /// The tokenizer.
    ///
    /// # Errors
    ///
    /// If its files are missing or unusable.
    pub fn tokenizer(&self) -> Result<Tokenizer, PipelineError> {
        let component = self.folder.component(ComponentKind::Tokenizer)?;
        Ok(Tokenizer::open(&component.path, self.text_encoder.vocab_size)?)
    }

    /// Latent frames of a video of `frames`.
    pub fn latent_frames(&self, frames: usize) -> usize {
        frames.saturating_sub(1) / self.vae.temporal_factor() + 1
    }

    /// Most latent frames of a video.
    pub fn most_latent_frames(&self) -> usize {
        self.transformer.max_grid()[0].saturating_mul(self.transformer.patch()[0])
    }

    /// `[channels, frames, height, width]` of the latent of a video of so many frames, rows and
    /// columns.
    pub fn latent_shape(&self, [frames, height, width]: [usize; 3]) -> [usize; 4] {
        let factor = self.vae.spatial_factor();
        [self.vae.z_dim(), self.latent_frames(frames), height / factor, width / factor]
    }

    /// The shape of a latent as the transformer takes it: with as many frames in front as make whole
    /// patches; see [`padding`](super::padding).
    pub fn padded_shape(&self, [channels, frames, height, width]: [usize; 4]) -> [usize; 4] {
        [channels, self.transformer.padded_frames(frames), height, width]
    }

    /// `precision` for the linear layers of the transformer, but for those worth keeping.
    pub fn recommended_scope(&self, precision: Precision) -> Scope {
        Scope::recommended(precision, self.transformer.sensitive_layers())
    }

    /// The noise levels that the model was trained with.
    ///
    /// # Errors
    ///
    /// If those of its scheduler are too extreme to tell apart.
    pub fn noising(&self) -> Result<Noising, PipelineError> {
        Ok(Noising::of(&self.scheduler)?)
    }

    /// `prompt` as the tokenizer should see it.
    pub fn clean_prompt<'a>(&self, prompt: &'a str) -> Cow<'a, str> {
        if self.family.cleans_prompts {
            Cow::Owned(prompt::clean(prompt))
        } else {
            Cow::Borrowed(prompt)
        }
    }

    /// The ids of `prompt` as the text encoder takes them.
    ///
    /// # Errors
    ///
    /// If the text cannot be tokenized.
    pub fn tokenize(&self, tokenizer: &Tokenizer, prompt: &str) -> Result<TokenIds, TextError> {
        let tokens = tokenizer.encode(&self.clean_prompt(prompt), self.text_tokens)?;
        let length = if self.family.attends_padding { tokens.ids.len() } else { tokens.len };
        Ok(TokenIds { ids: tokens.ids, length })
    }

    /// The parameters of a component, quantized while loading if `rounding` says so.
    ///
    /// # Errors
    ///
    /// If the files are unusable, or already quantized while `rounding` asks for it.
    pub fn weights(
        &self,
        kind: ComponentKind,
        rounding: Option<(&Rounding, Arithmetic)>,
        max_elements: usize,
    ) -> Result<ComponentWeights, PipelineError> {
        let component = self.folder.component(kind)?;
        let checkpoint = component.weights()?.with_max_elements(max_elements);
        match (PackedCheckpoint::recognize(checkpoint)?, rounding) {
            (Ok(packed), _) if !component.loras.is_empty() => Err(PipelineError::Setting(format!(
                "--lora: the {} is already quantized to {}; add the LoRA to the full-precision \
                     model: {}",
                kind.name(),
                packed.manifest().precision,
                component.path.display()
            ))),
            (Ok(packed), None) => Ok(ComponentWeights::Packed(packed)),
            (Ok(packed), Some((rounding, _))) => Err(PipelineError::Setting(format!(
                "the {} is already quantized to {}, so it cannot be quantized to {}; leave the \
                 bits out, or use the full-precision model: {}",
                kind.name(),
                packed.manifest().precision,
                rounding.scope.precision,
                component.path.display()
            ))),
            (Err(checkpoint), None) => Ok(ComponentWeights::Full(checkpoint)),
            (Err(checkpoint), Some((rounding, arithmetic))) => {
                let rounding = rounding.clone();
                Ok(ComponentWeights::Rounded(RoundingSource { checkpoint, rounding, arithmetic }))
            }
        }
    }
}

fn names(layers: &[LinearShape]) -> impl Iterator<Item = &str> {
    layers.iter().map(|layer| layer.name.as_str())
}

/// The parameters of a component in the form they were found or asked for.
#[derive(Debug)]
pub enum ComponentWeights {
    /// Full precision.
    Full(Checkpoint),
    /// Full precision on disk, quantized while loading.
    Rounded(RoundingSource),
    /// Packed on disk.
    Packed(PackedCheckpoint),
}

impl ComponentWeights {
    /// The parameters.
    pub fn source(&self) -> &dyn WeightSource {
        match self {
            Self::Full(source) => source,
            Self::Rounded(source) => source,
            Self::Packed(source) => source,
        }
    }

    /// Precision of the quantized layers, such as `w4a4`; `full` if there are none.
    pub fn precision(&self, layers: &[LinearShape]) -> String {
        match self {
            Self::Full(_) => "full".to_owned(),
            Self::Rounded(source) => source.rounding.precision_of(names(layers)),
            Self::Packed(source) => source.manifest().precision.clone(),
        }
    }

    /// Whether the files are packed.
    pub fn is_packed(&self) -> bool {
        matches!(self, Self::Packed(_))
    }

    /// Bytes of the weight of `layer` on the device, grids included.
    pub fn weight_bytes(&self, layer: &LinearShape) -> u64 {
        let (rows, columns) = (layer.out_features as u64, layer.in_features as u64);
        let packed = match self {
            Self::Full(_) => None,
            Self::Rounded(source) if source.arithmetic == Arithmetic::FakeQuant => None,
            Self::Rounded(source) => source
                .rounding
                .layer(&layer.name)
                .map(|spec| (spec.weights.bits.get(), spec.weights.group_size, 0)),
            Self::Packed(source) => {
                let entry = source.manifest().layers.get(&layer.name);
                entry
                    .map(|entry| (entry.bits, entry.group_size, entry.extra_bytes([rows, columns])))
            }
        };
        packed.map_or(
            rows.saturating_mul(columns).saturating_mul(4),
            |(bits, group_size, extras)| {
                let shape = [layer.out_features, layer.in_features];
                packed_bytes(bits, group_size, shape).saturating_add(extras)
            },
        )
    }

    fn check(&self, name: &str, shape: &[usize]) -> Result<(), WeightError> {
        match self {
            Self::Full(source) => source.check(name, shape),
            Self::Rounded(source) => source.checkpoint.check(name, shape),
            Self::Packed(source) => source.check(name, shape),
        }
    }
}
