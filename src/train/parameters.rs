//! What is trained: named tensors, each with its optimizer state.

use crate::nn::{WeightError, WeightSource};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Parameters that share a learning rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Weights, biases, norms and tables of the model.
    Weights,
    /// Scales and zero points of weight quantizers.
    Scales,
    /// Factors of Φ or of a LoRA.
    LowRank,
    /// Logits of the activations' clips.
    Clips,
    /// Not trained.
    Frozen,
}

/// One tensor in training; values are full-precision masters, elements in one row.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// The elements.
    pub value: Tensor<1>,
    /// Shape in a checkpoint.
    pub shape: Vec<usize>,
    /// Learning rate it follows.
    pub group: Group,
    /// First and second moment; absent before the first update.
    pub moments: Option<[Tensor<1>; 2]>,
    /// Exponential moving average of the values, where one is kept.
    pub average: Option<Tensor<1>>,
}

impl Parameter {
    /// A parameter that was not updated yet.
    ///
    /// # Panics
    ///
    /// If `value` has not as many elements as `shape`.
    pub fn new(value: Tensor<1>, shape: Vec<usize>, group: Group) -> Self {
        let len: usize = shape.iter().product();
        assert_eq!(value.dims()[0], len, "a parameter of shape {shape:?}");
        Self { value, shape, group, moments: None, average: None }
    }

    /// The values as a matrix.
    ///
    /// # Panics
    ///
    /// If the shape has not two dimensions.
    pub fn matrix(&self) -> Tensor<2> {
        let shape: [usize; 2] = self.shape.as_slice().try_into().unwrap_or_else(|_| {
            panic!("a parameter of shape {:?} is no matrix", self.shape);
        });
        self.value.clone().reshape(shape)
    }

    /// Replaces the values; moments and average of the old ones are forgotten.
    pub fn reset<const D: usize>(&mut self, value: Tensor<D>) {
        self.shape = value.dims().to_vec();
        let len: usize = self.shape.iter().product();
        self.value = value.reshape([len]);
        self.moments = None;
        self.average = None;
    }
}

/// Parameters by name.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    entries: BTreeMap<String, Parameter>,
}

impl Parameters {
    /// The tensors `shapes` of `source`, placed on `device` (one without autodiff).
    ///
    /// # Errors
    ///
    /// If a tensor is missing or unusable.
    pub fn load(
        source: &dyn WeightSource,
        shapes: &[(String, Vec<usize>)],
        device: &Device,
    ) -> Result<Self, WeightError> {
        let mut parameters = Self::default();
        for (name, shape) in shapes {
            let value = source.tensor(name, shape, device)?;
            parameters.insert(name.clone(), Parameter::new(value, shape.clone(), Group::Weights));
        }
        Ok(parameters)
    }

    /// Adds or replaces a parameter.
    pub fn insert(&mut self, name: impl Into<String>, parameter: Parameter) {
        self.entries.insert(name.into(), parameter);
    }

    /// Adds a parameter of `values`.
    ///
    /// # Panics
    ///
    /// If there are not as many values as `shape` says.
    pub fn insert_values(
        &mut self,
        name: impl Into<String>,
        values: Vec<f32>,
        shape: &[usize],
        group: Group,
        device: &Device,
    ) {
        let len = values.len();
        let value = Tensor::from_data(TensorData::new(values, [len]), device);
        self.insert(name, Parameter::new(value, shape.to_vec(), group));
    }

    /// Removes a parameter.
    pub fn remove(&mut self, name: &str) -> Option<Parameter> {
        self.entries.remove(name)
    }

    /// The parameter of that name.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.entries.get(name)
    }

    /// The parameter of that name, to change it.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Parameter> {
        self.entries.get_mut(name)
    }

    /// The parameter of that name, which the caller put there.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn expect(&self, name: &str) -> &Parameter {
        self.get(name).unwrap_or_else(|| panic!("no parameter \"{name}\""))
    }

    /// All parameters in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Parameter)> {
        self.entries.iter().map(|(name, parameter)| (name.as_str(), parameter))
    }

    /// All parameters, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Parameter)> {
        self.entries.iter_mut().map(|(name, parameter)| (name.as_str(), parameter))
    }

    /// Number of trained and of all elements.
    pub fn counts(&self) -> (usize, usize) {
        let of = |parameter: &Parameter| parameter.value.dims()[0];
        let all = self.entries.values().map(of).sum();
        let trained = self.entries.values().filter(|p| p.group != Group::Frozen).map(of).sum();
        (trained, all)
    }
}

/// A tensor that was asked for under a name the parameters do not have.
pub(super) fn missing(name: &str) -> WeightError {
    WeightError::Missing { tensor: name.to_owned(), path: PathBuf::from("the model in training") }
}
