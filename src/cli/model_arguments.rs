//! Arguments about a model and its runs that `sample` and `eval` share.

use super::arguments::{RoundingArgs, parse_size};
use crate::method::Rounding;
use crate::nn::{AttentionPrecision, ConvPrecision};
use crate::pipeline::ModelFiles;
use crate::pipeline::checkpoint::{ComponentKind, LoraFile};
use crate::pipeline::defaults::SamplingDefaults;
use crate::pipeline::embedded::{EmbeddedModel, EmbeddedName};
use crate::pipeline::model::VideoModel;
use crate::pipeline::packed::Arithmetic;
use crate::pipeline::scheduler::SchedulerKind;
use crate::pipeline::settings::{SampleSettings, TilingChoice};
use crate::quant::Precision;
use anyhow::{Context, bail};
use clap::ValueEnum;
use std::path::{Path, PathBuf};

/// A model folder: the user's, or that of an embedded model, which lives as long as this.
#[derive(Debug)]
pub(super) enum Located {
    Folder(PathBuf),
    Embedded(EmbeddedModel),
}

impl Located {
    /// The folder that was given, or the embedded model of that name; without either, `default`.
    ///
    /// # Errors
    ///
    /// If the temporary folder cannot be written.
    pub(super) fn new(folder: Option<&Path>, default: EmbeddedName) -> anyhow::Result<Self> {
        let embedded = match folder {
            Some(path) => EmbeddedName::of(path),
            None => Some(default),
        };
        Ok(match (embedded, folder) {
            (None, Some(path)) => Self::Folder(path.to_owned()),
            (name, _) => Self::Embedded(EmbeddedModel::unpack(name.unwrap_or(default))?),
        })
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Folder(path) => path,
            Self::Embedded(model) => model.path(),
        }
    }

    pub(super) fn is_embedded(&self) -> bool {
        matches!(self, Self::Embedded(_))
    }

    /// What results call it.
    pub(super) fn name(&self) -> String {
        match self {
            // The name alone: where a person keeps models is nobody's business.
            Self::Embedded(model) => file_name(model.path()),
            Self::Folder(path) => file_name(&path.canonicalize().unwrap_or_else(|_| path.clone())),
        }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Files that stand for parts of the model.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct FilesArgs {
    /// Weights of the transformer from another file: .safetensors, its index, or .gguf, in the
    /// layout of diffusers, of Wan's own repository or of Comfy
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    transformer: Option<PathBuf>,
    /// Weights of the text encoder from another file: .gguf of llama.cpp, .safetensors or an index
    #[arg(long, value_name = "FILE", help_heading = "Model")]
    text_encoder: Option<PathBuf>,
    /// LoRA to add to the full-precision transformer, before it is quantized; repeatable
    #[arg(long = "lora", value_name = "FILE[=STRENGTH]", help_heading = "Model")]
    loras: Vec<LoraFile>,
}

impl FilesArgs {
    /// Whether the transformer must be in full precision, or is another one.
    pub(super) fn changes_transformer(&self) -> bool {
        self.transformer.is_some() || !self.loras.is_empty()
    }

    pub(super) fn files(&self) -> ModelFiles {
        ModelFiles {
            transformer: self.transformer.clone(),
            text_encoder: self.text_encoder.clone(),
            loras: self.loras.clone(),
        }
    }

    /// What results call `model` with what is added to it.
    pub(super) fn named(&self, model: &str) -> String {
        let with = |lora: &LoraFile| format!(" with {lora}");
        self.loras.iter().map(with).fold(model.to_owned(), |name, with| name + &with)
    }

    /// What a video remembers of them: names of files, not where they are kept.
    pub(super) fn record(&self) -> serde_json::Value {
        let name = |path: &Option<PathBuf>| path.as_deref().map(file_name);
        let loras: Vec<String> = self.loras.iter().map(ToString::to_string).collect();
        serde_json::json!({
            "transformer": name(&self.transformer),
            "text_encoder": name(&self.text_encoder),
            "loras": loras,
        })
    }
}

/// In which precision the transformer is loaded.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PrecisionArgs {
    /// Quantize the transformer while loading: full, or w<2|3|4|6|8>a<3|4|6|8|16>, such as w4a4
    #[arg(long, value_name = "PRECISION", help_heading = "Quantization")]
    bits: Option<Precision>,
    #[command(flatten)]
    rounding: RoundingArgs,
    /// Multiply the quantized values as floats: slower, to compare with the packed kernels
    #[arg(long, help_heading = "Quantization")]
    fake_quant: bool,
}

impl PrecisionArgs {
    /// Whether the model is to be quantized in some way: then it must be in full precision.
    pub(super) fn is_given(&self) -> bool {
        self.bits.is_some() || self.fake_quant || self.rounding.first_flag().is_some()
    }

