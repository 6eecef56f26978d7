//! From nothing to a small text-to-video model of the world in [`crate::world`].
//!
//! The stages of a large model, in small: an autoencoder, the latents of many clips, a denoiser
//! trained by flow matching on them. The result is a folder in the diffusers layout that every
//! command takes, and nothing in it is special but its size.

mod autoencoder;
mod folder;
mod pocket;
mod text;
mod vae;

pub use autoencoder::AutoencoderReport;

use autoencoder::AutoencoderTrainer;
use folder::{NamedValues, write_component};
use vae::{Autoencoder, clip_or_frame};

use super::TrainError;
use super::dataset::InMemory;
use super::export::averaged;
use super::init::random_parameters;
use super::optimizer::OptimizerSettings;
use super::parameters::Parameters;
use super::source::ParameterSource;
use super::trainer::{LoopSettings, StepReport, Trainer};
use super::world_clips::{WorldTexts, encode_scenes};
use crate::kernels::device::OpenDevice;
use crate::method::qvgen::Loss;
use crate::models::t5::{self, T5Config, TokenIds};
use crate::models::wan_vae::WanVaeEncoder;
use crate::nn::{Limits, Weights};
use crate::pipeline::PipelineError;
use crate::pipeline::atomic::{AtomicFolder, Existing, OutputError};
use crate::pipeline::cancel::Cancel;
use crate::pipeline::checkpoint::Checkpoint;
use crate::pipeline::companions::write_json;
use crate::pipeline::noising::Noising;
use crate::pipeline::tokenizer::{TextError, Tokenizer};
use crate::world::{Caption, FPS};
use burn::tensor::Tensor;
use serde_json::json;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is made, and how long it may take.
#[derive(Clone, Debug, PartialEq)]
pub struct PretrainSettings {
    /// Folder of the model.
    pub out: PathBuf,
    /// Start of all random numbers.
    pub seed: u64,
    /// An autoencoder of the same sizes to go on from; `None` to begin with random values.
    pub autoencoder: Option<PathBuf>,
    /// Updates of the autoencoder.
    pub autoencoder_steps: usize,
    /// Crops per update of the autoencoder.
    pub autoencoder_batch: usize,
    /// Highest learning rate of the autoencoder.
    pub autoencoder_learning_rate: f64,
    /// Clips whose latents the denoiser is trained on.
    pub clips: usize,
    /// Updates of the denoiser.
    pub steps: usize,
    /// Clips per update of the denoiser.
    pub batch: usize,
    /// Highest learning rate of the denoiser.
    pub learning_rate: f64,
}

impl PretrainSettings {
    /// What the model in this program was made with.
    pub fn new(out: PathBuf) -> Self {
        Self {
            out,
            seed: 0,
            autoencoder: None,
            autoencoder_steps: 4000,
            autoencoder_batch: 4,
            autoencoder_learning_rate: 2e-3,
            clips: 4096,
            steps: 6000,
            batch: 16,
            learning_rate: 1e-3,
        }
    }

    /// Checks that every number can be.
    ///
    /// # Errors
    ///
    /// Names the setting and what it may be.
    pub fn check(&self) -> Result<(), TrainError> {
        let counts = [
            ("--autoencoder-steps", self.autoencoder_steps),
            ("--autoencoder-batch", self.autoencoder_batch),
            ("--clips", self.clips),
            ("--steps", self.steps),
            ("--batch", self.batch),
        ];
        if let Some((flag, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(TrainError::Setting(format!("{flag} is 0, it must be at least 1")));
        }
        let rates = [
            ("--autoencoder-learning-rate", self.autoencoder_learning_rate),
            ("--learning-rate", self.learning_rate),
        ];
        match rates.iter().find(|(_, rate)| !(rate.is_finite() && *rate > 0.0)) {
            Some((flag, rate)) => Err(TrainError::Setting(format!(
                "{flag} is {rate}, it must be a positive number, such as 0.001"
            ))),
            None => Ok(()),
        }
    }
}

/// What has just been done.
#[derive(Debug)]
pub enum PretrainEvent<'a> {
    /// An update of the autoencoder, and their number.
    Autoencoder(AutoencoderReport, usize),
    /// Clips that were turned into latents, and their number.
    Latents(usize, usize),
    /// An update of the denoiser, and their number.
    Denoiser(&'a StepReport, usize),
}

/// A training from nothing.
pub struct Pretraining<'a> {
    /// What is made.
    pub settings: PretrainSettings,
    /// Where.
    pub device: &'a OpenDevice,
    /// Stops it between updates.
    pub cancel: Cancel,
    /// Told about every piece of work.
    pub report: &'a mut dyn FnMut(PretrainEvent<'_>),
}

