//! The command line: arguments in, library calls, results out.
//!
//! Each command is a file with `Args` (what was typed) and `run`, which resolves them into the
//! library's types and prints what comes back. Results go to stdout, everything else to stderr.

mod arguments;
mod bench;
mod cache;
mod devices;
mod eval;
mod import;
mod inspect;
mod model_arguments;
mod output;
mod post_training;
mod pretrain;
mod progress;
mod quantize;
mod sample;
mod setup;
mod train;

use crate::pipeline::cancel::Cancel;
use clap::{Parser, Subcommand};
use std::panic;
use std::process::ExitCode;
use std::time::Duration;

/// Low-bit video generation and training on any GPU: Wan 2.1 and CogVideoX text-to-video with packed
/// 2- to 8-bit weights and activations, through WGSL kernels on Vulkan, Metal, DX12 and GL.
#[derive(Debug, Parser)]
#[command(name = "qvgen", version, max_term_width = 100, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Say more: -v for debug messages, -vv for every shader
    #[arg(short, long, global = true, display_order = 100, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Print results and errors only
    #[arg(short, long, global = true, display_order = 101, conflicts_with = "verbose")]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a video from a prompt
    Sample(Box<sample::Args>),
    /// Turn a full-precision model folder into a packed one
    Quantize(Box<quantize::Args>),
    /// Turn a checkpoint of the released QVGen code into a packed model folder
    Import(Box<import::Args>),
    /// Train a small text-to-video model from nothing
    Pretrain(pretrain::Args),
    /// Measure how well a model does what its captions say, and how far it agrees with another
    Eval(Box<eval::Args>),
    /// Train a model, or a quantized student of one, as a TOML file describes it
    Train(Box<train::Args>),
    /// Encode clips and captions, or prompts, for training
    Cache(Box<cache::Args>),
    /// Time kernels and models, verified, as fractions of what the device reaches at most
    Bench(Box<bench::Args>),
    /// Say what a model folder, a weight file or a video of ours holds
    Inspect(inspect::Args),
    /// List the adapters of this machine
    Devices(devices::Args),
    /// Check that this machine can run the kernels; on Debian without a GPU, install what is missing
    Setup(setup::Args),
}

/// Parses the arguments, runs the command, reports an error, and returns the exit code: 0 for
/// success, 1 for failure, 2 for wrong usage.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logger(cli.verbose, cli.quiet);
    let cancel = install_cancel();
    quiet_panics();
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| run(cli, &cancel)));
    let error = match outcome {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(error)) => format!("{error:#}"),
        Err(payload) => panic_message(payload.as_ref()),
    };
    output::error(&error);
    ExitCode::FAILURE
}

fn run(cli: Cli, cancel: &Cancel) -> anyhow::Result<()> {
    let quiet = cli.quiet;
    match cli.command {
        Command::Sample(args) => sample::run(*args, quiet, cancel),
        Command::Quantize(args) => quantize::run(*args, quiet, cancel),
        Command::Import(args) => import::run(&args, quiet, cancel),
        Command::Pretrain(args) => pretrain::run(&args, quiet, cancel),
        Command::Eval(args) => eval::run(*args, quiet, cancel),
        Command::Train(args) => train::run(*args, quiet, cancel),
        Command::Cache(args) => cache::run(*args, quiet, cancel),
        Command::Bench(args) => bench::run(&args, quiet, cancel),
        Command::Inspect(args) => inspect::run(&args),
        Command::Devices(args) => devices::run(&args),
        Command::Setup(args) => setup::run(&args),
    }
}

fn start_logger(verbose: u8, quiet: bool) {
    let level = match (quiet, verbose) {
        (true, _) => "qvgen=error,off",
        (false, 0) => "qvgen=warn,off",
        (false, 1) => "qvgen=debug,warn",
        (false, _) => "qvgen=trace,info",
    };
    let environment = env_logger::Env::default().default_filter_or(level);
    // What was typed beats the environment.
    let environment =
        if quiet || verbose > 0 { environment.filter_or("QVGEN_LOG", level) } else { environment };
    env_logger::Builder::from_env(environment).format_timestamp(None).format_target(false).init();
}

/// The first Ctrl-C asks the work to stop, so that nothing stays half written; the second ends the
/// program at once.
fn install_cancel() -> Cancel {
    let cancel = Cancel::new();
    let handler = cancel.clone();
    let installed = ctrlc::set_handler(move || {
        if handler.is_cancelled() {
            std::process::exit(130);
        }
        handler.cancel();
    });
    if let Err(err) = installed {
        log::warn!("Ctrl-C will end the program at once: {err}");
    }
    cancel
}

/// Panics come from drivers and the GPU runtime (a lost device, no memory left): they are reported
/// as errors, with the place only on request.
fn quiet_panics() {
    panic::set_hook(Box::new(|info| log::debug!("{info}")));
}

fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    // A device thread may still be writing its own report.
    std::thread::sleep(Duration::from_millis(10));
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("no reason given");
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let short: String = line.chars().take(400).collect();
    format!(
        "the program stopped in the middle: {short}; if the device was lost or out of memory, use \
         fewer frames, a smaller size or `--device cpu` (-v shows more)"
    )
}
