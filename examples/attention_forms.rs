//! Every form of attention: verified against the plain-Rust twin, then timed beside Burn's own.
//!
//! ```sh
//! cargo run --release --example attention_forms -- --queries 2048 --keys 2048
//! ```
//!
//! Times are those that the process's CPUs spent on software adapters, which other programs do not
//! change, and wall clock on others. All contestants take turns; the best of each is reported.

use anyhow::{Context, ensure};
use burn::tensor::activation::softmax;
use burn::tensor::{DType, Device, Distribution, Tensor, TensorData, module};
use clap::Parser;
use cpu_time::ProcessTime;
use qvgen::kernels::Element;
use qvgen::kernels::attention::{self, Attention, Form, Params, attention_in};
use qvgen::kernels::attention_int8::attention_int8;
use qvgen::kernels::device::{Selection, open};
use std::time::{Duration, Instant};

/// Times the forms of attention.
#[derive(Debug, Parser)]
struct Args {
    /// Heads.
    #[arg(long, default_value_t = 12)]
    heads: usize,
    /// Channels of a head.
    #[arg(long, default_value_t = 128)]
    head_dim: usize,
    /// Queries.
    #[arg(long, default_value_t = 2048)]
    queries: usize,
    /// Keys.
    #[arg(long, default_value_t = 2048)]
    keys: usize,
    /// Rounds in which each form is timed once.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Adapter by index or part of its name; the best one if left out.
    #[arg(long)]
    adapter: Option<String>,
    /// Whether one channel in 16 of the keys lies far from zero, as in trained models.
    #[arg(long)]
    outliers: bool,
    /// Whether to leave out Burn's own.
    #[arg(long)]
    ours_only: bool,
}

type Inputs = [Tensor<2>; 3];
type Run = Box<dyn Fn(&Inputs) -> Tensor<2>>;

/// A way to compute attention, and how far its result may be from the twin's.
struct Contestant {
    name: String,
    tolerance: f32,
    run: Run,
}

fn ours(args: &Args, device: &Device, scale: f32) -> Vec<Contestant> {
    let heads = args.heads;
    let in_form = |form: Form, dtype: DType| -> Run {
        Box::new(move |inputs| {
            let [q, k, v] = inputs.each_ref().map(|x| x.clone().cast(dtype));
            attention_in(Some(form), q, k, v, heads, scale).0
        })
    };
    let mut all = Vec::new();
    for form in Form::ALL {
        for (element, dtype) in [(Element::F32, DType::F32), (Element::F16, DType::F16)] {
            if form.runs(device, args.head_dim, element) && device.supports_dtype(dtype) {
                let rounds = dtype == DType::F16 || form == Form::Matrix;
                let tolerance = if rounds { 3e-2 } else { 1e-4 };
                let name = format!("{form:?} {dtype:?}");
                all.push(Contestant { name, tolerance, run: in_form(form, dtype) });
            }
        }
    }
    all.push(Contestant {
        name: "Int8 scores".to_owned(),
        tolerance: 0.2,
        run: Box::new(move |[q, k, v]| {
            attention_int8(q.clone(), k.clone(), v.clone(), heads, scale).0
        }),
    });
    all
}

fn by_head(x: &Tensor<2>, heads: usize) -> Tensor<4> {
    let [tokens, width] = x.dims();
    x.clone().reshape([1, tokens, heads, width / heads]).swap_dims(1, 2)
}

fn flat(x: Tensor<4>) -> Tensor<2> {
    let [_, heads, tokens, head_dim] = x.dims();
    x.swap_dims(1, 2).reshape([tokens, heads * head_dim])
}

/// Burn stores the scores: as many heads at a time as the device can bind.
fn in_groups(
    group: usize,
    [q, k, v]: [Tensor<4>; 3],
    f: impl Fn([Tensor<4>; 3]) -> Tensor<4>,
) -> Tensor<2> {
    let heads = q.dims()[1];
    let part =
        |first: usize| [&q, &k, &v].map(|x| x.clone().narrow(1, first, group.min(heads - first)));
    flat(Tensor::cat((0..heads).step_by(group).map(|first| f(part(first))).collect(), 1))
}

fn burns(args: &Args, scale: f32, max_elements: usize) -> Vec<Contestant> {
    let heads = args.heads;
    let group = (max_elements / (args.queries * args.keys)).clamp(1, heads);
    let module: Run = Box::new(move |inputs| {
        in_groups(group, inputs.each_ref().map(|x| by_head(x, heads)), |[q, k, v]| {
            module::attention(q, k, v, None, None, Default::default())
        })
    });
    let composition: Run = Box::new(move |inputs| {
        in_groups(group, inputs.each_ref().map(|x| by_head(x, heads)), |[q, k, v]| {
            softmax(q.matmul(k.swap_dims(2, 3)) * scale, 3).matmul(v)
        })
    });
    let named = |name: &str, run| Contestant { name: name.to_owned(), tolerance: 1e-4, run };
    vec![named("Burn's attention", module), named("Burn's products and softmax", composition)]
}