impl std::fmt::Debug for Pretraining<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pretraining").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Pretraining<'_> {
    /// All stages; the model's folder appears when it is complete.
    ///
    /// The autoencoder is kept in a folder beside it meanwhile and taken from there by a second
    /// run with the same settings.
    ///
    /// # Errors
    ///
    /// If the folder cannot be written, the device fails, or a loss is not finite.
    pub fn run(&mut self) -> Result<(), TrainError> {
        let out = AtomicFolder::create(&self.settings.out, Existing::Refuse)?;
        let folder = out.path().to_owned();
        let text = self.write_text_side(&folder)?;
        let vae = self.autoencoder(&folder)?;
        let data = self.dataset(&folder, &vae, &text)?;
        let denoiser = self.denoiser(&text, &data)?;
        let config = pocket::transformer_config(&text);
        write_component(
            &folder.join("transformer"),
            &pocket::transformer_config_json(&config),
            "diffusion_pytorch_model",
            &values_of(&denoiser)?,
        )?;
        out.commit()?;
        let work = self.work_folder();
        if let Err(err) = fs::remove_dir_all(&work) {
            log::warn!(
                "what the training kept meanwhile is still there, {err}: {}",
                work.display()
            );
        }
        Ok(())
    }

    fn work_folder(&self) -> PathBuf {
        let mut name = self.settings.out.file_name().unwrap_or_default().to_owned();
        name.push(".work");
        self.settings.out.with_file_name(name)
    }

    /// Tokenizer, text encoder, scheduler and the files of the folder itself.
    fn write_text_side(&self, folder: &Path) -> Result<T5Config, TrainError> {
        let pieces = text::pieces(Caption::all().map(|caption| caption.to_string()));
        let tokenizer = folder.join("tokenizer");
        let scheduler = folder.join("scheduler");
        for folder in [&tokenizer, &scheduler] {
            fs::create_dir_all(folder).map_err(OutputError::io("create", folder))?;
        }
        write_json(&tokenizer.join("tokenizer.json"), &text::tokenizer_json(&pieces))?;
        let config = text::tokenizer_config(pocket::TEXT_TOKENS);
        write_json(&tokenizer.join("tokenizer_config.json"), &config)?;
        let config = pocket::scheduler_config_json();
        write_json(&scheduler.join("scheduler_config.json"), &config)?;
        write_json(&folder.join("model_index.json"), &pocket::model_index_json())?;
        let [frames, height, width] = pocket::SIZE;
        write_json(
            &folder.join("sampling.json"),
            &json!({
                "prompt": "a red circle moves right over a blue background",
                "frames": frames, "width": width, "height": height, "steps": 20,
                "guidance_scale": 3.0, "fps": FPS as f64, "bits": "full",
                "max_sequence_length": pocket::TEXT_TOKENS,
            }),
        )?;
        let encoder = text::encoder_config(pieces.len());
        write_component(
            &folder.join("text_encoder"),
            &text::encoder_config_json(&encoder),
            "model",
            &text::encoder_values(&encoder, self.settings.seed),
        )?;
        Ok(encoder)
    }

    /// The trained autoencoder with the statistics of its latents, also written to `folder`.
    fn autoencoder(&mut self, folder: &Path) -> Result<Autoencoder, TrainError> {
        let kept = self.work_folder().join("vae");
        let vae = if kept.join("config.json").is_file() {
            Autoencoder::read(&kept, self.device)?
        } else {
            let vae = self.train_autoencoder()?;
            let work = self.work_folder();
            fs::create_dir_all(&work).map_err(OutputError::io("create", &work))?;
            let kept = AtomicFolder::create(&kept, Existing::Refuse)?;
            vae.write(kept.path())?;
            kept.commit()?;
            vae
        };
        vae.write(&folder.join("vae"))?;
        Ok(vae)
    }

    fn train_autoencoder(&mut self) -> Result<Autoencoder, TrainError> {
        let PretrainSettings { seed, autoencoder_steps: steps, .. } = self.settings;
        let config = pocket::vae_config();
        let device = self.device.device.clone();
        let first = match &self.settings.autoencoder {
            Some(folder) => Some(Autoencoder::read(folder, self.device)?.parameters),
            None => None,
        };
        // What goes on has seen enough single frames.
        let frame_steps = if first.is_some() { 0 } else { steps / 2 };
        let initial = || AutoencoderTrainer::initial_parameters(&config, seed, &device);
        let mut trainer = AutoencoderTrainer {
            parameters: first.unwrap_or_else(initial),
            config,
            optimizer: OptimizerSettings {
                learning_rate: self.settings.autoencoder_learning_rate,
                warmup: 0.05,
                final_share: 0.02,
                beta2: 0.99,
                average_decay: Some(0.995),
                ..OptimizerSettings::default()
            },
            steps,
            batch: self.settings.autoencoder_batch,
            seed,
            parallel: self.device.adapter.is_none(),
            device,
        };
        let clips =
            |step: usize, index: usize| clip_or_frame(seed, step, step < frame_steps, index);
        for step in 0..steps {
            self.cancel.check()?;
            let report = trainer.update(step, &clips)?;
            (self.report)(PretrainEvent::Autoencoder(report, steps));
        }
        let parameters = averaged(&trainer.parameters);
        let mut vae = Autoencoder { config: trainer.config, parameters };
        vae.measure(seed, self.device)?;
        Ok(vae)
    }

    /// Latents and captions of the training clips.
    fn dataset(
        &mut self,
        folder: &Path,
        vae: &Autoencoder,
        text: &T5Config,
    ) -> Result<InMemory, TrainError> {
        let texts = self.embed_captions(folder, text)?;
        let source = ParameterSource::plain(&vae.parameters, None);
        let weights = Weights::new(&source, &self.device.device);
        let encoder = WanVaeEncoder::load(&weights, &vae.config).map_err(PipelineError::from)?;
        let clips = (self.settings.clips, self.settings.seed);
        let mut progress = |done, clips| (self.report)(PretrainEvent::Latents(done, clips));
        encode_scenes(
            &encoder,
            texts,
            self.device,
            &self.cancel,
            pocket::SIZE,
            clips,
            &mut progress,
        )
    }

    fn embed_captions(&self, folder: &Path, config: &T5Config) -> Result<WorldTexts, TrainError> {
        let tokenizer = Tokenizer::open(&folder.join("tokenizer"), config.vocab_size)
            .map_err(PipelineError::from)?;
        let tokens = WorldTexts::sentences()
            .iter()
            .map(|caption| {
                let tokens = tokenizer.encode(caption, pocket::TEXT_TOKENS)?;
                Ok(TokenIds { ids: tokens.ids, length: tokens.len })
            })
            .collect::<Result<Vec<_>, TextError>>()
            .map_err(PipelineError::from)?;
        let checkpoint = Checkpoint::open(&folder.join("text_encoder/model.safetensors"))?;
        let weights = Weights::new(&checkpoint, &self.device.device);
        let mut go_on = |_, _| ControlFlow::Continue(());
        let embeds =
            t5::encode(&weights, config, &tokens, &mut go_on).map_err(PipelineError::from)?;
        Ok(WorldTexts::new(embeds))
    }

    fn denoiser(&mut self, text: &T5Config, data: &InMemory) -> Result<Parameters, TrainError> {
        let settings = &self.settings;
        let config = pocket::transformer_config(text);
        let device = self.device.device.clone();
        let mut trainer = Trainer {
            parameters: random_parameters(&config, settings.seed, &device),
            config: Arc::new(config),
            layers: None,
            teacher: None,
            noising: Noising::flow_matching(),
            loss: Loss::GroundTruth,
            optimizer: OptimizerSettings {
                learning_rate: settings.learning_rate,
                warmup: 0.03,
                final_share: 0.02,
                beta2: 0.99,
                weight_decay: 0.01,
                average_decay: Some(0.998),
                ..OptimizerSettings::default()
            },
            settings: LoopSettings {
                steps: settings.steps,
                batch: settings.batch,
                seed: settings.seed,
                caption_dropout: 0.1,
                timestep_shift: 1.0,
                recompute: false,
            },
            data,
            device,
            parallel: self.device.adapter.is_none(),
            limits: Limits { max_elements: self.device.max_elements() },
            step: 0,
        };
        for _ in 0..trainer.settings.steps {
            self.cancel.check()?;
            let report = trainer.update()?;
            (self.report)(PretrainEvent::Denoiser(&report, trainer.settings.steps));
        }
        Ok(averaged(&trainer.parameters))
    }
}

/// The values of all parameters, for a file.
///
/// # Errors
///
/// If the device fails.
pub(super) fn values_of(parameters: &Parameters) -> Result<Vec<NamedValues>, TrainError> {
    let values = |(name, parameter): (&str, &super::Parameter)| {
        let values = host(parameter.value.clone())?;
        Ok((name.to_owned(), parameter.shape.clone(), values))
    };
    parameters.iter().map(values).collect()
}

fn host<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, TrainError> {
    let data = tensor.try_into_data().map_err(|err| TrainError::Device(format!("{err:?}")))?;
    data.try_to_vec().map_err(|err| TrainError::Device(err.to_string()))
}
