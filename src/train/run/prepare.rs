//! What a training starts with: the model, the student, and what its checkpoints belong to.

use super::{Event, TrainJob};
use crate::kernels::device::OpenDevice;
use crate::method::qvgen::{Auxiliary, Loss, Recipe};
use crate::nn::{Limits, Weights};
use crate::pipeline::checkpoint::{Checkpoint, ComponentKind, Tensors};
use crate::pipeline::embedded::{EmbeddedModel, EmbeddedName};
use crate::pipeline::model::{ComponentWeights, VideoModel};
use crate::train::config::{Config, Start};
use crate::train::dataset::Dataset;
use crate::train::init::random_parameters;
use crate::train::state::{Identity, Restored};
use crate::train::trainer::Trainer;
use crate::train::{Parameters, QuantizedLayers, TrainError};
use sha2::{Digest, Sha256};
use std::path::Path;

/// Tensors up to this size are part of a model's fingerprint with their contents.
const FINGERPRINT_BYTES: u64 = 64 << 10;

/// A model that a configuration names.
#[derive(Debug)]
pub struct OpenedModel {
    /// The model.
    pub model: VideoModel,
    /// Its files, where they are temporary.
    _embedded: Option<EmbeddedModel>,
}

impl OpenedModel {
    /// Opens the folder that `config` names, or the model of that name inside the program, with
    /// its LoRA files.
    ///
    /// # Errors
    ///
    /// If a file is missing or unusable, or a LoRA does not fit the model.
    pub fn open(config: &Config) -> Result<Self, TrainError> {
        let name = &config.model;
        let embedded = EmbeddedName::of(Path::new(name)).map(EmbeddedModel::unpack).transpose()?;
        let path = embedded.as_ref().map_or(Path::new(name), EmbeddedModel::path);
        let model = VideoModel::open_with(path, &config.files())?;
        model.check_files()?;
        Ok(Self { model, _embedded: embedded })
    }
}

/// Checks the rules and ranks of `config` against the layers of `model`.
///
/// # Errors
///
/// If a rule names no layer, nothing would be quantized, or a rank exceeds a layer.
pub fn check_layers(
    config: &Config,
    recipe: Option<&Recipe>,
    model: &VideoModel,
) -> Result<(), TrainError> {
    let Some(recipe) = recipe else { return Ok(()) };
    let linears = model.transformer.linears();
    let scope = config.scope(&*model.transformer);
    let names: Vec<String> = linears.iter().map(|linear| linear.name.clone()).collect();
    if let Some(rule) = scope.unused_rules(&names).first() {
        return Err(TrainError::Setting(format!(
            "layers: the pattern of \"{rule}\" names none of the {} linear layers, such as \"{}\"; \
             `qvgen inspect MODEL --layers` lists them",
            names.len(),
            names.last().map_or("", String::as_str)
        )));
    }
    let quantized = || linears.iter().filter(|linear| scope.of(&linear.name).weights.is_some());
    let rank = match &recipe.auxiliary {
        Auxiliary::None => 0,
        Auxiliary::Lora { rank } => *rank,
        Auxiliary::Phi { ranks, .. } => ranks.iter().copied().max().unwrap_or(0),
    };
    let smallest = quantized().min_by_key(|linear| linear.out_features.min(linear.in_features));
    let Some(smallest) = smallest else {
        return Err(TrainError::Setting(format!(
            "bits = \"{}\": nothing would be quantized, because layers keeps everything",
            config.bits
        )));
    };
    let most = smallest.out_features.min(smallest.in_features);
    if rank > most {
        return Err(TrainError::Setting(format!(
            "recipe.rank is {rank}, but layer \"{}\" is {}x{}; use at most {most}",
            smallest.name, smallest.out_features, smallest.in_features
        )));
    }
    Ok(())
}

/// The parameters of the transformer to start from.
pub(super) fn full_weights(
    model: &VideoModel,
    device: &OpenDevice,
) -> Result<ComponentWeights, TrainError> {
    let weights = model.weights(ComponentKind::Transformer, None, device.max_elements())?;
    if weights.is_packed() {
        return Err(TrainError::Setting(format!(
            "the transformer is quantized already; train from the full-precision model: {}",
            model.folder.path().display()
        )));
    }
    let most = device.max_elements();
    let shapes = model.transformer.parameter_shapes();
    let elements = |shape: &[usize]| shape.iter().product::<usize>();
    if let Some((name, shape)) = shapes.iter().find(|(_, shape)| elements(shape) > most) {
        return Err(TrainError::Setting(format!(
            "\"{name}\" has {} values but the device can bind {most}; a training cannot split \
             tensors, so use another device",
            elements(shape)
        )));
    }
    Ok(weights)
}

