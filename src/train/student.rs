//! The quantized layers of a student: what each has beside its weight, and how that changes.

use super::parameters::{Group, Parameter, Parameters};
use super::source::GradientMap;
use crate::kernels::fake_quantize_tokens::{FakeQuantTokens, clip_factors};
use crate::kernels::quantize_weight;
use crate::method::qvgen::{
    Addition, Auxiliary, Phase, RankSchedule, Recipe, ScheduleError, TrainedLayer, WeightQuantizer,
    initialize_phi, redecompose,
};
use crate::method::{LayerSpec, Scope};
use crate::models::LinearShape;
use crate::quant::{
    Bits, Calibration, Grid, PackedRows, Scheme, TokenRange, TokenSpec, WeightSpec,
};
use burn::tensor::{Tensor, TensorData};
use std::collections::BTreeMap;

/// `logit(0.95)`: the clips start at 95 % of a token's range.
const CLIP_LOGIT: f32 = 2.944_439;

/// How a layer is quantized in training.
#[derive(Clone, Copy, Debug)]
struct LayerWidths {
    out_features: usize,
    in_features: usize,
    quantizer: WeightQuantizer,
    activations: Option<Bits>,
}

/// Singular values of every layer's Φ at the start of a phase.
pub type Spectra = BTreeMap<String, Vec<f32>>;

/// The quantized layers of a student, whose tensors are among its [`Parameters`].
#[derive(Clone, Debug)]
pub struct QuantizedLayers {
    layers: BTreeMap<String, LayerWidths>,
    auxiliary: Auxiliary,
    schedule: Option<RankSchedule>,
    phase: Option<Phase>,
    gamma: Option<Tensor<1>>,
    /// Whether Φ takes part; switched off to look at the student without it.
    phi_is_on: bool,
    /// Effective weights of this step, where they are kept.
    effective: BTreeMap<String, Tensor<2>>,
}

/// A layer as a forward pass needs it.
pub(super) struct LayerView<'a> {
    parameters: &'a Parameters,
    layers: &'a QuantizedLayers,
    name: &'a str,
    pub(super) activations: Option<FakeQuantTokens>,
    pub(super) clips_name: String,
    pub(super) clips: Tensor<1>,
}

impl LayerView<'_> {
    pub(super) fn effective_weight(&self) -> Tensor<2> {
        match self.layers.effective.get(self.name) {
            Some(weight) => weight.clone(),
            None => self.layers.trained(self.parameters, self.name).effective_weight(),
        }
    }
}

/// Names of a layer's tensors.
fn named(layer: &str, suffix: &str) -> String {
    format!("{layer}.{suffix}")
}

const SCALE: &str = "weight_scale";
const ZERO_POINT: &str = "weight_zero_point";
const CLIPS: &str = "activation_clips";
const LEFT: &str = "low_rank_left";
const RIGHT: &str = "low_rank_right";

impl QuantizedLayers {
    /// Gives every layer of `linears` that `scope` quantizes its grid (by the MSE search), clips,
    /// and Φ or LoRA; `parameters` must hold the full-precision model.
    ///
    /// # Errors
    ///
    /// If the recipe's ranks make no schedule of `steps` steps.
    pub fn prepare(
        parameters: &mut Parameters,
        linears: &[LinearShape],
        scope: &Scope,
        recipe: &Recipe,
        steps: usize,
        seed: u64,
    ) -> Result<Self, ScheduleError> {
        let this = Self::describe(linears, scope, recipe, steps)?;
        let names: Vec<String> = this.layers.keys().cloned().collect();
        for (index, name) in names.iter().enumerate() {
            this.add_quantizer(parameters, name);
            this.add_auxiliary(parameters, name, seed.wrapping_add(index as u64));
        }
        if matches!(recipe.auxiliary, Auxiliary::Lora { .. }) {
            freeze_model(parameters);
        }
        Ok(this)
    }

