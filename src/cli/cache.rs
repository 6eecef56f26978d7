//! `qvgen cache`.

use super::arguments::{DeviceArgs, parse_size};
use super::model_arguments::Located;
use super::output;
use super::progress::StageBar;
use crate::nn::{AttentionPrecision, ConvPrecision};
use crate::pipeline::cancel::Cancel;
use crate::pipeline::defaults::SamplingDefaults;
use crate::pipeline::embedded::EmbeddedName;
use crate::pipeline::model::VideoModel;
use crate::pipeline::scheduler::SchedulerKind;
use crate::pipeline::settings::{SampleSettings, TilingChoice};
use crate::pipeline::video::read::ClipReader;
use crate::train::data::{
    Buckets, CacheDtype, CacheJob, CacheReport, CacheStage, ClipSettings, PromptSettings,
    cache_clips, cache_prompts, list_clips, read_prompts,
};
use anyhow::bail;
use clap::ValueEnum;
use serde_json::json;
use std::path::PathBuf;

/// Reasons printed before the rest is only counted; `--json` has them all.
const SHOWN_REASONS: usize = 20;

/// Arguments of `qvgen cache`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Model folder in the diffusers layout
    model: PathBuf,
    /// Folder of video files and of folders of PNG pictures, with captions in .txt files or
    /// captions.jsonl; or a .jsonl list of {"file": …, "caption": …}
    #[arg(required_unless_present = "prompts", conflicts_with = "prompts")]
    clips: Option<PathBuf>,
    /// Make latents with the model itself, of the prompts in this file, one a line
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Folder of the cache; the same command again adds what is missing
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,
    /// Sizes in pixels, multiples of 16; a clip takes the nearest aspect ratio [default: the
    /// model's]
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = parse_size, value_delimiter = ',')]
    size: Vec<(usize, usize)>,
    /// Numbers of frames, multiples of 4 plus 1; a clip takes the largest it has [default: the
    /// model's]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    frames: Vec<usize>,
    /// How values are stored
    #[arg(long, value_enum, default_value_t = DtypeArg::F32)]
    dtype: DtypeArg,
    #[command(flatten)]
    of_clips: ClipArgs,
    #[command(flatten)]
    of_prompts: PromptArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON document with everything that was left out
    #[arg(long)]
    json: bool,
}

/// What only clips need.
#[derive(Clone, Debug, clap::Args)]
struct ClipArgs {
    /// Take every n-th frame; without it, frames are spread over the whole clip
    #[arg(long, value_name = "N", conflicts_with = "prompts", help_heading = "Clips")]
    stride: Option<usize>,
    /// Stop at a clip that cannot be read or has no caption, instead of leaving it out
    #[arg(long, conflicts_with = "prompts", help_heading = "Clips")]
    strict: bool,
    /// Program for formats other than PNG, GIF and Y4M
    #[arg(long, value_name = "PATH", default_value = "ffmpeg", help_heading = "Clips")]
    ffmpeg: PathBuf,
}

/// What only prompts need.
#[derive(Clone, Debug, clap::Args)]
struct PromptArgs {
    /// Latents per prompt
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Prompts")]
    samples: usize,
    /// What latents should not show
    #[arg(long, value_name = "PROMPT", conflicts_with = "clips", help_heading = "Prompts")]
    negative_prompt: Option<String>,
    /// Denoising steps [default: the model's, 50 of published ones]
    #[arg(long, value_name = "N", conflicts_with = "clips", help_heading = "Prompts")]
    steps: Option<usize>,
    /// Strength of classifier-free guidance
    #[arg(long, value_name = "SCALE", conflicts_with = "clips", help_heading = "Prompts")]
    guidance: Option<f32>,
    /// Shift of the noise levels of Wan [default: the model's]
    #[arg(long, value_name = "SHIFT", conflicts_with = "clips", help_heading = "Prompts")]
    flow_shift: Option<f64>,
    /// unipc or euler for Wan, ddim or dpm for CogVideoX [default: the model's]
    #[arg(long, value_name = "NAME", conflicts_with = "clips", help_heading = "Prompts")]
    scheduler: Option<SchedulerKind>,
    /// Seed of the noise
    #[arg(long, default_value_t = 0, help_heading = "Prompts")]
    seed: u64,
}

/// How values are stored.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum DtypeArg {
    /// Exactly
    F32,
    /// In half the space
    F16,
}

