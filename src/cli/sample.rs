//! `qvgen sample`.

use super::arguments::{DeviceArgs, RoundingArgs, parse_bytes, parse_size};
use super::output;
use super::progress::StageBar;
use crate::method::Rounding;
use crate::models::wan_vae::Tiling;
use crate::pipeline::PipelineError;
use crate::pipeline::cancel::Cancel;
use crate::pipeline::checkpoint::ComponentKind;
use crate::pipeline::defaults::SamplingDefaults;
use crate::pipeline::embedded::EmbeddedModel;
use crate::pipeline::model::WanModel;
use crate::pipeline::packed::Arithmetic;
use crate::pipeline::plan::Plan;
use crate::pipeline::sample::{Report, Sampler, Stage};
use crate::pipeline::scheduler::SchedulerKind;
use crate::pipeline::settings::{SampleSettings, TilingChoice};
use crate::pipeline::video::{self, VideoFormat};
use crate::quant::Precision;
use anyhow::{Context, bail};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments of `qvgen sample`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Model folder in the diffusers layout, full precision or packed; without it, the small
    /// default model inside the program
    model: Option<PathBuf>,
    /// What the video shows
    #[arg(long)]
    prompt: Option<String>,
    /// What it should not show
    #[arg(long, value_name = "PROMPT")]
    negative_prompt: Option<String>,
    /// Video to write: .mp4, .gif, .apng, .y4m, or a folder for PNG files
    #[arg(short, long, value_name = "PATH", default_value = "clip.mp4")]
    out: PathBuf,
    /// Frames, a multiple of 4 plus 1 [default: 81, or what the model suggests]
    #[arg(long, value_name = "N")]
    frames: Option<usize>,
    /// Pixels, multiples of 16 [default: 832x480, or what the model suggests]
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = parse_size)]
    size: Option<(usize, usize)>,
    /// Denoising steps [default: 50, or what the model suggests]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Strength of classifier-free guidance; 1 turns it off and halves the time
    #[arg(long, allow_negative_numbers = true, value_name = "SCALE")]
    guidance: Option<f32>,
    /// Shift of the noise levels; about 3 for 480p and 5 for 720p [default: the model's]
    #[arg(long, allow_negative_numbers = true, value_name = "SHIFT")]
    flow_shift: Option<f64>,
    /// unipc or euler [default: the model's]
    #[arg(long, value_name = "NAME")]
    scheduler: Option<SchedulerKind>,
    /// Seed of the noise: the same seed on the same device gives the same file
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Frames per second of the video [default: 16, or what the model suggests]
    #[arg(long, value_name = "N")]
    fps: Option<f64>,
    /// Quantize the transformer while loading: full, or w<2|3|4|8>a<3|4|8|16>, such as w4a4
    #[arg(long, value_name = "PRECISION", help_heading = "Quantization")]
    bits: Option<Precision>,
    #[command(flatten)]
    rounding: RoundingArgs,
    /// Multiply the quantized values as floats: slower, to compare with the packed kernels
    #[arg(long, help_heading = "Quantization")]
    fake_quant: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// Refuse to start above this much memory, such as 8GiB [default: what the system has, where
    /// it tells]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, help_heading = "Device")]
    memory_limit: Option<u64>,
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
    let embedded = match args.model {
        Some(_) => None,
        None => Some(EmbeddedModel::unpack()?),
    };
    let folder = match (&args.model, &embedded) {
        (Some(path), _) => path.as_path(),
        (None, Some(model)) => model.path(),
        (None, None) => bail!("no model"),
    };
    let model = WanModel::open(folder)?;
    let defaults = SamplingDefaults::of(folder)?;
    let settings = args.settings(&model, &defaults)?;
    settings.check(&model)?;
    let rounding = args.rounding(&model, &defaults)?;
    model.check_files()?;
    let device = args.device.open()?;
    let rounding = rounding.as_ref().map(|(rounding, arithmetic)| (rounding, *arithmetic));
    let weights = model.weights(ComponentKind::Transformer, rounding, device.max_elements())?;
    let plan = Plan::new(&model, &settings, &weights, &device, args.memory_limit);
    if args.dry_run && !args.json {
        print_plan(&plan, &settings, embedded.is_some(), &output::line);
    } else if !quiet && !args.json {
        print_plan(&plan, &settings, embedded.is_some(), &output::note);
    }
    plan.check(args.memory_limit)?;
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
        "model": model_name(&args, embedded.is_some()),
        "precision": plan.precision,
        "device": plan.device,
        "vae_tile": plan.vae_tile,
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
    print_report(&sampled.report, &settings, &args.out);
    Ok(())
}

