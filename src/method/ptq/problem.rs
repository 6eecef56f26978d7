//! One layer to be quantized, and the yardstick by which methods choose: the error of its output.

use super::activations::{self, ActivationGoal};
use super::{Observed, Place};
use crate::kernels::matmul_nt;
use crate::nn::{FakeQuantLinear, FullLinear, Linear, PackedLinear};
use crate::quant::{
    ActivationQuantizer, InputTransform, LowRankBranch, PackedRows, QuantizedLayer, WeightSpec,
};
use burn::tensor::{Device, Tensor, TensorData};

/// What a layer shall become.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    /// The weight, and how ranges are found by methods that do not decide it themselves.
    pub weights: WeightSpec,
    /// The activations; `None` for weight-only.
    pub activations: Option<ActivationGoal>,
    /// Most columns of a low-rank branch.
    pub rank: usize,
}

/// Tokens with what the full-precision layer makes of them.
#[derive(Clone, Debug)]
pub(super) struct Samples {
    /// `[places, in_features]`.
    pub(super) x: Vec<f32>,
    pub(super) places: Vec<Place>,
    /// `[places, out_features]`.
    y: Tensor<2>,
    /// `Σ y²`.
    energy: f64,
}

/// A layer to be quantized.
#[derive(Debug)]
pub struct Problem<'a> {
    /// `[out_features, in_features]`.
    pub weight: &'a [f32],
    /// `[out_features]`.
    pub bias: Option<&'a [f32]>,
    /// Columns of the weight.
    pub in_features: usize,
    /// What it shall become.
    pub goal: Goal,
    /// What is known of its input.
    pub observed: &'a Observed,
    device: &'a Device,
    max_elements: usize,
    solving: Samples,
    held_out: Samples,
}

