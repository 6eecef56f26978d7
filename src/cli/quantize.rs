//! `qvgen quantize`.

use super::arguments::{DeviceArgs, RoundingArgs, check_shard, parse_bytes};
use super::model_arguments::{FilesArgs, Located};
use super::output;
use super::post_training::PostTrainingArgs;
use super::progress::StageBar;
use crate::bench::html::quantization_page;
use crate::method::{Rounding, Scope};
use crate::pipeline::atomic::{AtomicFile, OutputError};
use crate::pipeline::cancel::Cancel;
use crate::pipeline::embedded::EmbeddedName;
use crate::pipeline::model::VideoModel;
use crate::pipeline::quantize::{LayerReport, QuantizeJob, QuantizeReport, Stage, quantize};
use crate::quant::{Bits, Precision};
use anyhow::bail;
use serde_json::json;
use std::io::Write as _;
use std::path::PathBuf;

/// Arguments of `qvgen quantize`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Full-precision model folder in the diffusers layout
    model: PathBuf,
    #[command(flatten)]
    files: FilesArgs,
    /// Precision of the transformer: w<2|3|4|6|8>a<3|4|6|8|16>, such as w4a4
    #[arg(long, value_name = "PRECISION", default_value = "w4a4", help_heading = "Quantization")]
    bits: Precision,
    #[command(flatten)]
    rounding: RoundingArgs,
    #[command(flatten)]
    post_training: PostTrainingArgs,
    /// Precision of the text encoder: full, or weight-only such as w8a16
    #[arg(long, value_name = "PRECISION", default_value = "full", help_heading = "Quantization")]
    text_encoder_bits: Precision,
    /// Folder to write
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,
    /// Leave the components that are not quantized where they are, and remember the place
    #[arg(long)]
    refer: bool,
    /// Replace an earlier output of this command
    #[arg(long)]
    overwrite: bool,
    /// Largest weight file
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = "4GiB")]
    max_shard: u64,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// Quantizes the folder.
pub(super) fn run(args: Args, quiet: bool, cancel: &Cancel) -> anyhow::Result<()> {
    let located = Located::new(Some(&args.model), EmbeddedName::Pocket)?;
    let model = VideoModel::open_with(located.path(), &args.files.files())?;
    let transformer = args.rounding.rounding(args.bits, &*model.transformer)?;
    check_shard(args.max_shard)?;
    let Some(transformer) = transformer else {
        bail!("--bits {}: nothing would be quantized", args.bits);
    };
    let transformer = args.post_training.scoped(transformer, &model);
    let post_training = args.post_training.resolve(&model, &transformer)?;
    let page = args.post_training.report.as_deref().map(AtomicFile::create).transpose()?;
    let job = QuantizeJob {
        out: args.out.clone(),
        post_training,
        transformer,
        text_encoder: text_encoder_rounding(args.text_encoder_bits)?,
        refer: args.refer,
        overwrite: args.overwrite,
        max_shard_bytes: args.max_shard,
    };
    model.check_files()?;
    let device = args.device.open()?;
    let mut bar = StageBar::new(quiet || args.json);
    let report = quantize(&model, &job, &device, cancel, &mut |stage, done, total| {
        let (name, unit) = stage_words(stage);
        bar.advance(name, unit, done, total);
    })?;
    bar.finish();
    if let Some(page) = page {
        write_page(page, &located.name(), &report)?;
    }
    if args.json {
        let out = args.out.display().to_string();
        return output::json(&json!({ "out": out, "report": report }));
    }
    print_report(&report, &args.out);
    Ok(())
}

/// Weight-only, per channel: the activations of these encoders overflow 16 bits and stay as they
/// are. The options under "Quantization" are for the transformer.
fn text_encoder_rounding(precision: Precision) -> anyhow::Result<Option<Rounding>> {
    match precision {
        Precision { weights: None, .. } => Ok(None),
        Precision { weights: Some(Bits::B8 | Bits::B6 | Bits::B4), activations: None } => {
            Ok(Some(Rounding::new(Scope::every_layer(precision))))
        }
        _ => bail!("--text-encoder-bits {precision}: use full, w8a16, w6a16 or w4a16"),
    }
}

/// Writes the page of `--report`.
fn write_page(mut file: AtomicFile, model: &str, report: &QuantizeReport) -> anyhow::Result<()> {
    let text = quantization_page(model, report)?;
    let target = file.target().to_owned();
    file.write_all(text.as_bytes()).map_err(OutputError::io("write", &target))?;
    Ok(file.commit()?)
}

fn stage_words(stage: Stage) -> (&'static str, &'static str) {
    match stage {
        Stage::Observing => ("observing layers", "steps"),
        Stage::Disturbing => ("disturbing layers", "layers"),
        Stage::Measuring => ("measuring methods", "layers"),
        Stage::Quantizing => ("quantizing", "layers"),
    }
}

/// Prints what became of each layer.
pub(super) fn print_report(report: &QuantizeReport, out: &std::path::Path) {
    let is_measured = report.mean_output_error().is_some();
    let row = |layer: &LayerReport| {
        let mut row = vec![
            layer.name.clone(),
            layer.precision.clone(),
            format!("{}x{}", layer.shape[0], layer.shape[1]),
            format!("{:.3}", layer.bits_per_weight),
            output::bytes(layer.bytes_before),
            output::bytes(layer.bytes_after),
            format!("{:.4}", layer.relative_error),
        ];
        if is_measured {
            row.extend(measures(layer));
        }
        row
    };
    let rows: Vec<Vec<String>> = report.layers.iter().map(row).collect();
    let mut header = vec!["layer", "precision", "shape", "bits/weight", "before", "after", "error"];
    if is_measured {
        header.extend(["method", "output error", "SNR dB", "coverage", "outliers"]);
    }
    output::line(&output::table(&header, &rows));
    for layer in &report.left_alone {
        output::line(&format!("{} stays in full precision: {}", layer.name, layer.reason));
    }
    if let Some(method) = report.method {
        output::line(&format!("{method}: {}", report.data()));
    }
    let mean = report.layers.iter().map(|layer| layer.relative_error).sum::<f64>()
        / report.layers.len().max(1) as f64;
    let of_outputs = report
        .mean_output_error()
        .map_or_else(String::new, |error| format!(", mean error of outputs {error:.4}"));
    output::line(&format!(
        "{}: {} layers, {} before and {} after, {:.3} bits per weight, mean relative error \
         {mean:.4}{of_outputs}",
        out.display(),
        report.layers.len(),
        output::bytes(report.bytes_before),
        output::bytes(report.bytes_after),
        report.mean_bits(),
    ));
}

/// Cells about a layer's output and input.
fn measures(layer: &LayerReport) -> [String; 5] {
    let method = layer.method.map_or_else(String::new, |method| method.to_string());
    let Some(measures) = &layer.measures else {
        return [method, String::new(), String::new(), String::new(), String::new()];
    };
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(String::new, |value| format!("{value:.digits$}"))
    };
    [
        method,
        format!("{:.4}", measures.output_error),
        number(measures.output_snr_db, 1),
        number(measures.coverage, 3),
        measures.outlier_channels.map_or_else(String::new, |count| count.to_string()),
    ]
}
