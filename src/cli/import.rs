//! `qvgen import`.

use super::arguments::{check_shard, parse_bytes};
use super::output;
use super::progress::StageBar;
use super::quantize::print_report;
use crate::pipeline::cancel::Cancel;
use crate::pipeline::import::{ClipGroups, ImportJob, import};
use crate::pipeline::model::VideoModel;
use crate::quant::Precision;
use anyhow::bail;
use serde_json::json;
use std::path::PathBuf;

/// Arguments of `qvgen import`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Transformer trained by the released QVGen code: its folder or its .safetensors file
    checkpoint: PathBuf,
    /// Model folder that it was trained from, for everything else of the model
    #[arg(long, value_name = "MODEL")]
    base: PathBuf,
    /// Precision that it was trained in
    #[arg(long, value_name = "PRECISION", default_value = "w4a4")]
    bits: Precision,
    /// Which of the 50 learned clips of a layer are used: mean (of all), per-step (the one trained
    /// for the timestep), countdown (as `--fix` of the released code), or the number of one
    #[arg(long, value_name = "MODE", default_value = "mean")]
    clip_groups: ClipGroups,
    /// Folder to write
    #[arg(short, long, value_name = "FOLDER")]
    out: PathBuf,
    /// Leave the other components where they are, and remember the place
    #[arg(long)]
    refer: bool,
    /// Replace an earlier output
    #[arg(long)]
    overwrite: bool,
    /// Largest weight file
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = "4GiB")]
    max_shard: u64,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// Writes the packed folder.
pub(super) fn run(args: &Args, quiet: bool, cancel: &Cancel) -> anyhow::Result<()> {
    check_shard(args.max_shard)?;
    let Some(weights) = args.bits.weights else {
        bail!("--bits {}: the checkpoint has quantized weights", args.bits);
    };
    let base = VideoModel::open(&args.base)?;
    let job = ImportJob {
        checkpoint: args.checkpoint.clone(),
        out: args.out.clone(),
        weights,
        activations: args.bits.activations,
        clip_groups: args.clip_groups,
        refer: args.refer,
        overwrite: args.overwrite,
        max_shard_bytes: args.max_shard,
    };
    let mut bar = StageBar::new(quiet || args.json);
    let report = import(&base, &job, cancel, &mut |_, done, total| {
        bar.advance("importing", "layers", done, total);
    })?;
    bar.finish();
    if args.json {
        let out = args.out.display().to_string();
        return output::json(&json!({ "out": out, "report": report }));
    }
    print_report(&report, &args.out);
    Ok(())
}