impl<'a> Problem<'a> {
    /// A layer of `weight` `[out_features, in_features]`; products are computed on `device`, in
    /// tensors of at most `max_elements`.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit, or the device fails.
    pub fn new(
        weight: &'a [f32],
        bias: Option<&'a [f32]>,
        goal: Goal,
        observed: &'a Observed,
        (device, max_elements): (&'a Device, usize),
    ) -> Self {
        let in_features = observed.in_features;
        assert!(weight.len().is_multiple_of(in_features), "a weight of {in_features} columns");
        let layer = FullLinear::new(weight, None, in_features, max_elements, device);
        let layer = Linear::Full(layer);
        let samples = |numbers: Vec<usize>| {
            let x = observed.rows_of(&numbers);
            let y = layer.forward(matrix(&x, in_features, device));
            let energy = sum_of_squares(y.clone());
            let places = numbers.iter().map(|&row| observed.places[row]).collect();
            Samples { x, places, y, energy }
        };
        let [solving, held_out] = observed.split().map(samples);
        Self { weight, bias, in_features, goal, observed, device, max_elements, solving, held_out }
    }

    /// Rows of the weight.
    pub fn out_features(&self) -> usize {
        self.weight.len() / self.in_features
    }

    pub(super) fn device(&self) -> &Device {
        self.device
    }

    /// The tokens that methods may look at.
    pub(super) fn samples(&self) -> &Samples {
        &self.solving
    }

    /// Largest magnitude of each column of the weight.
    pub(super) fn weight_absmax(&self) -> Vec<f32> {
        let mut most = vec![0.0_f32; self.in_features];
        for row in self.weight.chunks_exact(self.in_features) {
            most.iter_mut().zip(row).for_each(|(most, w)| *most = most.max(w.abs()));
        }
        most
    }

    /// `weight` `[out_features, in_features]` on the grids that `spec` finds.
    pub(super) fn rounded(&self, weight: &[f32], spec: WeightSpec) -> PackedRows {
        let packed = self.packed(weight, None, spec);
        let mut parts = packed.parts().iter().map(|(part, _)| part.to_rows());
        let Some(mut rows) = parts.next() else { unreachable!("a layer has a part") };
        for part in parts {
            rows.codes.extend(part.codes);
            rows.grids.extend(part.grids);
            rows.code_sums.extend(part.code_sums);
        }
        rows
    }

    fn packed(&self, weight: &[f32], bias: Option<Vec<f32>>, spec: WeightSpec) -> PackedLinear {
        let (k, most) = (self.in_features, self.max_elements);
        PackedLinear::quantize(weight, bias, k, spec, None, most, self.device)
    }

    /// The layer of packed `rows` of the transformed weight: bias folded, activations calibrated.
    pub(super) fn layer(
        &self,
        rows: PackedRows,
        transform: InputTransform,
        low_rank: Option<LowRankBranch>,
    ) -> QuantizedLayer {
        let activations = self.activations(&transform);
        let bias = transform.fold_bias(self.weight, self.bias.map(<[f32]>::to_vec));
        let scheme = self.goal.weights.scheme;
        QuantizedLayer { rows, scheme, bias, transform, low_rank, activations }
    }

    /// The layer with nothing but `transform` and the weight's usual rounding.
    pub(super) fn transformed_layer(&self, transform: InputTransform) -> QuantizedLayer {
        let rows = self.rounded(&self.folded(&transform), self.goal.weights);
        self.layer(rows, transform, None)
    }

    /// The weight under `transform`.
    pub(super) fn folded(&self, transform: &InputTransform) -> Vec<f32> {
        let mut weight = self.weight.to_vec();
        transform.fold_weight(&mut weight, self.in_features);
        weight
    }

    /// The quantizer of transformed activations.
    pub(super) fn activations(&self, transform: &InputTransform) -> Option<ActivationQuantizer> {
        let goal = self.goal.activations?;
        let x = transformed(&self.solving.x, transform, self.in_features);
        let (k, places) = (self.in_features, &self.solving.places);
        let extremes = self.extremes(transform);
        Some(goal.quantizer((&x, &extremes), k, places, self.observed.has_frames))
    }

    /// The transformed extremes of every channel over all tokens that were observed, of which
    /// [`Self::samples`] are some; none where a rotation mixes channels.
    fn extremes(&self, transform: &InputTransform) -> Vec<f32> {
        match self.observed.overall() {
            Some(all) if transform.hadamard.is_none() => {
                transformed(&[all.min(), all.max()].concat(), transform, self.in_features)
            }
            _ => Vec::new(),
        }
    }

    /// Relative squared error of the output with `transform` and a weight rounded by `spec`, on the
    /// tokens that methods may look at.
    pub(super) fn trial(&self, transform: &InputTransform, spec: WeightSpec) -> f64 {
        let Samples { x, places, y, energy } = &self.solving;
        let k = self.in_features;
        let x = transformed(x, transform, k);
        let x = match self.activations(transform) {
            Some(quantizer) => activations::rounded(&quantizer, &x, k, places),
            None => x,
        };
        let bias = transform.fold_bias(self.weight, None);
        let packed = self.packed(&self.folded(transform), bias, spec);
        let layer = Linear::FakeQuant(FakeQuantLinear::from_packed(&packed));
        let actual = layer.forward(matrix(&x, k, self.device));
        ratio(sum_of_squares(actual - y.clone()), *energy)
    }

    /// Relative squared error of the output of `layer`, on the tokens that methods may look at.
    pub(super) fn solving_error(&self, layer: &QuantizedLayer) -> f64 {
        let (errors, energies) = self.token_errors(layer, &self.solving);
        ratio(errors.iter().sum(), energies.iter().sum())
    }

    /// Squared error and energy of the output of `layer`, for each token that no method has seen,
    /// with its place.
    pub fn held_out_errors(&self, layer: &QuantizedLayer) -> Vec<(Place, f64, f64)> {
        let (errors, energies) = self.token_errors(layer, &self.held_out);
        let pairs = errors.into_iter().zip(energies);
        self.held_out.places.iter().zip(pairs).map(|(place, (e, y))| (*place, e, y)).collect()
    }

    /// Relative squared error of the output of `layer`, on tokens that no method has seen.
    pub fn held_out_error(&self, layer: &QuantizedLayer) -> f64 {
        let errors = self.held_out_errors(layer);
        ratio(errors.iter().map(|e| e.1).sum(), errors.iter().map(|e| e.2).sum())
    }

    fn token_errors(&self, layer: &QuantizedLayer, samples: &Samples) -> (Vec<f64>, Vec<f64>) {
        let difference = self.output(layer, samples) - samples.y.clone();
        (token_squares(difference), token_squares(samples.y.clone()))
    }

    /// What `layer` makes of tokens, in floats and without the layer's own bias.
    fn output(&self, layer: &QuantizedLayer, samples: &Samples) -> Tensor<2> {
        let k = self.in_features;
        let x = transformed(&samples.x, &layer.transform, k);
        let rounded = match &layer.activations {
            Some(quantizer) => activations::rounded(quantizer, &x, k, &samples.places),
            None => x.clone(),
        };
        let bias = layer.transform.fold_bias(self.weight, None);
        let (most, device) = (self.max_elements, self.device);
        let full = FullLinear::new(&layer.rows.values(), bias, k, most, device);
        let y = Linear::Full(full).forward(matrix(&rounded, k, device));
        let Some(branch) = &layer.low_rank else { return y };
        let down = matrix(&branch.down, k, device);
        let up = matrix(&branch.up, branch.rank, device);
        y + matmul_nt(matmul_nt(matrix(&x, k, device), down), up)
    }
}

/// Tokens under a transform.
pub(super) fn transformed(x: &[f32], transform: &InputTransform, in_features: usize) -> Vec<f32> {
    let mut x = x.to_vec();
    if !transform.is_none() {
        transform.apply(&mut x, in_features);
    }
    x
}

pub(super) fn matrix(values: &[f32], columns: usize, device: &Device) -> Tensor<2> {
    let shape = [values.len() / columns, columns];
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

/// `error / energy`; an output that is zero throughout has no error to speak of if it stays so.
fn ratio(error: f64, energy: f64) -> f64 {
    if error == 0.0 { 0.0 } else { error / energy.max(f64::MIN_POSITIVE) }
}

fn sum_of_squares(y: Tensor<2>) -> f64 {
    token_squares(y).iter().sum()
}

/// `Σ y²` of each row.
fn token_squares(y: Tensor<2>) -> Vec<f64> {
    let squares = (y.clone() * y).sum_dim(1);
    let values = squares.into_data().try_to_vec::<f32>().expect("f32 values");
    values.into_iter().map(f64::from).collect()
}
