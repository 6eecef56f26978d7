//! Post-training methods side by side: on a model small enough for anyone to repeat, next to the
//! students that were trained to the same widths, and on layers of true width.
//!
//! ```sh
//! cargo run --release --example ptq -- --out ptq                    # an hour on two cores
//! cargo run --release --example ptq -- --out quick --quick          # less than a minute
//! ```
//!
//! A seed is one calibration (prompts of its own) and one evaluation (noise of its own). Every run
//! is one line in `runs.jsonl`; a second call with the same arguments goes on where the first was
//! stopped. At the end `models.md` and `layers.md` are written and printed.

mod layers;
mod models;
mod speed;
mod table;

use anyhow::{Context, bail};
use models::{Plan, Study};
use qvgen::kernels::device::{self, Selection};
use qvgen::method::ptq::{ActivationMode, Method, ParseMethodError};
use qvgen::pipeline::embedded::{EmbeddedModel, EmbeddedName};
use qvgen::pipeline::model::VideoModel;
use std::path::PathBuf;
use std::time::Instant;

/// What was asked for.
struct Arguments {
    out: PathBuf,
    device: Selection,
    plan: Plan,
    layers: layers::Plan,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse()?;
    std::fs::create_dir_all(&arguments.out)?;
    let device = device::open(&arguments.device, None)?;
    let file = arguments.out.join("runs.jsonl");
    let mut done = models::read(&file)?;
    let plan = &arguments.plan;
    let open: Vec<_> = plan.runs().into_iter().filter(|run| !models::has(&done, run)).collect();
    if !open.is_empty() {
        let embedded = EmbeddedModel::unpack(EmbeddedName::Pocket)?;
        let model = VideoModel::open(embedded.path())?;
        let study = Study::new(&model, &device, plan)?;
        println!("{}", plan.describe(&device.describe()));
        for run in open {
            let start = Instant::now();
            let row = study.row(&run)?;
            models::append(&file, &row)?;
            println!("{:<52} {:>6.1} s  {row}", run.to_string(), start.elapsed().as_secs_f64());
            done.push(row);
        }
    }
    let text = table::of_models(&done, plan, &device.describe())?;
    std::fs::write(arguments.out.join("models.md"), &text)?;
    println!("\n{text}");
    let text = layers::measure(&arguments.layers, &device)?;
    std::fs::write(arguments.out.join("layers.md"), &text)?;
    println!("\n{text}");
    Ok(())
}

/// Names of methods; none for an empty text.
fn methods(text: &str) -> anyhow::Result<Vec<Method>> {
    let names = text.split(',').filter(|name| !name.is_empty());
    Ok(names.map(str::parse).collect::<Result<_, ParseMethodError>>()?)
}

/// Precisions and stored bits per weight, `w4a8:5,w4a8:6`; none for an empty text.
fn budgets(text: &str) -> anyhow::Result<Vec<(String, f64)>> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    let budget = |part: &str| {
        let (bits, most) = part.split_once(':').context("--budgets: precision:bits, w4a8:5")?;
        Ok((bits.to_owned(), most.parse().with_context(|| format!("--budgets {part}"))?))
    };
    parts.map(budget).collect()
}

impl Arguments {
    fn parse() -> anyhow::Result<Self> {
        let mut arguments = Self {
            out: PathBuf::from("ptq"),
            device: Selection::Cpu,
            plan: Plan::default(),
            layers: layers::Plan::default(),
        };
        let mut rest = std::env::args().skip(1);
        while let Some(flag) = rest.next() {
            if flag == "--quick" {
                arguments.plan = Plan::quick();
                arguments.layers = layers::Plan::quick();
                continue;
            }
            let value = rest.next().with_context(|| format!("{flag} needs a value"))?;
            let number = || value.parse::<usize>().with_context(|| format!("{flag} {value}"));
            let words = || value.split(',').map(str::to_owned).collect::<Vec<String>>();
            match flag.as_str() {
                "--out" => arguments.out = PathBuf::from(value),
                "--device" if value == "cpu" => arguments.device = Selection::Cpu,
                "--device" if value == "auto" => arguments.device = Selection::Auto,
                "--device" => arguments.device = Selection::Named(value),
                "--seeds" => arguments.plan.seeds = number()?,
                "--clips" => arguments.plan.clips = number()?,
                "--steps" => arguments.plan.steps = number()?,
                "--calibration-clips" => arguments.plan.calibration_clips = number()?,
                "--width" => arguments.layers.width = number()?,
                "--layer-seeds" => arguments.layers.seeds = number()?.max(1),
                "--bits" => {
                    arguments.plan.bits = words();
                    arguments.layers.bits = words();
                }
                "--methods" => {
                    let methods = methods(&value)?;
                    arguments.plan.methods.clone_from(&methods);
                    arguments.layers.methods = methods;
                }
                "--static" => {
                    let fixed = methods(&value)?.into_iter();
                    arguments.plan.fixed = fixed.map(|m| (m, ActivationMode::Static)).collect();
                }
                "--budgets" => arguments.plan.budgets = budgets(&value)?,
                _ => bail!("{flag} is no argument of this example"),
            }
        }
        Ok(arguments)
    }
}
