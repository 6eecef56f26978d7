//! `qvgen train`.

use super::arguments::{DeviceArgs, parse_bytes};
use super::output;
use super::progress::StageBar;
use crate::pipeline::cancel::Cancel;
use crate::pipeline::checkpoint::LoraFile;
use crate::train::config::{Config, Override};
use crate::train::{
    Event, Mode, OpenedModel, Outcome, StepMetric, TrainJob, TrainPlan, ValidationMetric, train,
};
use anyhow::bail;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Name of the bar.
const STAGE: &str = "training";

/// Arguments of `qvgen train`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// What to train: a TOML file such as those in examples/configs
    config: PathBuf,
    /// Change a value of the file: section.key=value; repeatable, the last one wins
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Full-precision model folder, or pocket for the small model inside the program
    #[arg(long, value_name = "MODEL", help_heading = "Values of the file")]
    model: Option<String>,
    /// LoRA to add to the model before it is trained; repeatable, instead of those of the file
    #[arg(long = "lora", value_name = "FILE[=STRENGTH]", help_heading = "Values of the file")]
    loras: Vec<LoraFile>,
    /// Folder for checkpoints, measurements, figures and the trained model
    #[arg(short, long, value_name = "FOLDER", help_heading = "Values of the file")]
    out: Option<PathBuf>,
    /// Precision: full, or w<2|3|4|6|8>a<3|4|6|8|16>
    #[arg(long, value_name = "PRECISION", help_heading = "Values of the file")]
    bits: Option<String>,
    /// Method: qvgen, lsq, q-dm, efficient-dm and others
    #[arg(long, value_name = "NAME", help_heading = "Values of the file")]
    method: Option<String>,
    /// Updates
    #[arg(long, value_name = "N", help_heading = "Values of the file")]
    steps: Option<usize>,
    /// Clips per update
    #[arg(long, value_name = "N", help_heading = "Values of the file")]
    batch: Option<usize>,
    /// Start of all random numbers
    #[arg(long, value_name = "N", help_heading = "Values of the file")]
    seed: Option<u64>,
    /// Go on with the training in the folder, or begin if there is none
    #[arg(long, conflicts_with = "restart")]
    resume: bool,
    /// Delete the training in the folder and begin anew
    #[arg(long)]
    restart: bool,
    /// With --resume: go on although values such as learning rate or seed have changed
    #[arg(long, requires = "resume")]
    allow_changes: bool,
    #[command(flatten)]
    device: DeviceArgs,
    /// Refuse to start above this much device memory, such as 24GiB, and say what would fit
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, help_heading = "Device")]
    max_memory: Option<u64>,
    /// Print parameters, memory, steps and phases, and stop
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document with the plan and the result
    #[arg(long)]
    json: bool,
}

/// Trains.
pub(super) fn run(args: Args, quiet: bool, cancel: &Cancel) -> anyhow::Result<()> {
    let config = Config::load(&args.config, &args.overrides()?)?;
    let opened = OpenedModel::open(&config)?;
    let device = args.device.open()?;
    let plan = TrainPlan::new(&config, &opened.model, device.describe())?;
    let print: &dyn Fn(&str) = if args.dry_run { &output::line } else { &output::note };
    if !args.json && (args.dry_run || !quiet) {
        print_plan(&plan, args.max_memory, print);
    }
    if args.dry_run && args.json {
        output::json(&json!({ "plan": plan }))?;
    }
    plan.check(args.max_memory)?;
    if args.dry_run {
        return Ok(());
    }
    let job = TrainJob {
        config: &config,
        model: &opened.model,
        device: &device,
        mode: args.mode(),
        allow_changes: args.allow_changes,
        cancel: cancel.clone(),
    };
    let mut bar = StageBar::new(quiet || args.json);
    let outcome = train(&job, &mut |event| show(&mut bar, &event, config.log.every));
    bar.finish();
    let outcome = outcome?;
    if outcome.model.is_none() {
        bail!("{}", stopped(&outcome, &args.config));
    }
    if args.json {
        let out = config.out.display().to_string();
        return output::json(&json!({ "out": out, "plan": plan, "outcome": outcome }));
    }
    print_outcome(&outcome, &config);
    Ok(())
}

impl Args {
    fn mode(&self) -> Mode {
        match (self.resume, self.restart) {
            (true, _) => Mode::Resume,
            (_, true) => Mode::Restart,
            _ => Mode::New,
        }
    }