fn inputs(args: &Args, [queries, keys]: [usize; 2], device: &Device) -> Inputs {
    let width = args.heads * args.head_dim;
    let [q, k, v] = [queries, keys, keys]
        .map(|rows| Tensor::random([rows, width], Distribution::Normal(0.0, 1.0), device));
    let far = |channel: usize| if args.outliers && channel % 16 == 5 { 20.0 } else { 0.0 };
    let offset: Vec<f32> = (0..width).map(far).collect();
    [q, k + Tensor::from_data(TensorData::new(offset, [1, width]), device), v]
}

/// Root mean square of the differences from the twin, and the largest, relative to the root mean
/// square of its result.
fn errors(contestant: &Contestant, inputs: &Inputs, args: &Args) -> anyhow::Result<[f32; 2]> {
    let read = |x: &Tensor<2>| x.clone().into_data().try_to_vec::<f32>().context("f32 values");
    let [q, k, v] = inputs.each_ref().map(read);
    let kernel = Attention { head_dim: args.head_dim as u32 };
    let params = Params {
        queries: inputs[0].dims()[0] as u32,
        keys: inputs[1].dims()[0] as u32,
        heads: args.heads as u32,
        scale: (args.head_dim as f32).sqrt().recip(),
    };
    let (expected, _) = attention::reference(kernel, &q?, &k?, &v?, params);
    let actual = read(&(contestant.run)(inputs))?;
    let square = expected.iter().map(|x| x * x).sum::<f32>() / expected.len() as f32;
    let worst = |worst: f32, d: f32| if d.is_nan() { f32::INFINITY } else { worst.max(d) };
    let differences = actual.iter().zip(&expected).map(|(a, e)| (a - e).abs());
    let mean = differences.clone().map(|d| d * d).sum::<f32>() / expected.len() as f32;
    Ok([mean.sqrt() / square.sqrt(), differences.fold(0.0, worst) / square.sqrt()])
}

fn time(contestant: &Contestant, inputs: &Inputs, software: bool) -> anyhow::Result<Duration> {
    let (cpu, wall) = (ProcessTime::now(), Instant::now());
    let result = (contestant.run)(inputs).narrow(0, 0, 1).into_data();
    // Data arrives when it is looked at.
    result.try_to_vec::<f32>().context("reading the result")?;
    Ok(if software { cpu.elapsed() } else { wall.elapsed() })
}

fn main() -> anyhow::Result<()> {
    env_logger::init();
    let args = Args::parse();
    let selection = args.adapter.clone().map_or(Selection::Auto, Selection::Named);
    let opened = open(&selection, None)?;
    let software = opened.adapter.as_ref().is_none_or(|adapter| adapter.is_software());
    let device = &opened.device;
    let scale = (args.head_dim as f32).sqrt().recip();
    let mut contestants = ours(&args, device, scale);
    if !args.ours_only {
        contestants.extend(burns(&args, scale, opened.max_elements()));
    }
    println!("{}", opened.describe());
    println!(
        "{} heads × {}, {} queries, {} keys",
        args.heads, args.head_dim, args.queries, args.keys
    );

    let small = inputs(&args, [args.queries.min(70), args.keys.min(200)], device);
    let mut found = Vec::new();
    for contestant in &contestants {
        let [rms, error] = errors(contestant, &small, &args)?;
        let (name, tolerance) = (&contestant.name, contestant.tolerance);
        ensure!(error <= tolerance, "{name} is wrong: error {error:e}, tolerance {tolerance:e}");
        found.push([rms, error]);
    }
    let full = inputs(&args, [args.queries, args.keys], device);
    let mut best = vec![Duration::MAX; contestants.len()];
    for round in 0..=args.rounds {
        for (contestant, best) in contestants.iter().zip(&mut best) {
            let elapsed = time(contestant, &full, software)?;
            if round > 0 {
                *best = elapsed.min(*best);
            }
        }
    }
    let ops = 4.0 * (args.queries * args.keys * args.heads * args.head_dim) as f64;
    let rival = (contestants.iter().zip(&best))
        .filter(|(contestant, _)| contestant.name.starts_with("Burn"))
        .map(|(_, time)| time.as_secs_f64())
        .fold(f64::INFINITY, f64::min);
    let unit = if software { "of CPU time" } else { "of wall time" };
    println!(
        "{:<30} {:>8} {:>9} {:>12} {:>11} {:>11}",
        "form", "s", "GFLOP/s", "Burn's best", "error (rms)", "(largest)"
    );
    for ((contestant, best), [rms, error]) in contestants.iter().zip(&best).zip(found) {
        let seconds = best.as_secs_f64();
        let (rate, ratio) = (ops / seconds / 1e9, rival / seconds);
        let ratio = if ratio.is_finite() { format!("{ratio:.2}x") } else { "–".to_owned() };
        println!(
            "{:<30} {seconds:>8.3} {rate:>9.2} {ratio:>12} {rms:>11.1e} {error:>11.1e}",
            contestant.name
        );
    }
    println!("seconds {unit}, best of {} rounds", args.rounds);
    Ok(())
}
