//! `qvgen quantize`.

use super::arguments::{DeviceArgs, RoundingArgs, check_shard, parse_bytes};
use super::model_arguments::{FilesArgs, Located};
use super::output;
use super::progress::StageBar;
use crate::method::{Rounding, Scope};
use crate::pipeline::cancel::Cancel;
use crate::pipeline::embedded::EmbeddedName;
use crate::pipeline::model::VideoModel;
use crate::pipeline::quantize::{LayerReport, QuantizeJob, QuantizeReport, quantize};
use crate::quant::{Bits, Precision};
use anyhow::bail;
use serde_json::json;
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
    let job = QuantizeJob {
        out: args.out.clone(),
        transformer,
        text_encoder: text_encoder_rounding(args.text_encoder_bits)?,
        refer: args.refer,
        overwrite: args.overwrite,
        max_shard_bytes: args.max_shard,
    };
    model.check_files()?;
    let device = args.device.open()?;
    let mut bar = StageBar::new(quiet || args.json);
    let report = quantize(&model, &job, &device, cancel, &mut |_, done, total| {
        bar.advance("quantizing", "layers", done, total);
    })?;
    bar.finish();
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

/// Prints what became of each layer.
pub(super) fn print_report(report: &QuantizeReport, out: &std::path::Path) {
    let row = |layer: &LayerReport| {
        vec![
            layer.name.clone(),
            layer.precision.clone(),
            format!("{}x{}", layer.shape[0], layer.shape[1]),
            format!("{:.3}", layer.bits_per_weight),
            output::bytes(layer.bytes_before),
            output::bytes(layer.bytes_after),
            format!("{:.4}", layer.relative_error),
        ]
    };
    let rows: Vec<Vec<String>> = report.layers.iter().map(row).collect();
    let header = ["layer", "precision", "shape", "bits/weight", "before", "after", "error"];
    output::line(&output::table(&header, &rows));
    let mean = report.layers.iter().map(|layer| layer.relative_error).sum::<f64>()
        / report.layers.len().max(1) as f64;
    output::line(&format!(
        "{}: {} layers, {} before and {} after, mean relative error {mean:.4}",
        out.display(),
        report.layers.len(),
        output::bytes(report.bytes_before),
        output::bytes(report.bytes_after),
    ));
}
