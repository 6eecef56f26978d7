//! Layers of true width with inputs that are normal, heavy-tailed, or offset: how well each method
//! keeps the output, what it stores, and what it takes to solve a layer and to run it.

use super::speed::Speed;
use super::table::spread;
use qvgen::bench::{Clock, CpuClock};
use qvgen::kernels::device::OpenDevice;
use qvgen::method::ptq::auto::stored_bytes;
use qvgen::method::ptq::{ActivationGoal, ActivationMode, Goal, Method, Observed, Origin, Problem};
use qvgen::quant::{Calibration, Precision, Scheme, WeightSpec};
use std::fmt::Write;

/// What is measured.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) bits: Vec<String>,
    pub(super) methods: Vec<Method>,
    /// Channels of the input and of the output.
    pub(super) width: usize,
    /// Tokens of the input that methods see, more if they ask for more, and of a timed call.
    pub(super) tokens: usize,
    pub(super) seeds: usize,
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
fn input(gains: Gains, [tokens, k]: [usize; 2], seed: u64) -> Observed {
    let logarithms = normal(1, k, 3 * seed + 1);
    let offsets = normal(1, k, 3 * seed + 2);
    let gain = |c: usize| (gains.spread * logarithms[c]).exp();
    let affine: Vec<(f32, f32)> =
        (0..k).map(|c| (gain(c), gain(c) * gains.offset * offsets[c])).collect();
    let mut rows = normal(tokens, k, 3 * seed);
    for token in rows.chunks_exact_mut(k) {
        for (value, (gain, offset)) in token.iter_mut().zip(&affine) {
            *value = gain * *value + offset;
        }
    }
    Observed::of_rows(k, rows, Origin::DataFree)
}

/// What one layer gave.
struct Layer {
    /// Signal to noise of the output, decibels.
    snr: f64,
    /// Stored bits per weight.
    bits: f64,
    /// Seconds of one core that solving took.
    solving: f64,
    speed: Speed,
}

/// Every table as text.
pub(super) fn measure(plan: &Plan, device: &OpenDevice) -> anyhow::Result<String> {
    let k = plan.width;
    let mut text = format!(
        "Layers of {k} x {k} with random weights, {} tokens, {} seeds; {}. Signal to noise of the \
         output in decibels on tokens held out; stored bits per weight; seconds of one core to solve \
         a layer; milliseconds of the packed layer for {} tokens ({}), and how many times as long \
         that is as a layer of the same codes with nothing beside them.\n\n",
        plan.tokens,
        plan.seeds,
        device.describe(),
        plan.tokens,
        Speed::clock(device),
    );
    let names: Vec<&str> = INPUTS.iter().map(|(name, _)| *name).collect();
    writeln!(text, "| bits | method | {} | stored | solving | ms | times |", names.join(" | "))?;
    writeln!(text, "|---|---|{}---|---|---|---|", "---|".repeat(names.len()))?;
    for bits in &plan.bits {
        let precision: Precision = bits.parse()?;
        for &method in &plan.methods {
            let row = row((method, precision), plan, device)?;
            println!("| {bits} | {method} |{row}");
            writeln!(text, "| {bits} | {method} |{row}")?;
        }
    }
    Ok(text)
}

/// The numbers of a method: the first by kind of input, the others medians over all layers.
fn row(what: (Method, Precision), plan: &Plan, device: &OpenDevice) -> anyhow::Result<String> {
    let (mut text, mut all) = (String::new(), Vec::new());
    for (_, gains) in INPUTS {
        let seeds = 0..plan.seeds as u64;
        let layers = seeds.map(|seed| one(what, gains, plan, (seed, device)));
        let layers: Vec<Layer> = layers.collect::<anyhow::Result<_>>()?;
        let ratios: Vec<f64> = layers.iter().map(|layer| layer.snr).collect();
        let (mean, deviation) = spread(&ratios);
        write!(text, " {mean:.1} ± {deviation:.1} |")?;
        all.extend(layers);
    }
    let median = |of: fn(&Layer) -> f64| {
        let mut values: Vec<f64> = all.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (bits, solving) = (median(|layer| layer.bits), median(|layer| layer.solving));
    let seconds = median(|layer| layer.speed.seconds);
    let times = median(|layer| layer.speed.times_plain);
    write!(text, " {bits:.2} | {solving:.1} | {:.1} | {times:.2} |", 1e3 * seconds)?;
    Ok(text)
}

/// A layer by a method, for inputs like `gains`.
fn one(
    (method, precision): (Method, Precision),
    gains: Gains,
    plan: &Plan,
    (seed, open): (u64, &OpenDevice),
) -> anyhow::Result<Layer> {
    let tokens = plan.tokens.max(method.samples());
    let observed = input(gains, [tokens, plan.width], seed);
    let scale = 1.0 / (plan.width as f32).sqrt();
    let weight: Vec<f32> =
        normal(plan.width, plan.width, 100 + seed).into_iter().map(|w| scale * w).collect();
    let place = (&open.device, open.max_elements());
    let problem = Problem::new(&weight, None, goal(precision)?, &observed, place);
    let mut clock = CpuClock::default();
    let start = clock.now();
    let layer = method.solve(&problem);
    let solving = clock.now() - start;
    Ok(Layer {
        snr: -10.0 * problem.held_out_error(&layer).log10(),
        bits: 8.0 * stored_bytes(&layer) as f64 / weight.len() as f64,
        solving,
        speed: Speed::of(&layer, &observed.rows[..plan.tokens * plan.width], open)?,
    })
}

fn goal(precision: Precision) -> anyhow::Result<Goal> {
    let bits = precision.weights.ok_or_else(|| anyhow::anyhow!("weights are to be quantized"))?;
    let (scheme, mode) = (Scheme::Asymmetric, ActivationMode::Dynamic);
    Ok(Goal {
        weights: WeightSpec {
            bits,
            scheme: Scheme::AsymmetricReal,
            group_size: None,
            calibration: Calibration::Mse,
        },
        activations: precision.activations.map(|bits| ActivationGoal { bits, scheme, mode }),
        rank: 32,
    })
}