/// Makes or continues the cache.
pub(super) fn run(args: Args, quiet: bool, cancel: &Cancel) -> anyhow::Result<()> {
    let located = Located::new(Some(&args.model), EmbeddedName::Pocket)?;
    let model = VideoModel::open(located.path())?;
    let defaults = &model.defaults;
    // Lists are read before a device is opened: what can fail at once does.
    let clips = args.clips.as_deref().map(list_clips).transpose()?;
    let prompts = args.prompts.as_deref().map(read_prompts).transpose()?;
    let job = CacheJob {
        model: &model,
        device: &args.device.open()?,
        out: args.out.clone(),
        dtype: match args.dtype {
            DtypeArg::F32 => CacheDtype::F32,
            DtypeArg::F16 => CacheDtype::F16,
        },
        cancel: cancel.clone(),
    };
    let mut bar = StageBar::new(quiet || args.json);
    let mut progress = |stage, done, total| {
        let (name, unit) = stage_words(stage);
        bar.advance(name, unit, done, total);
    };
    let outcome = match (&clips, &prompts) {
        (Some(list), _) => {
            let settings = args.clip_settings(defaults);
            cache_clips(&job, list, &settings, &mut progress)
        }
        (None, Some(prompts)) => {
            let settings = args.prompt_settings(defaults)?;
            cache_prompts(&job, prompts, &settings, &mut progress)
        }
        (None, None) => bail!("name clips, or prompts with --prompts"),
    };
    bar.finish();
    if outcome.is_err() && cancel.is_cancelled() {
        bail!("stopped; what was cached stays, and the same command continues");
    }
    let report = outcome?;
    if args.json {
        let out = args.out.display().to_string();
        return output::json(&json!({ "out": out, "report": report }));
    }
    print_report(&report, &args);
    Ok(())
}

impl Args {
    fn clip_settings(&self, defaults: &SamplingDefaults) -> ClipSettings {
        let sizes: Vec<[usize; 2]> = self.size.iter().map(|&(w, h)| [w, h]).collect();
        let or = |given: Vec<[usize; 2]>, other| if given.is_empty() { vec![other] } else { given };
        let frames =
            if self.frames.is_empty() { vec![defaults.frames] } else { self.frames.clone() };
        ClipSettings {
            buckets: Buckets {
                sizes: or(sizes, [defaults.width, defaults.height]),
                frames,
                stride: self.of_clips.stride,
            },
            strict: self.of_clips.strict,
            reader: ClipReader { ffmpeg: self.of_clips.ffmpeg.clone() },
        }
    }

    fn prompt_settings(&self, defaults: &SamplingDefaults) -> anyhow::Result<PromptSettings> {
        if self.size.len() > 1 || self.frames.len() > 1 {
            bail!("--prompts makes latents of one shape; give one --size and one --frames");
        }
        let args = &self.of_prompts;
        let (width, height) =
            self.size.first().copied().unwrap_or((defaults.width, defaults.height));
        let negative = args.negative_prompt.as_ref().unwrap_or(&defaults.negative_prompt);
        let sampling = SampleSettings {
            prompt: String::new(),
            negative_prompt: negative.clone(),
            frames: self.frames.first().copied().unwrap_or(defaults.frames),
            width,
            height,
            steps: args.steps.unwrap_or(defaults.steps),
            guidance_scale: args.guidance.unwrap_or(defaults.guidance_scale),
            dynamic_guidance: false,
            late_guidance_drop: defaults.late_guidance_drop,
            flow_shift: args.flow_shift,
            scheduler: args.scheduler,
            seed: args.seed,
            fps: defaults.fps,
            attention: AttentionPrecision::default(),
            vae_precision: ConvPrecision::default(),
            tiling: TilingChoice::Auto,
        };
        Ok(PromptSettings { sampling, samples: args.samples })
    }
}

fn stage_words(stage: CacheStage) -> (&'static str, &'static str) {
    match stage {
        CacheStage::Text => ("encoding captions", "blocks"),
        CacheStage::Load => ("loading", "blocks"),
        CacheStage::Encode => ("encoding clips", "clips"),
        CacheStage::Sample => ("denoising prompts", "steps"),
    }
}

fn print_report(report: &CacheReport, args: &Args) {
    output::line(&format!(
        "{}: {} clips ({} new, {} as before), {} captions",
        args.out.display(),
        report.clips,
        report.made,
        report.reused,
        report.texts
    ));
    for (shape, count) in &report.shapes {
        output::line(&format!("latents {shape}: {count} clips"));
    }
    if report.skipped.is_empty() {
        return;
    }
    let (skipped, too_short) = (report.skipped.len(), report.too_short);
    output::line(&format!("left out: {skipped} clips, {too_short} of them too short"));
    for skipped in report.skipped.iter().take(SHOWN_REASONS) {
        output::line(&format!("  {}: {}", skipped.clip, skipped.reason));
    }
    if skipped > SHOWN_REASONS {
        output::line(&format!("  and {} more (--json lists all)", skipped - SHOWN_REASONS));
    }
}
