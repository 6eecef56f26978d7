//! The group norm of CogVideoX's decoder: moments of a chunk, then normalization and modulation.

use super::conv::{Shape, values_at};
use super::{Selection, not_run};
use crate::bench::random::{self, sampled};
use crate::bench::{Entry, Failure, Identity, Job, Suite, Verified, Work};
use crate::kernels::device::OpenDevice;
use crate::kernels::group_moments::{combine_moments, group_moments};
use crate::kernels::group_norm::{ChunkPlace, group_norm};
use burn::tensor::{Device, Tensor, TensorData};

/// Values that are recomputed.
const SAMPLES: usize = 60;
/// Groups of CogVideoX.
const GROUPS: usize = 32;
/// Pixels along an axis that share a factor, at a size between the first and the last.
const SCALE: usize = 4;
const EPS: f32 = 1e-6;

pub(super) fn entries(selection: &Selection, open: &OpenDevice) -> Vec<Entry> {
    let is_gpu = open.adapter.as_ref().is_some_and(|adapter| !adapter.is_software());
    // The last stage of the decoder at 480×720, and what a processor does in a moment.
    let shape = match (is_gpu, selection.is_quick, selection.model.is_pocket()) {
        (_, true, true) => Shape { channels: 32, frames: 2, height: 8, width: 12 },
        (true, false, _) => Shape { channels: 128, frames: 2, height: 480, width: 720 },
        (true, true, _) => Shape { channels: 128, frames: 2, height: 120, width: 180 },
        (false, ..) => Shape { channels: 128, frames: 2, height: 60, width: 88 },
    };
    vec![entry(shape)]
}

fn entry(shape: Shape) -> Entry {
    let Shape { channels, frames, height, width } = shape;
    let parameters = [
        ("channels", channels),
        ("frames", frames),
        ("height", height),
        ("width", width),
        ("groups", GROUPS),
    ];
    let case = format!("{channels} x {frames} x {height} x {width}, {GROUPS} groups");
    let identity = Identity::new(Suite::Conv, case, "group_norm", "f32", &parameters);
    let values = channels * frames * height * width;
    // Moments need all values before the first result: they are read twice.
    let work = Work { bytes: 12.0 * values as f64, ..Work::default() };
    Entry::new(identity, work, values, move |device| Ok(Box::new(Normalize::new(shape, device))))
}

struct Normalize {
    frames: usize,
    x: Tensor<4>,
    modulation: [Tensor<4>; 2],
    /// Positions in the result, flat, and their values.
    places: Vec<usize>,
    expected: Vec<f32>,
    y: Option<Tensor<4>>,
}

impl Normalize {
    fn new(shape: Shape, device: &Device) -> Self {
        let Shape { channels, frames, height, width } = shape;
        let len = channels * frames * height * width;
        let coarse = [channels, 1, height / SCALE, width / SCALE];
        let x = random::values(len, 1, 1.0);
        let modulation = [2, 3].map(|seed| random::values(coarse.iter().product(), seed, 1.0));
        let places = sampled(len, SAMPLES, 4);
        let expected = exact(shape, &x, &modulation, &places);
        let upload = |values, shape| Tensor::from_data(TensorData::new(values, shape), device);
        Self {
            frames,
            x: upload(x, [channels, frames, height, width]),
            modulation: modulation.map(|values| upload(values, coarse)),
            places,
            expected,
            y: None,
        }
    }
}

/// The values at flat positions `places`, in f64.
fn exact(shape: Shape, x: &[f32], [factor, offset]: &[Vec<f32>; 2], places: &[usize]) -> Vec<f32> {
    let Shape { channels, height, width, .. } = shape;
    let group_len = x.len() / GROUPS;
    let moments: Vec<[f64; 2]> = x
        .chunks(group_len)
        .map(|group| {
            let mean = group.iter().map(|&x| f64::from(x)).sum::<f64>() / group_len as f64;
            let squares: f64 = group.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
            [mean, squares / group_len as f64]
        })
        .collect();
    let at = |&place: &usize| {
        let [mean, variance] = moments[place / group_len];
        let channel = place / (x.len() / channels);
        let (row, column) = (place / width % height / SCALE, place % width / SCALE);
        let coarse = (channel * (height / SCALE) + row) * (width / SCALE) + column;
        let normalized = (f64::from(x[place]) - mean) / (variance + f64::from(EPS)).sqrt();
        let value = normalized * f64::from(factor[coarse]) + f64::from(offset[coarse]);
        (value / (1.0 + (-value).exp())) as f32
    };
    places.iter().map(at).collect()
}

impl Job for Normalize {
    fn run(&mut self) {
        self.y = None;
        let x = self.x.clone();
        let rows = x.clone().reshape([GROUPS, x.shape().num_elements() / GROUPS]);
        let moments = combine_moments(group_moments(rows));
        let at = ChunkPlace { first_frame: 0, frames: self.frames };
        self.y = Some(group_norm(x, moments, self.modulation.clone(), at, EPS, true));
    }

    fn verify(&mut self) -> Result<Verified, Failure> {
        let y = self.y.clone().ok_or_else(not_run)?;
        Verified::compare(&values_at(y, &self.places)?, &self.expected, 1e-4)
    }
}
