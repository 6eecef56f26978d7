//! Arguments of `qvgen quantize` about methods after training and what they look at.

use super::arguments::{parse_bytes, parse_size};
use crate::evaluate::{balanced_cases, knows_the_world};
use crate::method::Rounding;
use crate::method::ptq::auto::Choice;
use crate::method::ptq::{ActivationMode, Method};
use crate::nn::{AttentionPrecision, ConvPrecision};
use crate::pipeline::calibrate::{CalibrationJob, cache_folder, read_prompts};
use crate::pipeline::defaults::SamplingDefaults;
use crate::pipeline::model::VideoModel;
use crate::pipeline::quantize::PostTraining;
use crate::pipeline::settings::{SampleSettings, TilingChoice};
use anyhow::{anyhow, bail};
use clap::ValueEnum;
use clap::builder::PossibleValue;
use std::path::PathBuf;

/// Clips that layers are observed in unless another number is asked for.
const CLIPS: usize = 4;
/// The same where ranges are fixed: words that no prompt had may leave them.
const CLIPS_FOR_RANGES: usize = 16;
/// Most clips.
const MAX_CLIPS: usize = 10_000;
/// Most tokens of each layer that are kept.
const MAX_SAMPLES: usize = 65_536;
/// Most frames of a clip unless another number is asked for: what layers read hardly depends on it.
const FRAMES: usize = 17;
/// Columns of a low-rank branch.
const RANK: usize = 32;

/// How layers are quantized after training.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Post-training methods")]
pub(super) struct PostTrainingArgs {
    /// How layers are quantized [default: mse, without looking at their inputs]
    #[arg(long, value_enum, value_name = "NAME")]
    method: Option<Method>,
    /// Where ranges of activations come from [default: dynamic]
    #[arg(long, value_enum, value_name = "KIND")]
    activations: Option<ActivationMode>,
    /// With --method auto: most stored bits per weight in the mean, scales included; widths of 3, 4,
    /// 6 and 8 bits are mixed
    #[arg(long, value_name = "BITS", conflicts_with = "max_error")]
    budget_bits: Option<f64>,
    /// With --method auto: largest relative error of a layer's output, such as 0.05; each layer gets
    /// the fewest bits that keep to it
    #[arg(long, value_name = "ERROR")]
    max_error: Option<f64>,
    /// Most columns of the branch of svdquant [default: 32, or a sixth of the smaller side of a
    /// layer]
    #[arg(long, value_name = "N")]
    rank: Option<usize>,
    /// Prompts to observe layers with: UTF-8 text with one per line, or JSONL with a prompt,
    /// caption or text [default: captions of its world for a model that knows it]
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Clips that are sampled to observe layers, one per prompt; 0 to do without: methods that look
    /// at inputs then see random ones [default: 4; 16 for ranges that are not dynamic, which tokens
    /// of other prompts must not leave]
    #[arg(long, value_name = "N")]
    calibration_clips: Option<usize>,
    /// Denoising steps of such a clip [default: 50, or what the model suggests]
    #[arg(long, value_name = "N")]
    calibration_steps: Option<usize>,
    /// Frames of such a clip [default: what the model suggests, but at most 17]
    #[arg(long, value_name = "N")]
    calibration_frames: Option<usize>,
    /// Pixels of such a clip [default: what the model suggests]
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = parse_size)]
    calibration_size: Option<(usize, usize)>,
    /// Tokens of each layer's input that are kept [default: 256, or 1024 for gptq and auto]
    #[arg(long, value_name = "N")]
    calibration_samples: Option<usize>,
    /// Most device memory while observing: transformer blocks beyond it wait in host memory, such as
    /// 8GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    max_memory: Option<u64>,
    /// Folder for what was observed, so that work goes on where it was stopped and other methods
    /// need not observe again [default: one in the user's cache]
    #[arg(long, value_name = "FOLDER")]
    calibration_cache: Option<PathBuf>,
    /// Write a page with a table and figures of every layer
    #[arg(long, value_name = "FILE.html")]
    pub(super) report: Option<PathBuf>,
}

impl ValueEnum for Method {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(self.summary()))
    }
}

impl ValueEnum for ActivationMode {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            Self::Dynamic => "Each token's own extremes, found at run time",
            Self::Static => "One range for all tokens, found by observing",
            Self::PerFrame => "One range for each latent frame, found by observing",
            Self::PerRange => "One range for each quarter of the timesteps, found by observing",
        };
        Some(PossibleValue::new(self.name()).help(help))
    }
}