fn model_name(args: &Args, is_embedded: bool) -> String {
    if is_embedded {
        return "embedded default".to_owned();
    }
    let path = args.model.as_deref().unwrap_or(Path::new(""));
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    // The name alone: where a person keeps models is nobody's business.
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

impl Args {
    fn settings(
        &self,
        model: &WanModel,
        defaults: &SamplingDefaults,
    ) -> anyhow::Result<SampleSettings> {
        let prompt = self.prompt.clone().or_else(|| defaults.prompt.clone());
        let (width, height) = self.size.unwrap_or((defaults.width, defaults.height));
        Ok(SampleSettings {
            prompt: prompt.context("--prompt is missing: say what the video should show")?,
            negative_prompt: self
                .negative_prompt
                .clone()
                .unwrap_or_else(|| defaults.negative_prompt.clone()),
            frames: self.frames.unwrap_or(defaults.frames),
            width,
            height,
            steps: self.steps.unwrap_or(defaults.steps),
            guidance_scale: self.guidance.unwrap_or(defaults.guidance_scale),
            flow_shift: self.flow_shift,
            scheduler: self.scheduler,
            seed: self.seed,
            fps: self.fps.unwrap_or(defaults.fps),
            tiling: self.tiling(model)?,
        })
    }

    fn tiling(&self, model: &WanModel) -> anyhow::Result<TilingChoice> {
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
                let tiling = Tiling::new(&model.vae, [size; 2], [stride; 2]);
                Ok(TilingChoice::Tiles(tiling.context("--vae-tile")?))
            }
        }
    }

    /// What to quantize while loading; `None` to take the files as they are.
    fn rounding(
        &self,
        model: &WanModel,
        defaults: &SamplingDefaults,
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
        let suggested = defaults.bits.as_deref().map(str::parse).transpose();
        let suggested = suggested.context("\"bits\" in the model's sampling.json")?;
        let precision = self.bits.or(suggested).unwrap_or(Precision::FULL);
        let names: Vec<String> =
            model.transformer.linears().into_iter().map(|layer| layer.name).collect();
        let rounding = self.rounding.rounding(precision, &names)?;
        if let (None, Some(flag)) = (&rounding, refining) {
            bail!("{flag} needs --bits: nothing is quantized without");
        }
        let arithmetic = if self.fake_quant { Arithmetic::FakeQuant } else { Arithmetic::Packed };
        Ok(rounding.map(|rounding| (rounding, arithmetic)))
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
    let origin =
        if is_embedded { " (embedded default: random weights, an abstract picture)" } else { "" };
    let tile = plan.vae_tile.map_or_else(String::new, |[h, w]| format!(", in tiles of {w}x{h}"));
    print(&format!("model    {}{origin}, transformer {}", plan.model, plan.precision));
    print(&format!("device   {}", plan.device));
    print(&format!(
        "video    {} frames of {}x{}, latent {frames}x{height}x{width}, {} tokens",
        settings.frames, settings.width, settings.height, plan.tokens
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
}

fn print_report(report: &Report, settings: &SampleSettings, out: &Path) {
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
        settings.frames,
        settings.width,
        settings.height
    ));
    output::line(&format!("time    {}", seconds.join(", ")));
    output::line(&format!(
        "speed   {:.3} s/step, {:.4} tera-operations per second",
        report.seconds_per_step, report.denoise_tops
    ));
    let device = memory("device", report.peak_device_bytes);
    let host = memory("host", report.peak_host_bytes);
    let memory = format!("{device}{host}");
    output::line(&format!("memory  {} at the peak", memory.trim_start_matches(", ")));
}