    /// The layers without touching any tensor: for parameters that are restored.
    ///
    /// # Errors
    ///
    /// As [`Self::prepare`].
    pub fn describe(
        linears: &[LinearShape],
        scope: &Scope,
        recipe: &Recipe,
        steps: usize,
    ) -> Result<Self, ScheduleError> {
        let scheme = recipe.weight_scheme();
        let layers = linears
            .iter()
            .filter_map(|linear| {
                let precision = scope.of(&linear.name);
                let widths = LayerWidths {
                    out_features: linear.out_features,
                    in_features: linear.in_features,
                    quantizer: WeightQuantizer { bits: precision.weights?, scheme },
                    activations: precision.activations,
                };
                Some((linear.name.clone(), widths))
            })
            .collect();
        let schedule = match &recipe.auxiliary {
            Auxiliary::Phi { ranks, annealing, .. } => {
                Some(RankSchedule::new(ranks.clone(), *annealing, steps)?)
            }
            _ => None,
        };
        Ok(Self {
            layers,
            auxiliary: recipe.auxiliary.clone(),
            schedule,
            phase: None,
            gamma: None,
            phi_is_on: true,
            effective: BTreeMap::new(),
        })
    }

    /// Names of the layers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.layers.keys().map(String::as_str)
    }

    /// The schedule of Φ, where there is one.
    pub fn schedule(&self) -> Option<&RankSchedule> {
        self.schedule.as_ref()
    }

    /// Switches Φ off or on again, to compare.
    pub fn set_phi(&mut self, is_on: bool) {
        self.phi_is_on = is_on;
        self.effective.clear();
    }

    fn add_quantizer(&self, parameters: &mut Parameters, name: &str) {
        let LayerWidths { out_features, quantizer, activations, .. } = self.layers[name];
        let weight = parameters.expect(&named(name, "weight")).matrix();
        let device = weight.device();
        let spec = WeightSpec {
            bits: quantizer.bits,
            scheme: quantizer.scheme,
            group_size: None,
            calibration: Calibration::Mse,
        };
        let grids = quantize_weight(weight, spec).to_rows().grids;
        let scales = grids.iter().map(|grid| grid.scale).collect();
        let zero_points = grids.iter().map(|grid| grid.zero_point).collect();
        let shape = [out_features];
        // A symmetric grid has its zero point in the middle, always.
        let zero_group =
            if quantizer.scheme == Scheme::Symmetric { Group::Frozen } else { Group::Scales };
        parameters.insert_values(named(name, SCALE), scales, &shape, Group::Scales, &device);
        parameters.insert_values(named(name, ZERO_POINT), zero_points, &shape, zero_group, &device);
        if activations.is_some() {
            let clips = vec![CLIP_LOGIT; 2];
            parameters.insert_values(named(name, CLIPS), clips, &[2], Group::Clips, &device);
        }
    }

    fn add_auxiliary(&self, parameters: &mut Parameters, name: &str, seed: u64) {
        let LayerWidths { out_features, in_features, .. } = self.layers[name];
        let (left, right) = match &self.auxiliary {
            Auxiliary::None => return,
            Auxiliary::Phi { ranks, .. } => {
                let layer = self.bare(parameters, name);
                let rank = ranks[0];
                let (phi, _) =
                    initialize_phi(layer.weight.clone(), layer.quantized_weight(), rank, seed);
                (phi.l, phi.r)
            }
            Auxiliary::Lora { rank } => {
                let device = parameters.expect(&named(name, "weight")).value.device();
                let spread = 1.0 / (in_features as f32).sqrt();
                let values: Vec<f32> = super::random::normal(seed, 0, rank * in_features)
                    .into_iter()
                    .map(|value| value * spread)
                    .collect();
                let a = Tensor::from_data(TensorData::new(values, [*rank, in_features]), &device);
                (Tensor::zeros([out_features, *rank], &device), a)
            }
        };
        for (suffix, factor) in [(LEFT, left), (RIGHT, right)] {
            let shape = factor.dims();
            let flat = factor.reshape([shape[0] * shape[1]]);
            parameters
                .insert(named(name, suffix), Parameter::new(flat, shape.to_vec(), Group::LowRank));
        }
    }

    /// Starts `step`: a new phase changes rank and factors of every Φ. The effective weights are
    /// kept for the step if `keep` says so; otherwise every pass computes its own.
    ///
    /// Returns the singular values of Φ if it was decomposed.
    pub fn begin_step(
        &mut self,
        parameters: &mut Parameters,
        step: usize,
        keep: bool,
    ) -> Option<Spectra> {
        let phase = self.schedule.as_ref().map(|schedule| schedule.at(step));
        let spectra = phase.and_then(|phase| self.enter(parameters, phase));
        self.set_phase(parameters, phase);
        self.effective.clear();
        if keep {
            let layer = |name: &String| (name.clone(), self.trained(parameters, name));
            self.effective = self
                .layers
                .keys()
                .map(layer)
                .map(|(name, layer)| (name, layer.effective_weight()))
                .collect();
        }
        spectra
    }

    /// Forgets the effective weights of the step, which an update has outdated.
    pub fn end_step(&mut self) {
        self.effective.clear();
    }

    /// Rank and `u` of Φ at the present step.
    pub fn phase(&self) -> Option<Phase> {
        self.phase
    }

    fn set_phase(&mut self, parameters: &Parameters, phase: Option<Phase>) {
        self.phase = phase;
        self.gamma = phase.filter(|phase| phase.rank > 0).and_then(|phase| {
            let name = self.layers.keys().next()?;
            let device = parameters.expect(&named(name, "weight")).value.device();
            Some(Tensor::from_data(phase.gamma().as_slice(), &device))
        });
    }

    /// Changes the factors at the first step of a phase.
    fn enter(&self, parameters: &mut Parameters, phase: Phase) -> Option<Spectra> {
        let Auxiliary::Phi { redecompose: sorts, .. } = self.auxiliary else { return None };
        if !phase.starts {
            return None;
        }
        let mut spectra = Spectra::new();
        for name in self.layers.keys() {
            let [left, right] = [LEFT, RIGHT].map(|suffix| named(name, suffix));
            if phase.rank == 0 {
                parameters.remove(&left);
                parameters.remove(&right);
                continue;
            }
            if phase.index > 0 && !sorts {
                cut(parameters, &left, 1, phase.rank);
                cut(parameters, &right, 0, phase.rank);
                continue;
            }
            let l = parameters.expect(&left).matrix();
            let r = parameters.expect(&right).matrix();
            let (phi, singular_values) = redecompose(l, r, phase.rank);
            spectra.insert(name.clone(), singular_values);
            if phase.index > 0 {
                // The moments belong to directions that are no more.
                replace(parameters, &left, phi.l);
                replace(parameters, &right, phi.r);
            }
        }
        Some(spectra).filter(|spectra| !spectra.is_empty())
    }

    /// A layer's quantizer alone.
    fn bare(&self, parameters: &Parameters, name: &str) -> TrainedLayer {
        TrainedLayer {
            quantizer: self.layers[name].quantizer,
            weight: parameters.expect(&named(name, "weight")).matrix(),
            scale: parameters.expect(&named(name, SCALE)).value.clone(),
            zero_point: parameters.expect(&named(name, ZERO_POINT)).value.clone(),
            addition: None,
        }
    }

    fn trained(&self, parameters: &Parameters, name: &str) -> TrainedLayer {
        let factors = || {
            let left = parameters.get(&named(name, LEFT))?.matrix();
            Some((left, parameters.get(&named(name, RIGHT))?.matrix()))
        };
        let addition = match self.auxiliary {
            Auxiliary::None => None,
            Auxiliary::Lora { .. } => factors().map(|(b, a)| Addition::Lora { b, a }),
            Auxiliary::Phi { .. } => self
                .gamma
                .clone()
                .filter(|_| self.phi_is_on)
                .and_then(|gamma| factors().map(|(l, r)| Addition::Phi { l, r, gamma })),
        };
        TrainedLayer { addition, ..self.bare(parameters, name) }
    }

    pub(super) fn layer<'a>(
        &'a self,
        parameters: &'a Parameters,
        name: &'a str,
    ) -> Option<LayerView<'a>> {
        let widths = self.layers.get(name)?;
        let scheme = Scheme::Asymmetric;
        let activations =
            widths.activations.map(|bits| FakeQuantTokens { bits, scheme, clip_ratio: 1.0 });
        let clips_name = named(name, CLIPS);
        let device = parameters.expect(&named(name, "weight")).value.device();
        let clips = match parameters.get(&clips_name) {
            Some(clips) => clips.value.clone(),
            None => Tensor::zeros([2], &device),
        };
        Some(LayerView { parameters, layers: self, name, activations, clips_name, clips })
    }

    /// Turns the gradients of effective weights into those of weights, scales, zero points and
    /// low-rank factors.
    pub fn backward(&self, parameters: &Parameters, gradients: &mut GradientMap) {
        for (name, widths) in &self.layers {
            let weight = named(name, "weight");
            let Some(gradient) = gradients.remove(&weight) else { continue };
            let (rows, columns) = (widths.out_features, widths.in_features);
            let layer = self.trained(parameters, name).backward(gradient.reshape([rows, columns]));
            gradients.insert(weight, layer.weight.reshape([rows * columns]));
            gradients.insert(named(name, SCALE), layer.scale);
            gradients.insert(named(name, ZERO_POINT), layer.zero_point);
            if let Some((left, right)) = layer.addition {
                for (suffix, factor) in [(LEFT, left), (RIGHT, right)] {
                    let len: usize = factor.dims().iter().product();
                    gradients.insert(named(name, suffix), factor.reshape([len]));
                }
            }
        }
    }

    /// The codes of layer `name`, without Φ, and how they are to be multiplied; `None` if the
    /// layer is not quantized.
    pub fn packed(&self, parameters: &Parameters, name: &str) -> Option<(PackedRows, LayerSpec)> {
        let widths = self.layers.get(name)?;
        let WeightQuantizer { bits, scheme } = widths.quantizer;
        let layer = self.trained(parameters, name);
        let grids: Vec<Grid> = host(layer.scale.clone())
            .into_iter()
            .zip(host(layer.zero_point.clone()))
            .map(|(scale, zero_point)| Grid { scale, zero_point })
            .collect();
        let columns = widths.in_features;
        let weight = host(layer.latent_weight().reshape([widths.out_features * columns]));
        let rows = PackedRows::of_grids(&weight, columns, bits, scheme, &grids);
        Some((rows, self.spec(parameters, name)?))
    }

    /// How layer `name` is to be multiplied once it is packed; `None` if it is not quantized.
    pub fn spec(&self, parameters: &Parameters, name: &str) -> Option<LayerSpec> {
        let widths = self.layers.get(name)?;
        let WeightQuantizer { bits, scheme } = widths.quantizer;
        let activations = widths.activations.map(|bits| {
            let clips = parameters.expect(&named(name, CLIPS)).value.clone();
            let factors = host(clip_factors(clips, 1.0));
            let (clip_upper, clip_lower) = (factors[0], factors[1]);
            let range = TokenRange::Dynamic { clip_upper, clip_lower };
            TokenSpec { bits, scheme: Scheme::Asymmetric, range }
        });
        let calibration = Calibration::Mse;
        let weights = WeightSpec { bits, scheme, group_size: None, calibration };
        Some(LayerSpec { weights, activations })
    }
}

