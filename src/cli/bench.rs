//! `qvgen bench`.

use super::arguments::parse_size;
use super::output;
use crate::bench::{
    self, DeviceReport, Event, Model, Outcome, Repeats, Report, Selection as Work, Suite, Table,
    TimeSource,
};
use crate::kernels::device::{self, BACKENDS, OpenDevice, Selection};
use crate::pipeline::atomic::AtomicFile;
use crate::pipeline::cancel::Cancel;
use crate::quant::{Bits, Precision};
use anyhow::{Context, bail};
use clap::builder::PossibleValuesParser;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Arguments of `qvgen bench`.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_precedence_over_arg = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// What to time; `qvgen bench list` says what there is [default: everything]
    #[arg(value_name = "SUITE", value_parser = parse_suite)]
    suites: Vec<Suite>,
    /// A few seconds: small shapes, one width
    #[arg(long)]
    quick: bool,
    /// Adapter: `auto`, `cpu`, `all`, an index or part of a name from `qvgen devices`
    #[arg(long, default_value = "auto", help_heading = "Device")]
    device: String,
    /// Graphics interfaces; with several, the best adapter of each
    #[arg(long, value_parser = BACKENDS, value_delimiter = ',', help_heading = "Device")]
    backend: Vec<String>,
    /// Widths of products and quantizers
    #[arg(long, value_delimiter = ',', value_parser = parse_bits, help_heading = "Work")]
    bits: Vec<Bits>,
    /// Tokens of products, quantizers and attention; the last also of the block
    #[arg(long, value_delimiter = ',', value_parser = parse_tokens, help_heading = "Work")]
    tokens: Vec<usize>,
    /// Precisions of block and step, such as full,w8a8,w4a4
    #[arg(long, value_delimiter = ',', help_heading = "Work")]
    precisions: Vec<Precision>,
    /// Whose shapes [default: by device]
    #[arg(long, value_parser = model_names(), help_heading = "Work")]
    model: Option<String>,
    /// Size of a step's video
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = parse_size, help_heading = "Work")]
    size: Option<(usize, usize)>,
    /// Frames of a step's video
    #[arg(long, value_name = "N", help_heading = "Work")]
    frames: Option<usize>,
    /// Most time for the samples of one entry
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    seconds: Option<f64>,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report as one web page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Command {
    /// Say what can be timed
    List,
    /// Compare devices by the fractions of their own limits
    Compare {
        /// Files that `--json` wrote
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

fn parse_suite(text: &str) -> Result<Suite, String> {
    let names: Vec<&str> = Suite::ALL.iter().map(|suite| suite.name()).collect();
    Suite::of(text).ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

fn parse_bits(text: &str) -> Result<Bits, String> {
    let bits = text.parse().ok().and_then(Bits::from_u32);
    bits.ok_or_else(|| "expected 2, 3, 4, 6 or 8".to_owned())
}

fn parse_tokens(text: &str) -> Result<usize, String> {
    let tokens = text.parse().ok().filter(|tokens| (1..=1 << 20).contains(tokens));
    tokens.ok_or_else(|| "expected a number from 1 to 1048576".to_owned())
}

fn model_names() -> PossibleValuesParser {
    Model::all().into_iter().map(|model| model.name).collect::<Vec<_>>().into()
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "expected seconds, at most 3600".to_owned())
}

/// Lists, compares, or measures.
pub(super) fn run(args: &Args, quiet: bool, cancel: &Cancel) -> anyhow::Result<()> {
    match &args.command {
        Some(Command::List) => {
            list();
            Ok(())
        }
        Some(Command::Compare { files }) => compare(files),
        None => measure(args, quiet, cancel),
    }
}

fn list() {
    let rows = Suite::ALL.map(|suite| vec![suite.name().to_owned(), suite.describe().to_owned()]);
    output::line(&output::table(&["suite", "what it times"], &rows));
    let row = |model: Model| {
        vec![
            model.name.to_owned(),
            model.config.dim().to_string(),
            model.config.ffn_dim().to_string(),
            model.config.num_layers().to_string(),
        ]
    };
    let models: Vec<_> = Model::all().into_iter().map(row).collect();
    output::line("");
    output::line(&output::table(&["model", "width", "feed-forward", "blocks"], &models));
}

fn compare(files: &[PathBuf]) -> anyhow::Result<()> {
    let read = |path: &PathBuf| -> anyhow::Result<(String, Report)> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok((name, bench::read_report(path)?))
    };
    let reports: Vec<_> = files.iter().map(read).collect::<anyhow::Result<_>>()?;
    let comparison = bench::compare(&reports);
    comparison.devices.iter().for_each(|device| output::line(device));
    comparison.warnings.iter().for_each(|warning| output::line(&format!("note: {warning}")));
    comparison.tables.iter().for_each(print);
    Ok(())
}

fn measure(args: &Args, quiet: bool, cancel: &Cancel) -> anyhow::Result<()> {
    for path in args.json.iter().chain(&args.html) {
        // Now and not after the measurement.
        check_writable(path)?;
    }
    let mut devices = Vec::new();
    for selected in selections(args)? {
        let (selection, backend) = selected;
        let open = device::open(&selection, backend.as_deref())?;
        devices.push(run_on(&open, args, quiet, cancel)?);
        if cancel.is_cancelled() {
            break;
        }
    }
    let report = Report::new(devices);
    if let Some(path) = &args.json {
        write(path, &serde_json::to_string_pretty(&report)?)?;
    }
    if let Some(path) = &args.html {
        write(path, &bench::html::page(&report)?)?;
    }
    if cancel.is_cancelled() {
        bail!("interrupted; what was measured until then is in the report");
    }
    if report.has_failures() {
        bail!("not everything was verified: see the lines with UNVERIFIED, or the checksum");
    }
    Ok(())
}

fn check_writable(path: &Path) -> anyhow::Result<()> {
    drop(AtomicFile::create(path)?);
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))?;
    file.commit()?;
    output::note(&format!("wrote {}", path.display()));
    Ok(())
}

