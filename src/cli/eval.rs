//! `qvgen eval`.

use super::arguments::DeviceArgs;
use super::model_arguments::{FilesArgs, Located, PrecisionArgs, SamplingArgs};
use super::output;
use super::progress::StageBar;
use crate::evaluate::{
    Case, EvaluationSettings, Evaluator, Stage, balanced_cases, check_reference, contact_sheet,
    knows_the_world, prompt_cases,
};
use crate::models::Denoiser;
use crate::pipeline::cancel::Cancel;
use crate::pipeline::checkpoint::ComponentKind;
use crate::pipeline::defaults::SamplingDefaults;
use crate::pipeline::embedded::EmbeddedName;
use crate::pipeline::model::{ComponentWeights, VideoModel};
use crate::pipeline::plan::Plan;
use crate::pipeline::sample::Sampler;
use crate::pipeline::video;
use anyhow::{Context, bail};
use serde_json::json;
use std::path::PathBuf;

/// Clips unless another number is asked for.
const CLIPS: usize = 32;

/// Arguments of `qvgen eval`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Model folder in the diffusers layout, full precision or packed, or a model inside the
    /// program: `pocket`, `pocket-w4a4`, `pocket-w3a3` [default: pocket]
    model: Option<PathBuf>,
    /// Model folder to agree with; its transformer samples the same clips from the same noise,
    /// with MODEL's text encoder and autoencoder [default: MODEL in full precision, if it is
    /// quantized while loading]
    #[arg(long, value_name = "FOLDER")]
    reference: Option<PathBuf>,
    /// Captions to sample, half of them of combinations that no training has seen [default: 32]
    #[arg(long, value_name = "N", conflicts_with = "prompts")]
    clips: Option<usize>,
    /// File with one prompt per line to sample instead
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// How many times every clip is sampled, with noise of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    seeds: u64,
    /// The first of the seeds
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    files: FilesArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Write a picture of the clips of the first seed, with marks: shape, color, motion, background
    #[arg(long, value_name = "FILE.png")]
    contact_sheet: Option<PathBuf>,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// Most seeds: more would not fit the memory.
const MAX_SEEDS: u64 = 1000;

/// Samples and measures.
pub(super) fn run(args: Args, quiet: bool, cancel: &Cancel) -> anyhow::Result<()> {
    if let Some(sheet) = &args.contact_sheet {
        video::check_picture_target(sheet)?;
    }
    let located = Located::new(args.model.as_deref(), EmbeddedName::Pocket)?;
    let files = args.files.files();
    let name = args.files.named(&located.name());
    let model = VideoModel::open_with(located.path(), &files)?;
    let defaults = &model.defaults;
    let settings = args.settings(defaults)?;
    settings.check(&model)?;
    let rounding = args.precision.rounding(&model)?;
    let reference = match &args.reference {
        Some(folder) => Some(Reference::open(&Located::new(Some(folder), EmbeddedName::Pocket)?)?),
        None if rounding.is_some() => Some(Reference {
            name: format!("{name} in full precision"),
            model: VideoModel::open_with(located.path(), &files)?,
        }),
        None => None,
    };
    if let Some(reference) = &reference {
        check_reference(&*model.transformer, &*reference.model.transformer)
            .context("--reference")?;
    }
    let cases = args.cases(&located.name(), defaults, reference.is_some())?;
    model.check_files()?;
    let device = args.device.open()?;
    let rounding = rounding.as_ref().map(|(rounding, arithmetic)| (rounding, *arithmetic));
    let weights = model.weights(ComponentKind::Transformer, rounding, device.max_elements())?;
    let plan = Plan::new(&model, &settings.sampling, &weights, &device, None);
    plan.check(None)?;

    let attention = settings.sampling.attention;
    settings.sampling.check_device(&device)?;
    let mut bar = StageBar::new(quiet || args.json);
    let mut progress = |stage, done, total| {
        let (name, unit) = stage_words(stage);
        bar.advance(name, unit, done, total);
    };
    let mut evaluator =
        Evaluator::new(&model, &device, cancel.clone(), settings, cases, &mut progress)?;
    let load =
        |model: &VideoModel, weights: &ComponentWeights| -> anyhow::Result<Box<dyn Denoiser>> {
            let sampler = Sampler { model, device: &device, cancel: cancel.clone() };
            let transformer = sampler.load_transformer(weights, &mut |_, _, _| {})?;
            Ok(transformer.with_attention(attention))
        };
    if let Some(Reference { name, model }) = &reference {
        let weights = model.weights(ComponentKind::Transformer, None, device.max_elements())?;
        let transformer = load(model, &weights).with_context(|| format!("loading {name}"))?;
        evaluator.set_reference(name, &*transformer, &mut progress)?;
    }
    device.device.memory_cleanup();
    let evaluated = evaluator.evaluate(&*load(&model, &weights)?, &mut progress)?;
    bar.finish();
    let evaluation = &evaluated.evaluation;
    let mut document = json!({
        "generator": concat!("qvgen ", env!("CARGO_PKG_VERSION")),
        "model": located.name(),
        "precision": plan.precision,
        "device": plan.device,
        "files": args.files.record(),
        "evaluation": evaluation,
    });
    if let Some(path) = &args.contact_sheet {
        let sheet = contact_sheet(evaluator.cases(), &evaluated, evaluator.reference_runs())?;
        video::write_picture(&sheet, path, &document)?;
        document["contact_sheet"] = path.display().to_string().into();
    }
    if args.json {
        return output::json(&document);
    }
    output::line(&format!(
        "{name}, transformer {}, on {}: {} clips, {} seeds, {} steps",
        plan.precision,
        plan.device,
        evaluator.cases().len(),
        args.seeds,
        evaluator.settings().sampling.steps
    ));
    output::line("");
    output::line(&evaluation.to_string());
    if let Some(path) = &args.contact_sheet {
        output::line(&format!("\n{}: the clips of seed {}", path.display(), args.seed));
    }
    Ok(())
}