/// A LoRA is trained instead of the model, not beside it.
fn freeze_model(parameters: &mut Parameters) {
    for (_, parameter) in parameters.iter_mut() {
        if parameter.group == Group::Weights {
            parameter.group = Group::Frozen;
        }
    }
}

fn replace(parameters: &mut Parameters, name: &str, value: Tensor<2>) {
    if let Some(parameter) = parameters.get_mut(name) {
        parameter.reset(value);
    }
}

/// Keeps the first `len` columns or rows of a matrix, and of its moments.
fn cut(parameters: &mut Parameters, name: &str, axis: usize, len: usize) {
    let Some(parameter) = parameters.get_mut(name) else { return };
    let shape = [parameter.shape[0], parameter.shape[1]];
    parameter.value = narrow(parameter.value.clone(), shape, axis, len);
    parameter.moments =
        parameter.moments.take().map(|moments| moments.map(|x| narrow(x, shape, axis, len)));
    parameter.average = parameter.average.take().map(|x| narrow(x, shape, axis, len));
    parameter.shape[axis] = len;
}

/// The first `len` columns or rows of the matrix of `shape` whose elements are `x`.
fn narrow(x: Tensor<1>, shape: [usize; 2], axis: usize, len: usize) -> Tensor<1> {
    let elements = shape[0] * shape[1] / shape[axis] * len;
    x.reshape(shape).narrow(axis, 0, len).reshape([elements])
}

/// The values of a tensor; the device was checked when the run began, so losing it is a panic.
fn host(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("f32 values")
}