/// What to open, one after the other.
fn selections(args: &Args) -> anyhow::Result<Vec<(Selection, Option<String>)>> {
    let name = args.device.to_lowercase();
    let selection = match name.as_str() {
        "cpu" if !args.backend.is_empty() => {
            bail!("--device cpu uses no graphics interface; leave --backend out")
        }
        "cpu" => return Ok(vec![(Selection::Cpu, None)]),
        "all" => return all(args),
        "auto" => Selection::Auto,
        _ => Selection::Named(args.device.clone()),
    };
    if args.backend.is_empty() {
        return Ok(vec![(selection, None)]);
    }
    let present: Vec<String> = device::adapters().into_iter().map(|a| a.backend).collect();
    let mut found = Vec::new();
    for backend in &args.backend {
        if present.contains(backend) {
            found.push((selection.clone(), Some(backend.clone())));
        } else {
            output::note(&format!("no adapter for {backend} on this machine"));
        }
    }
    if found.is_empty() {
        bail!("no adapter for any of the backends asked for; `qvgen devices` lists what there is");
    }
    Ok(found)
}

/// Every adapter, of the backends asked for if any were.
fn all(args: &Args) -> anyhow::Result<Vec<(Selection, Option<String>)>> {
    let wanted = |backend: &String| args.backend.is_empty() || args.backend.contains(backend);
    let found: Vec<_> = device::adapters()
        .into_iter()
        .filter(|adapter| wanted(&adapter.backend))
        .map(|adapter| (Selection::Named(adapter.index.to_string()), None))
        .collect();
    if found.is_empty() {
        bail!("no adapter on this machine; `--device cpu` still works");
    }
    Ok(found)
}

fn work(args: &Args, open: &OpenDevice) -> Work {
    let mut work = Work::for_device(open, args.quick);
    if !args.suites.is_empty() {
        work.suites.clone_from(&args.suites);
    }
    if !args.bits.is_empty() {
        work.bits.clone_from(&args.bits);
    }
    if let Some(&last) = args.tokens.last() {
        work.tokens.clone_from(&args.tokens);
        work.block_tokens = last;
    }
    if !args.precisions.is_empty() {
        work.precisions.clone_from(&args.precisions);
    }
    if let Some(model) = args.model.as_deref().and_then(Model::named) {
        (work.size, work.frames) = (model.size, model.short_frames);
        (work.model, work.step_model) = (model.clone(), model);
    }
    work.size = args.size.unwrap_or(work.size);
    work.frames = args.frames.unwrap_or(work.frames);
    work
}

fn run_on(
    open: &OpenDevice,
    args: &Args,
    quiet: bool,
    cancel: &Cancel,
) -> anyhow::Result<DeviceReport> {
    let work = work(args, open);
    let mut repeats = Repeats::default();
    if args.quick {
        (repeats.seconds, repeats.least) = (0.1, 3);
    }
    repeats.seconds = args.seconds.unwrap_or(repeats.seconds);
    let entries = bench::entries(&work, open);
    if entries.is_empty() {
        bail!("nothing to time: the suites have no entries for these widths and precisions");
    }
    let mut tell = |event: Event<'_>| match event {
        Event::Start { entry, done, total } if !quiet => {
            output::note(&format!("[{}/{total}] {}", done + 1, entry.identity));
        }
        Event::Finished(report) => match &report.outcome {
            Outcome::Unverified { reason } => {
                output::note(&format!("UNVERIFIED {}: {reason}", report.identity));
            }
            Outcome::Skipped { reason } if !quiet => {
                output::note(&format!("skipped {}: {reason}", report.identity));
            }
            _ => {}
        },
        _ => {}
    };
    let is_cancelled = || cancel.is_cancelled();
    let report = bench::run_device(open, &entries, repeats, &is_cancelled, &mut tell);
    print_device(&report);
    Ok(report)
}

fn print_device(report: &DeviceReport) {
    output::line(&format!("{}, {}", report.title(), report.driver));
    if report.is_software {
        output::line("SOFTWARE: a processor does the work, the numbers say nothing about a GPU");
    }
    let source = report.time_source;
    output::line(&format!("time: {}", source.name()));
    if source == TimeSource::CpuTime {
        output::line("rates are per core; wall times are in the JSON report");
    }
    let checksum = &report.checksum;
    output::line(&if checksum.is_right {
        format!("integer checksum: {}, as on every conforming device", checksum.actual)
    } else {
        format!("UNVERIFIED integer checksum: {}, not {}", checksum.actual, checksum.expected)
    });
    for drift in report.conditions.drift.iter().filter(|drift| drift.is_large()) {
        output::line(&format!(
            "note: the device's f32 rate changed by {:+.0} % during {}: throttling, or other work",
            100.0 * drift.change(),
            drift.suite
        ));
    }
    bench::tables(report).iter().for_each(print);
}

fn print(table: &Table) {
    let header: Vec<&str> = table.header.iter().map(String::as_str).collect();
    output::line(&format!("\n{}", table.title));
    output::line(&output::table(&header, &table.rows));
}
