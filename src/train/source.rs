//! Parameters in training as a model loads them: with or without gradients.
//!
//! A model is built anew for every pass from the tensors of this source, which costs nothing but
//! handles, so the very structures of inference are what is trained.

use super::parameters::{Parameters, missing};
use super::student::QuantizedLayers;
use crate::nn::{FullLinear, Linear, QuantAwareLinear, WeightError, WeightSource};
use burn::tensor::{Device, Gradients, Tensor};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Gradients by parameter, elements in one row. A quantized layer's `weight` stands for its
/// effective weight until [`QuantizedLayers::backward`] takes it apart.
pub type GradientMap = BTreeMap<String, Tensor<1>>;

/// Adds `more` to `sum`.
pub(super) fn accumulate(sum: &mut GradientMap, more: GradientMap) {
    for (name, gradient) in more {
        let total = match sum.remove(&name) {
            Some(total) => total + gradient,
            None => gradient,
        };
        sum.insert(name, total);
    }
}

/// A [`WeightSource`] over [`Parameters`].
#[derive(Debug)]
pub struct ParameterSource<'a> {
    parameters: &'a Parameters,
    layers: Option<&'a QuantizedLayers>,
    /// Tensors that gradients are asked of, where there is a graph.
    leaves: Option<RefCell<BTreeMap<String, Tensor<1>>>>,
}

impl<'a> ParameterSource<'a> {
    /// Tensors without gradients, for a device without autodiff.
    pub fn plain(parameters: &'a Parameters, layers: Option<&'a QuantizedLayers>) -> Self {
        Self { parameters, layers, leaves: None }
    }

    /// Tensors with gradients, for an autodiff device.
    pub fn graph(parameters: &'a Parameters, layers: Option<&'a QuantizedLayers>) -> Self {
        Self { parameters, layers, leaves: Some(RefCell::default()) }
    }

    /// The gradients of the tensors that were handed out.
    pub fn gradients(&self, gradients: &Gradients) -> GradientMap {
        let Some(leaves) = &self.leaves else { return GradientMap::new() };
        leaves
            .borrow()
            .iter()
            .filter_map(|(name, leaf)| Some((name.clone(), leaf.grad(gradients)?)))
            .collect()
    }

    /// `value` as it is, or as the leaf `name` of the graph.
    fn hand_out(&self, name: &str, value: impl FnOnce() -> Tensor<1>) -> Tensor<1> {
        let Some(leaves) = &self.leaves else { return value() };
        let mut leaves = leaves.borrow_mut();
        let leaf = || Tensor::from_inner(value()).require_grad();
        leaves.entry(name.to_owned()).or_insert_with(leaf).clone()
    }

    fn parameter(&self, name: &str, shape: &[usize]) -> Result<Tensor<1>, WeightError> {
        let parameter = self.parameters.get(name).ok_or_else(|| missing(name))?;
        assert_eq!(parameter.shape, shape, "shape of \"{name}\"");
        Ok(self.hand_out(name, || parameter.value.clone()))
    }
}

impl WeightSource for ParameterSource<'_> {
    fn has(&self, name: &str) -> bool {
        self.parameters.get(name).is_some()
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError> {
        let tensor = self.parameter(name, shape)?;
        let data = tensor.into_data().try_to_vec::<f32>();
        data.map_err(|err| WeightError::Unusable {
            tensor: name.to_owned(),
            message: err.to_string(),
            path: "the model in training".into(),
        })
    }

    fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        _device: &Device,
    ) -> Result<Tensor<1>, WeightError> {
        self.parameter(name, shape)
    }

    fn rows(&self, name: &str, shape: [usize; 2], rows: &[usize]) -> Result<Vec<f32>, WeightError> {
        let values = self.values(name, &shape)?;
        let row = |&row: &usize| &values[row * shape[1]..(row + 1) * shape[1]];
        Ok(rows.iter().flat_map(row).copied().collect())
    }

    fn linear(
        &self,
        name: &str,
        out_features: usize,
        in_features: usize,
        has_bias: bool,
        _device: &Device,
    ) -> Result<Linear, WeightError> {
        let bias = has_bias.then(|| self.parameter(&format!("{name}.bias"), &[out_features]));
        let bias = bias.transpose()?;
        let weight_name = format!("{name}.weight");
        let Some(layer) = self.layers.and_then(|layers| layers.layer(self.parameters, name)) else {
            let weight = self.parameter(&weight_name, &[out_features, in_features])?;
            let weight = weight.reshape([out_features, in_features]);
            return Ok(Linear::Full(FullLinear::from_tensors(weight, bias)));
        };
        let len = out_features * in_features;
        let weight = self.hand_out(&weight_name, || layer.effective_weight().reshape([len]));
        let weight = weight.reshape([out_features, in_features]);
        let activations = layer.activations.map(|spec| {
            let clips = self.hand_out(&layer.clips_name, || layer.clips.clone());
            (spec, clips)
        });
        Ok(Linear::QuantAware(QuantAwareLinear::new(weight, bias, activations)))
    }
}