    /// What to quantize while loading; `None` to take the files as they are.
    ///
    /// # Errors
    ///
    /// If the files are quantized already, or flags contradict each other.
    pub(super) fn rounding(
        &self,
        model: &VideoModel,
    ) -> anyhow::Result<Option<(Rounding, Arithmetic)>> {
        let is_packed = model.weights(ComponentKind::Transformer, None, usize::MAX)?.is_packed();
        let refining = self.rounding.first_flag().or(self.fake_quant.then_some("--fake-quant"));
        let flag = self.bits.map(|_| "--bits").or(refining);
        if let (true, Some(flag)) = (is_packed, flag) {
            bail!(
                "{flag}: the model is already quantized; leave it out, or use the full-precision \
                 model"
            );
        }
        if is_packed {
            return Ok(None);
        }
        let suggested = model.defaults.bits.as_deref().map(str::parse).transpose();
        let suggested = suggested.context("\"bits\" in the model's sampling.json")?;
        let precision = self.bits.or(suggested).unwrap_or(Precision::FULL);
        let rounding = self.rounding.rounding(precision, &*model.transformer)?;
        if let (None, Some(flag)) = (&rounding, refining) {
            bail!("{flag} needs --bits: nothing is quantized without");
        }
        let arithmetic = if self.fake_quant { Arithmetic::FakeQuant } else { Arithmetic::Packed };
        Ok(rounding.map(|rounding| (rounding, arithmetic)))
    }
}

/// How clips are sampled.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct SamplingArgs {
    /// What a video should not show
    #[arg(long, value_name = "PROMPT")]
    negative_prompt: Option<String>,
    /// Frames, a multiple of 4 plus 1 [default: the model's]
    #[arg(long, value_name = "N")]
    frames: Option<usize>,
    /// Pixels, multiples of 16 [default: the model's]
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = parse_size)]
    size: Option<(usize, usize)>,
    /// Denoising steps [default: the model's, 50 of published ones]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Strength of classifier-free guidance; 1 turns it off and halves the time
    #[arg(long, allow_negative_numbers = true, value_name = "SCALE")]
    guidance: Option<f32>,
    /// Change the strength of guidance from step to step, as CogVideoX's pipeline can do
    #[arg(long)]
    dynamic_guidance: bool,
    /// Share of the last steps that are not guided: faster, and at few bits it can keep more
    /// detail; 0.18 is 9 of 50 steps [default: 0, or what the model suggests]
    #[arg(long, allow_negative_numbers = true, value_name = "SHARE")]
    late_guidance_drop: Option<f64>,
    /// Shift of the noise levels of Wan; about 3 for 480p and 5 for 720p [default: the model's]
    #[arg(long, allow_negative_numbers = true, value_name = "SHIFT")]
    flow_shift: Option<f64>,
    /// unipc or euler for Wan, ddim or dpm for CogVideoX [default: the model's]
    #[arg(long, value_name = "NAME")]
    scheduler: Option<SchedulerKind>,
    /// How precisely attention is computed
    #[arg(long, value_enum, value_name = "PRECISION", default_value = "exact")]
    attention: AttentionArg,
    /// How precisely the VAE's convolutions are computed
    #[arg(long, value_enum, value_name = "PRECISION", default_value = "exact")]
    vae_precision: VaeArg,
}

/// Precisions of the VAE.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum VaeArg {
    /// 32-bit floats
    Exact,
    /// 16-bit floats with 32-bit sums: on matrix units where there are any
    F16,
}

/// Precisions of attention.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum AttentionArg {
    /// 32-bit floats
    Exact,
    /// 16-bit floats with 32-bit sums: on matrix units where there are any
    F16,
    /// 8-bit queries and keys: about 1 % of error, faster where integers are
    Int8,
}

impl SamplingArgs {
    /// The settings of a run, with what the model suggests for what was left out.
    pub(super) fn settings(
        &self,
        defaults: &SamplingDefaults,
        prompt: String,
        seed: u64,
    ) -> SampleSettings {
        let (width, height) = self.size.unwrap_or((defaults.width, defaults.height));
        let negative_prompt = self.negative_prompt.as_ref().unwrap_or(&defaults.negative_prompt);
        SampleSettings {
            prompt,
            negative_prompt: negative_prompt.clone(),
            frames: self.frames.unwrap_or(defaults.frames),
            width,
            height,
            steps: self.steps.unwrap_or(defaults.steps),
            guidance_scale: self.guidance.unwrap_or(defaults.guidance_scale),
            dynamic_guidance: self.dynamic_guidance,
            late_guidance_drop: self.late_guidance_drop.unwrap_or(defaults.late_guidance_drop),
            flow_shift: self.flow_shift,
            scheduler: self.scheduler,
            seed,
            fps: defaults.fps,
            attention: match self.attention {
                AttentionArg::Exact => AttentionPrecision::Exact,
                AttentionArg::F16 => AttentionPrecision::F16,
                AttentionArg::Int8 => AttentionPrecision::Int8,
            },
            vae_precision: match self.vae_precision {
                VaeArg::Exact => ConvPrecision::Exact,
                VaeArg::F16 => ConvPrecision::F16,
            },
            tiling: TilingChoice::Auto,
        }
    }
}
