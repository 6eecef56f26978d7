//! `qvgen sample`.

use super::arguments::{DeviceArgs, parse_bytes};
use super::model_arguments::{FilesArgs, Located, PrecisionArgs, SamplingArgs};
use super::output;
use super::progress::StageBar;
use crate::models::Tiling;
use crate::pipeline::PipelineError;
use crate::pipeline::cancel::Cancel;
use crate::pipeline::checkpoint::ComponentKind;
use crate::pipeline::embedded::EmbeddedName;
use crate::pipeline::model::VideoModel;
use crate::pipeline::plan::Plan;
use crate::pipeline::sample::{Report, Sampler, Stage};
use crate::pipeline::settings::{SampleSettings, TilingChoice};
use crate::pipeline::video::{self, VideoFormat};
use anyhow::{Context, bail};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments of `qvgen sample`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Model folder in the diffusers layout, full precision or packed, or a model inside the
    /// program: `pocket`, `pocket-w4a4`, `pocket-w3a3` [default: pocket-w4a4; pocket, if it is to be
    /// quantized now]
    model: Option<PathBuf>,
    /// What the video shows
    #[arg(long)]
    prompt: Option<String>,
    /// Video to write: .mp4, .gif, .apng, .y4m, or a folder for PNG files
    #[arg(short, long, value_name = "PATH", default_value = "clip.mp4")]
    out: PathBuf,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Seed of the noise: the same seed on the same device gives the same file
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Frames per second of the video [default: 16, or what the model suggests]
    #[arg(long, value_name = "N")]
    fps: Option<f64>,
    #[command(flatten)]
    files: FilesArgs,
    #[command(flatten)]
    precision: PrecisionArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Most device memory to plan with, such as 8GiB: what does not fit of the transformer waits in
    /// host memory and is sent block by block [default: no limit, since graphics cards do not tell]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, help_heading = "Device")]
    max_memory: Option<u64>,
    /// Pixels of a VAE tile: auto (only if needed), off, or a size such as 256
    #[arg(long, value_name = "PIXELS", default_value = "auto", help_heading = "Device")]
    vae_tile: String,
    /// Print the plan and stop
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document with settings, plan and timings
    #[arg(long)]
    json: bool,
    /// Accept a video that shows nothing
    #[arg(long)]
    allow_degenerate: bool,
}

/// Makes the video.
pub(super) fn run(args: Args, quiet: bool, cancel: &Cancel) -> anyhow::Result<()> {
    VideoFormat::from_path(&args.out)?;
    let needs_full = args.precision.is_given() || args.files.changes_transformer();
    let default = if needs_full { EmbeddedName::Pocket } else { EmbeddedName::PocketW4A4 };
    let located = Located::new(args.model.as_deref(), default)?;
    let folder = located.path();
    let model = VideoModel::open_with(folder, &args.files.files())?;
    let settings = args.settings(&model)?;
    settings.check(&model)?;
    let rounding = args.precision.rounding(&model)?;
    model.check_files()?;
    let device = args.device.open()?;
    let rounding = rounding.as_ref().map(|(rounding, arithmetic)| (rounding, *arithmetic));
    let weights = model.weights(ComponentKind::Transformer, rounding, device.max_elements())?;
    let plan = Plan::new(&model, &settings, &weights, &device, args.max_memory);
    if args.dry_run && !args.json {
        print_plan(&plan, &settings, located.is_embedded(), &output::line);
    } else if !quiet && !args.json {
        print_plan(&plan, &settings, located.is_embedded(), &output::note);
    }
    plan.check(args.max_memory)?;
    if !args.dry_run {
        video::check_target(&args.out, settings.width, settings.height, settings.fps)?;
    }
    if args.dry_run {
        return if args.json {
            output::json(&json!({ "settings": settings, "plan": plan }))
        } else {
            Ok(())
        };
    }
    let sampler = Sampler { model: &model, device: &device, cancel: cancel.clone() };
    let mut bar = StageBar::new(quiet || args.json);
    let sampled = sampler.run(&settings, &plan, &weights, &mut |stage, done, total| {
        let (name, unit) = stage_words(stage);
        bar.advance(name, unit, done, total);
    })?;
    bar.finish();
    if !args.allow_degenerate {
        sampled.frames.require_content()?;
    }
    let metadata = json!({
        "generator": concat!("qvgen ", env!("CARGO_PKG_VERSION")),
        "model": located.name(),
        "precision": plan.precision,
        "device": plan.device,
        "vae_tile": plan.vae_tile,
        "files": args.files.record(),
        "settings": settings,
    });
    cancel.check().map_err(PipelineError::from)?;
    video::write(&sampled.frames, &args.out, &metadata)?;
    if args.json {
        let (out, report) = (args.out.display().to_string(), &sampled.report);
        return output::json(
            &json!({ "out": out, "settings": settings, "plan": plan, "report": report }),
        );
    }
    print_report(&sampled.report, &plan, &settings, &args.out);
    Ok(())
}

