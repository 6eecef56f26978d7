//! What a packed layer takes at run time, beside one of the same codes without transform and branch.

use anyhow::{Context, bail};
use burn::tensor::{Tensor, TensorData};
use qvgen::bench::{Failure, Job, Repeats, Stopwatch, Verified, WallClock, measure};
use qvgen::kernels::device::OpenDevice;
use qvgen::nn::{Linear, PackedLinear};
use qvgen::quant::{ActivationQuantizer, QuantizedLayer, quantize_tokens};

/// Tokens whose results are verified.
const VERIFIED: usize = 4;
/// Largest difference, relative to the largest result: a token's value at the border of two codes
/// may fall on either side, a transform or branch that is left out changes more.
const TOLERANCE: f64 = 0.02;

/// Times of a layer.
pub(super) struct Speed {
    /// Of one call.
    pub(super) seconds: f64,
    /// By the time of the plain layer.
    pub(super) times_plain: f64,
}

impl Speed {
    /// Name of the clock that is believed on the device.
    pub(super) fn clock(open: &OpenDevice) -> &'static str {
        Stopwatch::new(open).source().name()
    }

    /// The times of `layer` for tokens `x`; each layer is verified before it is timed.
    pub(super) fn of(layer: &QuantizedLayer, x: &[f32], open: &OpenDevice) -> anyhow::Result<Self> {
        let QuantizedLayer { rows, scheme, activations, .. } = layer.clone();
        let plain = QuantizedLayer::plain(rows, scheme, None, activations);
        let [seconds, plain] = [layer, &plain].map(|layer| seconds(layer, x, open));
        let seconds = seconds?;
        Ok(Self { seconds, times_plain: seconds / plain? })
    }
}

/// The median time of a call.
fn seconds(layer: &QuantizedLayer, x: &[f32], open: &OpenDevice) -> anyhow::Result<f64> {
    let mut job = Forward::new(layer, x, open)?;
    job.run();
    job.verify()?;
    let mut stopwatch = Stopwatch::new(open);
    let repeats = Repeats { least: 5, ..Repeats::default() };
    let sample = &mut |runs| stopwatch.sample(runs, &mut job);
    let samples = measure(&mut WallClock::default(), repeats, sample)?;
    Ok(samples.summary(|sample| Some(sample.primary)).context("a sample")?.median)
}

/// The packed layer on a device.
struct Forward {
    linear: Linear,
    x: Tensor<2>,
    y: Option<Tensor<2>>,
    /// Of the first tokens.
    expected: Vec<f32>,
}

impl Forward {
    fn new(layer: &QuantizedLayer, x: &[f32], open: &OpenDevice) -> anyhow::Result<Self> {
        let [_, k] = layer.shape();
        let shape = [x.len() / k, k];
        let packed = PackedLinear::from_layer(layer, open.max_elements(), &open.device);
        Ok(Self {
            linear: Linear::Packed(packed),
            x: Tensor::from_data(TensorData::new(x.to_vec(), shape), &open.device),
            y: None,
            expected: by_definition(layer, x[..VERIFIED.min(shape[0]) * k].to_vec())?,
        })
    }
}

impl Job for Forward {
    fn run(&mut self) {
        self.y = Some(self.linear.forward(self.x.clone()));
    }

    fn verify(&mut self) -> Result<Verified, Failure> {
        let y = self.y.clone().ok_or_else(|| Failure::Device("it has not run".to_owned()))?;
        let first = self.expected.len() / y.dims()[1];
        let first = y.narrow(0, 0, first).try_into_data().map_err(Failure::device)?;
        let values: Vec<f32> = first.try_to_vec().map_err(Failure::device)?;
        Verified::compare(&values, &self.expected, TOLERANCE)
    }
}

/// `Q(x̂)·Ŵᵀ + (x̂·downᵀ)·upᵀ + b̂` in plain Rust.
fn by_definition(layer: &QuantizedLayer, mut x: Vec<f32>) -> anyhow::Result<Vec<f32>> {
    let [n, k] = layer.shape();
    layer.transform.apply(&mut x, k);
    let rounded = match &layer.activations {
        None => x.clone(),
        Some(ActivationQuantizer::Uniform(spec)) => quantize_tokens(&x, k, *spec).values(),
        Some(_) => bail!("only ranges of tokens as they come are timed"),
    };
    let weight = layer.rows.values();
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let bias = layer.bias.clone().unwrap_or_else(|| vec![0.0; n]);
    let token = |token: &[f32]| -> Vec<f32> {
        let rows = weight.chunks_exact(k).zip(&bias);
        rows.map(|(w, bias)| (dot(token, w) + f64::from(*bias)) as f32).collect()
    };
    let mut y: Vec<f32> = rounded.chunks_exact(k).flat_map(token).collect();
    if let Some(branch) = &layer.low_rank {
        branch.add(&x, &mut y);
    }
    Ok(y)
}
