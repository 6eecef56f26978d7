//! What there is to time: one file per suite, of its name.

mod attention;
mod block;
mod conv;
mod group_norm;
mod matmul;
mod passes;
mod quantize;
mod step;
mod svd;
mod train_step;

use super::{Entry, Failure, Model, Suite};
use crate::kernels::device::OpenDevice;
use crate::quant::{Bits, Precision};
use burn::tensor::{Device, Tensor};

/// What to time, and how large.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Which suites.
    pub suites: Vec<Suite>,
    /// Widths of weights and activations in products and quantizers.
    pub bits: Vec<Bits>,
    /// Tokens of products, quantizers and attention.
    pub tokens: Vec<usize>,
    /// Precisions of blocks and steps.
    pub precisions: Vec<Precision>,
    /// Whose shapes, in all suites but the next two.
    pub model: Model,
    /// The model of whole steps and of training.
    pub step_model: Model,
    /// Tokens of a block.
    pub block_tokens: usize,
    /// Width and height of a step's video, pixels.
    pub size: (usize, usize),
    /// Frames of a step's video.
    pub frames: usize,
    /// The small selection: fewer shapes and forms.
    pub is_quick: bool,
}

impl Selection {
    /// What takes about a minute on `open`, or a few seconds if `is_quick`: true sizes on a GPU,
    /// and on a processor those that it can manage.
    pub fn for_device(open: &OpenDevice, is_quick: bool) -> Self {
        let is_gpu = open.adapter.as_ref().is_some_and(|adapter| !adapter.is_software());
        let small = if is_gpu { Model::usual() } else { Model::pocket() };
        let widths: &[u32] = if is_quick { &[4] } else { &[3, 4, 6, 8] };
        let bits: Vec<Bits> = widths.iter().filter_map(|&bits| Bits::from_u32(bits)).collect();
        let packed = bits
            .iter()
            .rev()
            .map(|&bits| Precision { weights: Some(bits), activations: Some(bits) });
        let selection = Self {
            suites: Suite::ALL.to_vec(),
            precisions: std::iter::once(Precision::FULL).chain(packed).collect(),
            bits,
            tokens: vec![256],
            model: if is_quick { small.clone() } else { Model::usual() },
            block_tokens: if is_gpu { 1560 } else { 64 },
            size: small.size,
            frames: small.short_frames,
            step_model: small,
            is_quick,
        };
        let tokens = match (is_gpu, is_quick) {
            (true, true) => vec![1560],
            (true, false) => vec![256, 7800],
            (false, true) => vec![65],
            (false, false) => vec![256],
        };
        Self { tokens, ..selection }
    }

    /// Rows and columns of the weights of a model's block.
    fn shapes(&self) -> Vec<(usize, usize)> {
        let config = &self.model.config;
        let (dim, ffn) = (config.dim(), config.ffn_dim());
        let shapes = vec![(dim, dim), (ffn, dim), (dim, ffn)];
        let count = match (self.is_quick, self.block_tokens) {
            (true, _) => 1,
            // The third takes a processor as long as the second and says the same.
            (false, ..1000) => 2,
            _ => 3,
        };
        shapes.into_iter().take(count).collect()
    }
}

/// The entries of a selection, suite by suite.
pub fn entries(selection: &Selection, open: &OpenDevice) -> Vec<Entry> {
    let mut suites = selection.suites.clone();
    suites.sort();
    suites.dedup();
    let of = |suite: Suite| match suite {
        Suite::Matmul => matmul::entries(selection, open),
        Suite::Attention => attention::entries(selection, open),
        Suite::Quantize => quantize::entries(selection),
        Suite::Passes => passes::entries(selection),
        Suite::Conv => {
            let mut entries = conv::entries(selection, open);
            entries.extend(group_norm::entries(selection, open));
            entries
        }
        Suite::Svd => svd::entries(selection),
        Suite::Block => block::entries(selection, open),
        Suite::Step => step::entries(selection, open),
        Suite::TrainStep => train_step::entries(selection, open),
    };
    suites.into_iter().flat_map(of).collect()
}

/// The values of a tensor.
fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, Failure> {
    let data = tensor.try_into_data().map_err(Failure::device)?;
    data.convert::<f32>().try_to_vec().map_err(Failure::device)
}

/// An error unless every value of `tensor` is finite; costs one pass over it.
fn check_finite(tensor: Tensor<2>) -> Result<(), Failure> {
    // Rows first: a single sum of millions of values would lose the small ones, but not a NaN.
    let sum: f32 = read(tensor.abs().sum_dim(1))?.iter().sum();
    if sum.is_finite() {
        Ok(())
    } else {
        Err(Failure::Differs { error: f64::INFINITY, tolerance: 0.0 })
    }
}

/// Distance of two results relative to the length of the expected one: for whole networks, where
/// a code at a tie may change single values.
fn distance(actual: &[f32], expected: &[f32]) -> f64 {
    let squares = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>();
    if actual.len() != expected.len() {
        return f64::INFINITY;
    }
    let pairs = actual.iter().zip(expected);
    let difference = squares(&mut pairs.map(|(a, e)| f64::from(*a) - f64::from(*e)));
    (difference / squares(&mut expected.iter().map(|e| f64::from(*e)))).sqrt()
}

/// Largest [`distance`] of a network with these codes from the CPU's: rounding in another order
/// moves values across ties, and each changes a code.
fn network_tolerance(precision: Precision) -> f64 {
    match precision.activations.map(Bits::get) {
        None => 1e-3,
        Some(8) => 0.01,
        Some(_) => 0.05,
    }
}

/// The result of a job that was not run.
fn not_run() -> Failure {
    Failure::Device("it was not run".to_owned())
}

/// Whether `device` stores and multiplies 16-bit floats.
fn has_f16(device: &Device) -> bool {
    device.supports_dtype(burn::tensor::DType::F16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_of_networks_rejects_wrong_values_and_nan() {
        assert_eq!(distance(&[3.0, 4.0], &[3.0, 4.0]), 0.0);
        assert!((distance(&[3.0, 4.5], &[3.0, 4.0]) - 0.1).abs() < 1e-9);
        for wrong in [&[3.0][..], &[f32::NAN, 4.0], &[f32::INFINITY, 4.0]] {
            let is_accepted = distance(wrong, &[3.0, 4.0]) <= 0.05;
            assert!(!is_accepted, "{wrong:?}");
        }
        let nothing = distance(&[0.0], &[0.0]) <= 0.05;
        assert!(!nothing, "an expectation of zeros verifies nothing");
    }

    #[test]
    fn every_suite_has_entries_on_the_cpu() {
        for is_quick in [true, false] {
            let open = OpenDevice::cpu();
            let selection = Selection::for_device(&open, is_quick);
            let entries = entries(&selection, &open);
            for suite in Suite::ALL {
                let count = entries.iter().filter(|entry| entry.identity.suite == suite).count();
                assert!(count > 0, "{suite}");
            }
        }
    }
}