/// The model to agree with.
struct Reference {
    name: String,
    model: VideoModel,
}

impl Reference {
    fn open(located: &Located) -> anyhow::Result<Self> {
        let model = VideoModel::open(located.path()).context("--reference")?;
        Ok(Self { name: located.name(), model })
    }
}

impl Args {
    fn settings(&self, defaults: &SamplingDefaults) -> anyhow::Result<EvaluationSettings> {
        if !(1..=MAX_SEEDS).contains(&self.seeds) {
            bail!("--seeds: {} is no number from 1 to {MAX_SEEDS}", self.seeds);
        }
        let sampling = self.sampling.settings(defaults, String::new(), 0);
        let seeds = (0..self.seeds).map(|i| self.seed.wrapping_add(i)).collect();
        Ok(EvaluationSettings { seeds, sampling, ..EvaluationSettings::suggested(defaults, 0) })
    }

    /// What to sample; refuses what nothing could be measured of.
    fn cases(
        &self,
        name: &str,
        defaults: &SamplingDefaults,
        has_reference: bool,
    ) -> anyhow::Result<Vec<Case>> {
        let knows_the_world = knows_the_world(defaults);
        let Some(path) = &self.prompts else {
            if !knows_the_world {
                bail!(
                    "{name} was not trained on captions whose truth can be read from a video (the \
                     prompt in its sampling.json is no such caption), so its accuracy cannot be \
                     measured; measure agreement with another model instead: --prompts FILE \
                     --reference FOLDER"
                );
            }
            return Ok(balanced_cases(self.clips.unwrap_or(CLIPS))?);
        };
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("--prompts: reading {}", path.display()))?;
        let cases = prompt_cases(&text, knows_the_world)
            .with_context(|| format!("--prompts {}", path.display()))?;
        if !has_reference && cases.iter().all(|case| case.scene.is_none()) {
            bail!(
                "nothing can be measured: {name} knows no captions among the prompts, and agreement \
                 needs --reference FOLDER"
            );
        }
        Ok(cases)
    }
}

fn stage_words(stage: Stage) -> (&'static str, &'static str) {
    match stage {
        Stage::Text => ("encoding prompts", "blocks"),
        Stage::Sample => ("sampling", "clips"),
        Stage::Velocity => ("velocities", "clips"),
    }
}
