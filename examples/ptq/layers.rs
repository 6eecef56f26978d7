//! Layers of true width with inputs that are normal, heavy-tailed, or offset: how well each method
//! keeps the output, and what its layer costs at run time.

use super::table::spread;
use burn::tensor::{Device, Tensor, TensorData};
use qvgen::kernels::device::OpenDevice;
use qvgen::method::ptq::{ActivationGoal, ActivationMode, Goal, Method, Observed, Origin, Problem};
use qvgen::nn::{Linear, PackedLinear};
use qvgen::quant::{Calibration, Precision, QuantizedLayer, Scheme, WeightSpec};
use std::fmt::Write;
use std::time::Instant;

/// What is measured.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) bits: Vec<String>,
    pub(super) methods: Vec<Method>,
    /// Channels of the input and of the output.
    pub(super) width: usize,
    /// Tokens of the input that methods see, and of a timed call.
    pub(super) tokens: usize,
    pub(super) seeds: usize,
    pub(super) repeats: usize,
}

impl Default for Plan {
    fn default() -> Self {
        let slow = [Method::Auto, Method::MinMax];
        let methods = Method::ALL.into_iter().filter(|method| !slow.contains(method));
        Self {
            bits: ["w8a8", "w4a8", "w4a4"].map(str::to_owned).to_vec(),
            methods: [Method::MinMax].into_iter().chain(methods).collect(),
            width: 1536,
            tokens: 256,
            seeds: 3,
            repeats: 5,
        }
    }
}

impl Plan {
    /// Enough to see that everything works.
    pub(super) fn quick() -> Self {
        Self {
            bits: vec!["w4a4".to_owned()],
            methods: vec![Method::MinMax, Method::SmoothQuant, Method::Qvd],
            width: 256,
            tokens: 64,
            seeds: 1,
            repeats: 1,
        }
    }
}

/// How inputs are distributed.
const INPUTS: [(&str, Gains); 3] = [
    ("normal", Gains { spread: 0.0, offset: 0.0 }),
    ("heavy-tailed channels", Gains { spread: 1.5, offset: 0.0 }),
    ("offset channels", Gains { spread: 0.7, offset: 2.0 }),
];

/// Channels of an input: log-normal gains, and offsets by the gain.
#[derive(Clone, Copy, Debug)]
struct Gains {
    /// Standard deviation of the logarithm of a gain.
    spread: f32,
    /// Standard deviation of an offset, in gains.
    offset: f32,
}

/// Standard normal numbers of a seed.
fn normal(rows: usize, columns: usize, seed: u64) -> Vec<f32> {
    Observed::data_free(columns, rows, seed).rows
}

/// An input like `gains`: standard normal tokens, scaled and shifted by channel.
fn input(gains: Gains, plan: &Plan, seed: u64) -> Observed {
    let k = plan.width;
    let logarithms = normal(1, k, 3 * seed + 1);
    let offsets = normal(1, k, 3 * seed + 2);
    let gain = |c: usize| (gains.spread * logarithms[c]).exp();
    let affine: Vec<(f32, f32)> =
        (0..k).map(|c| (gain(c), gain(c) * gains.offset * offsets[c])).collect();
    let mut rows = normal(plan.tokens, k, 3 * seed);
    for token in rows.chunks_exact_mut(k) {
        for (value, (gain, offset)) in token.iter_mut().zip(&affine) {
            *value = gain * *value + offset;
        }
    }
    Observed::of_rows(k, rows, Origin::DataFree)
}

/// Every table as text.
pub(super) fn measure(plan: &Plan, device: &OpenDevice) -> anyhow::Result<String> {
    let k = plan.width;
    let mut text = format!(
        "Layers of {k} x {k} with random weights, {} tokens, {} seeds; {}. Signal to noise of the \
         output in decibels on tokens held out; milliseconds of the packed layer for {} tokens.\n\n",
        plan.tokens,
        plan.seeds,
        device.describe(),
        plan.tokens
    );
    let names: Vec<&str> = INPUTS.iter().map(|(name, _)| *name).collect();
    writeln!(text, "| bits | method | {} | ms |", names.join(" | "))?;
    writeln!(text, "|---|---|{}---|", "---|".repeat(names.len()))?;
    for bits in &plan.bits {
        let precision: Precision = bits.parse()?;
        for &method in &plan.methods {
            write!(text, "| {bits} | {method} |")?;
            let mut times = Vec::new();
            for (_, gains) in INPUTS {
                let mut ratios = Vec::new();
                for seed in 0..plan.seeds as u64 {
                    let (snr, time) = one((method, precision), gains, plan, (seed, device))?;
                    ratios.push(snr);
                    times.push(time);
                }
                let (mean, deviation) = spread(&ratios);
                write!(text, " {mean:.1} ± {deviation:.1} |")?;
            }
            times.sort_by(f64::total_cmp);
            writeln!(text, " {:.1} |", times[times.len() / 2])?;
            println!("{bits} {method}: {}", text.lines().last().unwrap_or_default());
        }
    }
    Ok(text)
}

/// Signal to noise, decibels, and milliseconds of a call.
fn one(
    (method, precision): (Method, Precision),
    gains: Gains,
    plan: &Plan,
    (seed, open): (u64, &OpenDevice),
) -> anyhow::Result<(f64, f64)> {
    let observed = input(gains, plan, seed);
    let scale = 1.0 / (plan.width as f32).sqrt();
    let weight: Vec<f32> =
        normal(plan.width, plan.width, 100 + seed).into_iter().map(|w| scale * w).collect();
    let bits = precision.weights.ok_or_else(|| anyhow::anyhow!("weights are to be quantized"))?;
    let mode = ActivationMode::Dynamic;
    let goal = Goal {
        weights: WeightSpec {
            bits,
            scheme: Scheme::AsymmetricReal,
            group_size: None,
            calibration: Calibration::Mse,
        },
        activations: precision.activations.map(|bits| ActivationGoal {
            bits,
            scheme: Scheme::Asymmetric,
            mode,
        }),
        rank: 32,
    };
    let place = (&open.device, open.max_elements());
    let problem = Problem::new(&weight, None, goal, &observed, place);
    let layer = method.solve(&problem);
    let snr = -10.0 * problem.held_out_error(&layer).log10();
    Ok((snr, time(&layer, &observed.rows, plan, &open.device, open.max_elements())))
}

/// The least time of a call of the packed layer, milliseconds.
fn time(layer: &QuantizedLayer, x: &[f32], plan: &Plan, device: &Device, most: usize) -> f64 {
    let linear = Linear::Packed(PackedLinear::from_layer(layer, most, device));
    let shape = [x.len() / plan.width, plan.width];
    let x = Tensor::<2>::from_data(TensorData::new(x.to_vec(), shape), device);
    let call = || {
        let start = Instant::now();
        let y = linear.forward(x.clone());
        let _ = y.slice([0..1, 0..1]).into_data();
        1000.0 * start.elapsed().as_secs_f64()
    };
    (0..=plan.repeats).map(|_| call()).fold(f64::INFINITY, f64::min)
}