impl PostTrainingArgs {
    /// The flags that mean nothing without `--method`.
    fn first_flag(&self) -> Option<&'static str> {
        let given = [
            (self.activations.is_some(), "--activations"),
            (self.budget_bits.is_some(), "--budget-bits"),
            (self.max_error.is_some(), "--max-error"),
            (self.rank.is_some(), "--rank"),
            (self.prompts.is_some(), "--prompts"),
            (self.calibration_clips.is_some(), "--calibration-clips"),
            (self.calibration_steps.is_some(), "--calibration-steps"),
            (self.calibration_frames.is_some(), "--calibration-frames"),
            (self.calibration_size.is_some(), "--calibration-size"),
            (self.calibration_samples.is_some(), "--calibration-samples"),
            (self.max_memory.is_some(), "--max-memory"),
            (self.calibration_cache.is_some(), "--calibration-cache"),
            (self.report.is_some(), "--report"),
        ];
        given.into_iter().find_map(|(given, flag)| given.then_some(flag))
    }

    /// `rounding` of the layers that the method quantizes: `qvd` has a quantizer for those that bring
    /// the timestep into the blocks, which others keep.
    pub(super) fn scoped(&self, rounding: Rounding, model: &VideoModel) -> Rounding {
        if self.method != Some(Method::Qvd) {
            return rounding;
        }
        let scope = rounding.scope.including(model.transformer.timestep_projections());
        Rounding { scope, ..rounding }
    }

    /// What to do after rounding as `rounding` says; `None` for no more than that.
    ///
    /// # Errors
    ///
    /// If flags contradict each other, or a file cannot be used.
    pub(super) fn resolve(
        &self,
        model: &VideoModel,
        rounding: &Rounding,
    ) -> anyhow::Result<Option<PostTraining>> {
        let Some(method) = self.method else {
            if let Some(flag) = self.first_flag() {
                bail!("{flag} needs --method: without one nothing is observed or measured");
            }
            return Ok(None);
        };
        let activations = self.activations.unwrap_or_default();
        let choice = self.choice(method)?;
        if self.rank == Some(0) {
            bail!("--rank: 0 columns are no branch; use 1 or more");
        }
        let wants = method.needs_data()
            || activations != ActivationMode::Dynamic
            || self.prompts.is_some()
            || self.report.is_some()
            || self.calibration_clips.is_some();
        let calibration = match self.calibration_clips {
            Some(0) => None,
            _ if wants => Some(self.calibration(model, method, rounding)?),
            _ => None,
        };
        if calibration.is_none() && activations != ActivationMode::Dynamic {
            bail!(
                "--activations {}: ranges are found by observing; leave --calibration-clips 0 out, \
                 or use dynamic",
                activations.name()
            );
        }
        Ok(Some(PostTraining {
            method,
            choice,
            activations,
            rank: self.rank.unwrap_or(RANK),
            calibration,
            measures: self.report.is_some() || method.needs_data(),
        }))
    }

    fn choice(&self, method: Method) -> anyhow::Result<Choice> {
        let choice = match (self.budget_bits, self.max_error) {
            (None, None) => return Ok(Choice::LeastError),
            (Some(bits), _) if !(bits > 0.0 && bits <= 32.0) => {
                bail!("--budget-bits: {bits} is no number of bits above 0 and up to 32")
            }
            (Some(bits), _) => ("--budget-bits", Choice::BudgetBits(bits)),
            (None, Some(error)) if !(error > 0.0 && error < 1.0) => {
                bail!("--max-error: {error} is no relative error above 0 and below 1")
            }
            (None, Some(error)) => ("--max-error", Choice::MaxError(error)),
        };
        match method {
            Method::Auto => Ok(choice.1),
            other => bail!("{} needs --method auto; {other} has one width for all", choice.0),
        }
    }

    fn calibration(
        &self,
        model: &VideoModel,
        method: Method,
        rounding: &Rounding,
    ) -> anyhow::Result<CalibrationJob> {
        let usual = match self.activations.unwrap_or_default() {
            ActivationMode::Dynamic => CLIPS,
            _ => CLIPS_FOR_RANGES,
        };
        let clips = self.calibration_clips.unwrap_or(usual);
        if clips > MAX_CLIPS {
            bail!("--calibration-clips: {clips} are too many; use up to {MAX_CLIPS}");
        }
        let samples = self.calibration_samples.unwrap_or(method.samples());
        if !(16..=MAX_SAMPLES).contains(&samples) {
            bail!("--calibration-samples: {samples} is no number from 16 to {MAX_SAMPLES}");
        }
        let prompts = match &self.prompts {
            Some(path) => read_prompts(path, clips)?,
            None if knows_the_world(&model.defaults) => {
                balanced_cases(clips)?.into_iter().map(|case| case.prompt).collect()
            }
            None => bail!(
                "--method {method} observes layers while the model samples: give --prompts FILE, or \
                 --calibration-clips 0 to do without"
            ),
        };
        let layers = model.transformer.linears().into_iter().map(|layer| layer.name);
        let job = CalibrationJob {
            prompts,
            sampling: self.sampling(&model.defaults),
            samples,
            max_memory: self.max_memory,
            layers: layers.filter(|name| rounding.layer(name).is_some()).collect(),
            cache: self.calibration_cache.clone().or_else(cache_folder),
        };
        // The flags of a clip that is only observed have names of their own.
        job.sampling
            .check(model)
            .map_err(|err| anyhow!("{}", err.to_string().replacen("--", "--calibration-", 1)))?;
        Ok(job)
    }

    fn sampling(&self, defaults: &SamplingDefaults) -> SampleSettings {
        let (width, height) = self.calibration_size.unwrap_or((defaults.width, defaults.height));
        SampleSettings {
            prompt: String::new(),
            negative_prompt: defaults.negative_prompt.clone(),
            frames: self.calibration_frames.unwrap_or(defaults.frames.min(FRAMES)),
            width,
            height,
            steps: self.calibration_steps.unwrap_or(defaults.steps),
            guidance_scale: defaults.guidance_scale,
            dynamic_guidance: false,
            late_guidance_drop: defaults.late_guidance_drop,
            flow_shift: None,
            scheduler: None,
            seed: 0,
            fps: defaults.fps,
            attention: AttentionPrecision::Exact,
            vae_precision: ConvPrecision::Exact,
            tiling: TilingChoice::Auto,
        }
    }
}