    fn overrides(&self) -> anyhow::Result<Vec<Override>> {
        let mut overrides = Vec::new();
        for text in &self.set {
            overrides.push(Override::parse(text)?);
        }
        let path = |path: &PathBuf| path.display().to_string();
        let number = |value: usize| value.to_string();
        let flags = [
            ("--model", "model", self.model.clone()),
            ("--out", "out", self.out.as_ref().map(path)),
            ("--bits", "bits", self.bits.clone()),
            ("--method", "method", self.method.clone()),
            ("--steps", "loop.steps", self.steps.map(number)),
            ("--batch", "loop.batch", self.batch.map(number)),
            ("--seed", "loop.seed", self.seed.map(|seed| seed.to_string())),
        ];
        let given = flags.into_iter().filter_map(|(flag, key, value)| {
            value.map(|value| Override::of_flag(flag, key, value))
        });
        overrides.extend(given);
        if !self.loras.is_empty() {
            let loras = self.loras.iter().map(LoraFile::to_argument).collect();
            overrides.push(Override::of_repeated("--lora", "loras", loras));
        }
        Ok(overrides)
    }
}

/// Shows what happens: on a terminal in a bar, otherwise in a line every so often.
fn show(bar: &mut StageBar, event: &Event<'_>, every: usize) {
    match event {
        Event::Working { what, unit, done, total } => {
            if !bar.say(STAGE, &format!("{what}: {done} of {total} {unit}")) {
                bar.advance(what, unit, *done, *total);
            }
        }
        Event::Resumed { step, path } => {
            bar.note(&format!("resumed  after {step} steps, from {}", path.display()));
        }
        Event::Step { metric, steps, seconds_per_step } => {
            let words = step_words(metric, *steps, *seconds_per_step);
            let done = metric.step + 1;
            if bar.is_seen() {
                bar.advance_saying(STAGE, done, *steps, &words);
            } else if done.is_multiple_of(every) || done == *steps {
                bar.note(&format!("step     {done}/{steps}  {words}"));
            }
        }
        Event::Validated(metric) => bar.note(&validation_words(metric)),
        Event::Saved(path) => bar.note(&format!("saved    {}", path.display())),
        Event::Sampled(path) => bar.note(&format!("sample   {}", path.display())),
        Event::Note(text) => bar.note(&format!("note     {text}")),
    }
}

fn step_words(metric: &StepMetric, steps: usize, seconds_per_step: f64) -> String {
    let phi = match (metric.rank, metric.u) {
        (Some(rank), Some(u)) => format!("  rank {rank}  u {u:.2}"),
        _ => String::new(),
    };
    let left = seconds_per_step * (steps - metric.step - 1) as f64;
    format!(
        "loss {:.4e}  gradient {:.3e}{phi}  {seconds_per_step:.2} s/it  ETA {}",
        metric.loss,
        metric.gradient_norm,
        output::duration(left)
    )
}

fn validation_words(metric: &ValidationMetric) -> String {
    let without =
        metric.loss_without_phi.map_or_else(String::new, |loss| format!(", without Φ {loss:.4e}"));
    format!("held out {:.4e}{without} after {} steps", metric.loss, metric.step + 1)
}

fn stopped(outcome: &Outcome, config: &Path) -> String {
    let Outcome { done, steps, .. } = outcome;
    match &outcome.checkpoint {
        Some(checkpoint) => format!(
            "stopped after {done} of {steps} steps; go on with `qvgen train {} --resume` \
             (checkpoint {})",
            config.display(),
            checkpoint.display()
        ),
        None => "stopped before the first step; nothing was trained".to_owned(),
    }
}

fn print_plan(plan: &TrainPlan, limit: Option<u64>, print: &dyn Fn(&str)) {
    for (what, text) in plan.lines(&output::bytes) {
        print(&format!("{what:<8} {text}"));
    }
    for line in plan.fitting(limit, &output::bytes) {
        print(&line);
    }
}

fn print_outcome(outcome: &Outcome, config: &Config) {
    let held_out =
        outcome.validation.map_or_else(String::new, |v| format!(", held out {:.4e}", v.loss));
    let loss = outcome.loss.map_or_else(String::new, |loss| format!(", loss {loss:.4e}"));
    let model = outcome.model.as_deref().unwrap_or(Path::new(""));
    output::line(&format!(
        "{}: {} {} after {} steps{loss}{held_out}",
        model.display(),
        config.method_name(),
        config.bits,
        outcome.done
    ));
    output::line(&format!("figures  {}", config.out.join("figures").display()));
    output::line(&format!("sample   qvgen sample {} --out clip.mp4", model.display()));
}