impl Args {
    fn settings(&self, model: &VideoModel) -> anyhow::Result<SampleSettings> {
        let defaults = &model.defaults;
        let prompt = self.prompt.clone().or_else(|| defaults.prompt.clone());
        let prompt = prompt.context("--prompt is missing: say what the video should show")?;
        Ok(SampleSettings {
            fps: self.fps.unwrap_or(defaults.fps),
            tiling: self.tiling(model)?,
            ..self.sampling.settings(defaults, prompt, self.seed)
        })
    }

    fn tiling(&self, model: &VideoModel) -> anyhow::Result<TilingChoice> {
        match self.vae_tile.as_str() {
            "auto" => Ok(TilingChoice::Auto),
            "off" => Ok(TilingChoice::Off),
            text => {
                let size: usize = text
                    .parse()
                    .ok()
                    .context("--vae-tile: expected auto, off or a number of pixels")?;
                // Neighbors share a quarter, as the published default of 256 and 192 does.
                let factor = model.vae.spatial_factor();
                if !size.is_multiple_of(factor) || size < 4 * factor {
                    bail!("--vae-tile: {size} is no multiple of {factor} from {} up", 4 * factor);
                }
                let stride = (size - size / 4) / factor * factor;
                let tiling = Tiling::new(&*model.vae, [size; 2], [stride; 2]);
                Ok(TilingChoice::Tiles(tiling.context("--vae-tile")?))
            }
        }
    }
}

fn stage_words(stage: Stage) -> (&'static str, &'static str) {
    match stage {
        Stage::Text => ("encoding the prompt", "blocks"),
        Stage::Load => ("loading", "blocks"),
        Stage::Denoise => ("denoising", "steps"),
        Stage::Decode => ("decoding", "latent frames"),
    }
}

fn print_plan(plan: &Plan, settings: &SampleSettings, is_embedded: bool, print: &dyn Fn(&str)) {
    let [_, frames, height, width] = plan.latent_shape;
    let origin = if is_embedded { " (inside this program)" } else { "" };
    let tile = plan.vae_tile.map_or_else(String::new, |[h, w]| format!(", in tiles of {w}x{h}"));
    print(&format!("model    {}{origin}, transformer {}", plan.model, plan.precision));
    print(&format!("device   {}", plan.device));
    print(&format!(
        "video    {} frames of {}x{}, latent {frames}x{height}x{width}, {} tokens",
        plan.frames, settings.width, settings.height, plan.tokens
    ));
    print(&format!(
        "work     {} steps, {} forward passes, {:.3} tera-operations",
        settings.steps,
        plan.forwards,
        plan.denoise_ops / 1e12
    ));
    let bytes = output::bytes;
    print(&format!(
        "memory   about {} at the peak: transformer {} weights and {} activations, text encoder {}, \
         VAE {}{tile}",
        bytes(plan.peak_bytes),
        bytes(plan.weight_bytes),
        bytes(plan.activation_bytes),
        bytes(plan.text_bytes),
        bytes(plan.vae_bytes)
    ));
    if plan.resident_blocks < plan.blocks {
        print(&format!(
            "         {} of {} transformer blocks stay on the device, {} of the others wait in host \
             memory",
            plan.resident_blocks,
            plan.blocks,
            bytes(plan.streamed_bytes)
        ));
    }
}

fn print_report(report: &Report, plan: &Plan, settings: &SampleSettings, out: &Path) {
    let seconds: Vec<String> = report
        .seconds
        .iter()
        .map(|(stage, seconds)| format!("{} {seconds:.2} s", stage_words(*stage).0))
        .collect();
    let memory = |what: &str, bytes: Option<u64>| {
        bytes.map_or_else(String::new, |bytes| format!(", {what} {}", output::bytes(bytes)))
    };
    output::line(&format!(
        "{}: {} frames of {}x{}",
        out.display(),
        plan.frames,
        settings.width,
        settings.height
    ));
    output::line(&format!("time    {}", seconds.join(", ")));
    output::line(&format!(
        "speed   {:.3} s/step, {:.4} tera-operations per second",
        report.seconds_per_step, report.denoise_tops
    ));
    let reserved = report.reserved_device_bytes.map(output::bytes);
    let reserved = reserved.map_or_else(String::new, |bytes| format!(" ({bytes} reserved)"));
    let device = memory("device", report.peak_device_bytes) + &reserved;
    let host = memory("host", report.peak_host_bytes);
    let memory = format!("{device}{host}");
    output::line(&format!("memory  {} at the peak", memory.trim_start_matches(", ")));
}
