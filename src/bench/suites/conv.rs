//! The convolutions that most of the video decoder's time goes to.

use super::{Selection, has_f16, not_run, read};
use crate::bench::random::{self, sampled};
use crate::bench::{Baseline, Entry, Failure, Identity, Job, Suite, Verified, Work};
use crate::kernels::device::OpenDevice;
use crate::nn::{Conv3d, ConvPrecision, ConvShape};
use burn::tensor::{Device, Tensor, TensorData};
use half::f16;

/// Values that are recomputed.
const SAMPLES: usize = 60;

/// The size of a layer's input and result; a convolution's window is 3×3×3.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) channels: usize,
    pub(super) frames: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

pub(super) fn entries(selection: &Selection, open: &OpenDevice) -> Vec<Entry> {
    let is_gpu = open.adapter.as_ref().is_some_and(|adapter| !adapter.is_software());
    let shape = |channels, frames, height, width| Shape { channels, frames, height, width };
    // The stages of Wan's decoder at 480×832, and what a processor does in a second.
    let shapes = match (is_gpu, selection.is_quick, selection.model.is_pocket()) {
        (_, true, true) => vec![shape(24, 2, 9, 17)],
        (true, true, _) => vec![shape(192, 2, 120, 208)],
        (true, false, _) => {
            vec![shape(384, 2, 60, 104), shape(192, 4, 240, 416), shape(96, 4, 480, 832)]
        }
        (false, ..) => vec![shape(384, 1, 15, 26), shape(96, 2, 60, 104)],
    };
    // The CPU device stores halves, but multiplies floats.
    let has_f16 = open.adapter.is_some() && has_f16(&open.device);
    let precisions = [Some(ConvPrecision::Exact), has_f16.then_some(ConvPrecision::F16)];
    let forms = |shape| precisions.into_iter().flatten().map(move |form| entry(shape, form));
    shapes.into_iter().flat_map(forms).collect()
}

fn entry(shape: Shape, precision: ConvPrecision) -> Entry {
    let Shape { channels, frames, height, width } = shape;
    let parameters =
        [("channels", channels), ("frames", frames), ("height", height), ("width", width)];
    let case = format!("{channels} x {frames} x {height} x {width}, 3x3x3");
    let values = channels * frames * height * width;
    let ops = 2.0 * 27.0 * values as f64 * channels as f64;
    let bytes = |weight: f64| 8.0 * values as f64 + weight * (27 * channels * channels) as f64;
    let (name, work) = match precision {
        ConvPrecision::Exact => {
            ("f32", Work { f32_ops: ops, bytes: bytes(4.0), ..Work::default() })
        }
        ConvPrecision::F16 => ("f16", Work { f16_ops: ops, bytes: bytes(2.0), ..Work::default() }),
    };
    let identity = Identity::new(Suite::Conv, case, "conv3d", name, &parameters);
    let entry = Entry::new(identity, work, values, move |device| {
        Ok(Box::new(Convolve::new(shape, precision, device)))
    });
    if precision == ConvPrecision::Exact { entry.as_baseline(Baseline::F32) } else { entry }
}

struct Convolve {
    layer: Conv3d,
    x: Tensor<4>,
    /// Positions in the result, flat, and their values.
    places: Vec<usize>,
    expected: Vec<f32>,
    y: Option<Tensor<4>>,
}

impl Convolve {
    /// Factors that 16-bit floats hold, where these multiply: what is verified is the same sum.
    fn new(shape: Shape, precision: ConvPrecision, device: &Device) -> Self {
        let Shape { channels, frames, height, width } = shape;
        let len = channels * frames * height * width;
        let mut x = random::values(len, 1, 1.0);
        let mut weight = random::values(27 * channels * channels, 2, 0.1);
        if precision == ConvPrecision::F16 {
            for value in x.iter_mut().chain(&mut weight) {
                *value = f16::from_f32(*value).to_f32();
            }
        }
        let bias = random::values(channels, 3, 1.0);
        let places = sampled(len, SAMPLES, 4);
        let expected =
            places.iter().map(|place| exact(shape, &x, &weight, &bias, *place)).collect();
        let layer =
            Conv3d::new(ConvShape::same(channels, channels, [3, 3, 3]), &weight, bias, device)
                .with_precision(precision);
        let x = TensorData::new(x, [channels, frames, height, width]);
        Self { layer, x: Tensor::from_data(x, device), places, expected, y: None }
    }
}

/// The value at flat position `place`, in f64; causal in time.
fn exact(shape: Shape, x: &[f32], weight: &[f32], bias: &[f32], place: usize) -> f32 {
    let Shape { channels, frames, height, width } = shape;
    let (column, row) = (place % width, place / width % height);
    let (frame, out) = (place / (width * height) % frames, place / (width * height * frames));
    let mut sum = f64::from(bias[out]);
    for channel in 0..channels {
        for tap in 0..27 {
            let (t, h, w) = (tap / 9, tap / 3 % 3, tap % 3);
            // Taps reach two frames back, and a pixel around.
            let source = (frame + t).checked_sub(2).zip((row + h).checked_sub(1));
            let Some(((t, h), w)) = source.zip((column + w).checked_sub(1)) else { continue };
            if h < height && w < width {
                let value = x[((channel * frames + t) * height + h) * width + w];
                let factor = weight[(out * channels + channel) * 27 + tap];
                sum += f64::from(value) * f64::from(factor);
            }
        }
    }
    sum as f32
}

impl Job for Convolve {
    fn run(&mut self) {
        self.y = None;
        self.y = Some(self.layer.forward(self.x.clone(), None));
    }

    fn verify(&mut self) -> Result<Verified, Failure> {
        let y = self.y.clone().ok_or_else(not_run)?;
        Verified::compare(&values_at(y, &self.places)?, &self.expected, 1e-4)
    }
}

/// Values at flat positions of `y [channels, frames, height, width]`, all of which must be finite.
pub(super) fn values_at(y: Tensor<4>, places: &[usize]) -> Result<Vec<f32>, Failure> {
    let [channels, frames, height, width] = y.dims();
    // Whole rows of the flat result are read: a channel at a time is small enough.
    let plane = frames * height * width;
    let y = y.reshape([channels, plane]);
    let mut values = Vec::with_capacity(places.len());
    for &place in places {
        let value = y.clone().narrow(0, place / plane, 1).narrow(1, place % plane, 1);
        values.extend(read(value)?);
    }
    super::check_finite(y)?;
    Ok(values)
}
