//! The comparison of the paper on a model small enough for anyone to repeat: every method, both
//! precisions, several seeds, equal steps.
//!
//! ```sh
//! cargo run --release --example ablation -- --out ablation          # hours on two cores
//! cargo run --release --example ablation -- --out quick --quick     # minutes
//! ```
//!
//! Every run is one line in `runs.jsonl`; a second call with the same arguments goes on where the
//! first was stopped. At the end `table.md` and `figures/*.svg` are written.

mod runs;
mod table;

use anyhow::{Context, bail};
use qvgen::evaluate::{EvaluationSettings, Evaluator, balanced_cases};
use qvgen::kernels::device::{self, OpenDevice, Selection};
use qvgen::method::qvgen::Method;
use qvgen::nn::{Limits, Weights};
use qvgen::pipeline::cancel::Cancel;
use qvgen::pipeline::checkpoint::ComponentKind;
use qvgen::pipeline::embedded::{EmbeddedModel, EmbeddedName};
use qvgen::pipeline::model::VideoModel;
use qvgen::train::{InMemory, Parameters, world_clips};
use runs::{Plan, Row, Run};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What was asked for.
struct Arguments {
    out: PathBuf,
    model: Option<PathBuf>,
    device: Selection,
    plan: Plan,
    clips: usize,
    training_clips: usize,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse()?;
    std::fs::create_dir_all(&arguments.out)?;
    let embedded = EmbeddedModel::unpack(EmbeddedName::Pocket)?;
    let path = arguments.model.as_deref().unwrap_or(embedded.path());
    let device = device::open(&arguments.device, None)?;
    let model = VideoModel::open(path)?;
    let study = Study::new(&model, &device, &arguments)?;
    println!(
        "{} parameters, {} steps of {} clips, {} seeds, {} clips per evaluation; {}",
        study.full.counts().1,
        arguments.plan.steps,
        arguments.plan.batch,
        arguments.plan.seeds,
        arguments.clips,
        device.describe()
    );
    let file = arguments.out.join("runs.jsonl");
    let mut done = runs::read(&file)?;
    for run in arguments.plan.runs() {
        if done.iter().any(|row| row.run == run) {
            continue;
        }
        let start = Instant::now();
        let row = study.row(&run, &arguments.plan)?;
        runs::append(&file, &row)?;
        println!("{:<48} {:>6.1} s  {}", run.to_string(), start.elapsed().as_secs_f64(), row);
        done.push(row);
    }
    table::write(&arguments.out, &done, &arguments.plan, &device.describe())
}

/// The model and everything that all runs share.
struct Study<'a> {
    model: &'a VideoModel,
    device: &'a OpenDevice,
    full: Parameters,
    data: InMemory,
    evaluator: Evaluator<'a>,
}

impl<'a> Study<'a> {
    fn new(
        model: &'a VideoModel,
        device: &'a OpenDevice,
        arguments: &Arguments,
    ) -> anyhow::Result<Self> {
        let defaults = &model.defaults;
        let mut settings = EvaluationSettings::suggested(defaults, 1);
        settings.sampling.steps = arguments.plan.sampling_steps;
        let size = [settings.sampling.frames, settings.sampling.height, settings.sampling.width];
        let cancel = Cancel::new();
        let clips = (arguments.training_clips, 1);
        let data = world_clips(model, device, &cancel, size, clips, &mut |_, _| ())?;
        let weights = model.weights(ComponentKind::Transformer, None, device.max_elements())?;
        let shapes = model.transformer.parameter_shapes();
        let full = Parameters::load(weights.source(), &shapes, &device.device)?;
        let cases = balanced_cases(arguments.clips)?;
        let mut evaluator =
            Evaluator::new(model, device, cancel, settings, cases, &mut |_, _, _| ())?;
        let weights = Weights::new(weights.source(), &device.device);
        let limits = Limits { max_elements: device.max_elements() };
        let teacher = model.transformer.load(&weights, limits)?;
        evaluator.set_reference("full precision", &*teacher, &mut |_, _, _| ())?;
        Ok(Self { model, device, full, data, evaluator })
    }

    fn row(&self, run: &Run, plan: &Plan) -> anyhow::Result<Row> {
        runs::carry_out(self, run, plan)
    }
}

impl Arguments {
    fn parse() -> anyhow::Result<Self> {
        let mut arguments = Self {
            out: PathBuf::from("ablation"),
            model: None,
            device: Selection::Cpu,
            plan: Plan::default(),
            clips: 24,
            training_clips: 512,
        };
        let mut rest = std::env::args().skip(1);
        while let Some(flag) = rest.next() {
            if flag == "--quick" {
                arguments.plan = Plan::quick();
                (arguments.clips, arguments.training_clips) = (4, 24);
                continue;
            }
            let value = rest.next().with_context(|| format!("{flag} needs a value"))?;
            let number = || value.parse::<usize>().with_context(|| format!("{flag} {value}"));
            match flag.as_str() {
                "--out" => arguments.out = PathBuf::from(value),
                "--model" => arguments.model = Some(PathBuf::from(value)),
                "--device" if value == "cpu" => arguments.device = Selection::Cpu,
                "--device" if value == "auto" => arguments.device = Selection::Auto,
                "--device" => arguments.device = Selection::Named(value),
                "--steps" => arguments.plan.steps = number()?,
                "--batch" => arguments.plan.batch = number()?,
                "--seeds" => arguments.plan.seeds = number()?,
                "--sampling-steps" => arguments.plan.sampling_steps = number()?,
                "--learning-rate" => arguments.plan.learning_rate = value.parse().context(flag)?,
                "--clips" => arguments.clips = number()?,
                "--training-clips" => arguments.training_clips = number()?,
                "--bits" => arguments.plan.bits = value.split(',').map(str::to_owned).collect(),
                "--methods" => {
                    let parse = |name: &str| name.parse::<Method>();
                    arguments.plan.methods =
                        value.split(',').map(parse).collect::<Result<_, _>>()?;
                }
                _ => bail!("{flag} is no argument of this example"),
            }
        }
        Ok(arguments)
    }
}

/// The folder of figures.
fn figures(out: &Path) -> PathBuf {
    out.join("figures")
}