/// What the checkpoints of the training belong to.
pub(super) fn identity(
    config: &Config,
    weights: &ComponentWeights,
    clips: usize,
) -> Result<Identity, TrainError> {
    let model = match weights {
        ComponentWeights::Full(checkpoint) => fingerprint(checkpoint)?,
        ComponentWeights::Rounded(_) | ComponentWeights::Packed(_) => String::new(),
    };
    Ok(Identity { model, clips, config: config.essence() })
}

/// SHA-256 over names, types and shapes of all tensors and the contents of the small ones (norms,
/// biases, tables), which tells models apart without reading gigabytes. LoRA files, which have no small
/// tensors, are read whole.
fn fingerprint(checkpoint: &Checkpoint) -> Result<String, TrainError> {
    let mut hash = Sha256::new();
    add_tensors(&mut hash, checkpoint.tensors(), FINGERPRINT_BYTES)?;
    for lora in checkpoint.loras() {
        hash.update(format!("{}\n", lora.file().strength));
        add_tensors(&mut hash, lora.tensors(), u64::MAX)?;
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Adds names, types and shapes of `tensors`, and the contents of those of up to `most` bytes.
fn add_tensors(hash: &mut Sha256, tensors: &Tensors, most: u64) -> Result<(), TrainError> {
    for name in tensors.names() {
        let Some(info) = tensors.info(name) else { continue };
        hash.update(format!("{name} {} {:?}\n", info.dtype(), info.shape()));
        if info.byte_len() <= most {
            hash.update(tensors.raw(name)?.bytes);
        }
    }
    Ok(())
}

/// The trainer at its first update, or where `restored` left off.
pub(super) fn trainer<'a>(
    job: &TrainJob<'a>,
    recipe: Option<Recipe>,
    weights: &ComponentWeights,
    data: &'a dyn Dataset,
    restored: Option<Restored>,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Trainer<'a>, TrainError> {
    let (config, model) = (job.config, job.model);
    let (device, settings) = (&job.device.device, &config.training);
    let shapes = model.transformer.parameter_shapes();
    let mut work = |done| {
        observe(Event::Working { what: "preparing the student", unit: "parts", done, total: 3 });
    };
    work(0);
    let (step, mut parameters, is_new) = match restored {
        Some(restored) => (restored.step, restored.parameters, false),
        None if config.start == Start::Random => {
            (0, random_parameters(&*model.transformer, settings.seed, device), true)
        }
        None => (0, Parameters::load(weights.source(), &shapes, device)?, true),
    };
    if let Some((name, _)) =
        shapes.iter().find(|(name, shape)| parameters.get(name).is_none_or(|p| p.shape != *shape))
    {
        let message = format!("the checkpoint lacks \"{name}\"; begin anew with --restart");
        return Err(TrainError::Setting(message));
    }
    work(1);
    let limits = Limits { max_elements: job.device.max_elements() };
    let teacher = match &recipe {
        Some(recipe) if recipe.needs_teacher() => {
            let weights = Weights::new(weights.source(), device);
            Some(model.transformer.load(&weights, limits)?)
        }
        _ => None,
    };
    work(2);
    let layers = match &recipe {
        None => None,
        Some(recipe) => {
            let linears = model.transformer.linears();
            let scope = config.scope(&*model.transformer);
            Some(if is_new {
                let seed = settings.seed;
                let steps = settings.steps;
                QuantizedLayers::prepare(&mut parameters, &linears, &scope, recipe, steps, seed)?
            } else {
                QuantizedLayers::describe(&linears, &scope, recipe, settings.steps)?
            })
        }
    };
    work(3);
    Ok(Trainer {
        config: model.transformer.clone(),
        parameters,
        layers,
        teacher,
        noising: model.noising()?,
        loss: recipe.map_or(Loss::GroundTruth, |recipe| recipe.loss),
        optimizer: config.optimizer.clone(),
        settings: settings.clone(),
        data,
        device: device.clone(),
        parallel: job.device.adapter.is_none(),
        limits,
        step,
    })
}
