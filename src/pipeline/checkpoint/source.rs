//! A checkpoint as the parameters of a model.

use super::{CheckpointError, Tensors};
use crate::nn::{FullLinear, Linear, WeightError, WeightSource};
use burn::tensor::Device;
use std::path::Path;

/// Elements one device tensor holds unless said otherwise: 128 MiB of f32, what every WebGPU
/// adapter can bind.
pub const DEFAULT_MAX_ELEMENTS: usize = 32 << 20;

/// Full-precision parameters from safetensors files.
#[derive(Debug)]
pub struct Checkpoint {
    tensors: Tensors,
    /// `(asked for, stored as)`.
    aliases: Vec<(String, String)>,
    max_elements: usize,
}

impl Checkpoint {
    /// Opens a `.safetensors` file or the `.json` index of several.
    ///
    /// # Errors
    ///
    /// See [`Tensors::open`].
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Tensors::open(path).map(Self::from)
    }

    /// Lets `name` be found under `stored_name` where the files have no `name` itself.
    ///
    /// Tied parameters are saved once, under either of their names.
    #[must_use]
    pub fn with_alias(mut self, name: impl Into<String>, stored_name: impl Into<String>) -> Self {
        self.aliases.push((name.into(), stored_name.into()));
        self
    }

    /// Splits linear layers so that no tensor on the device exceeds `max_elements` values.
    #[must_use]
    pub fn with_max_elements(mut self, max_elements: usize) -> Self {
        self.max_elements = max_elements;
        self
    }

    /// Whether tensor `name` exists in this shape, by the headers alone.
    ///
    /// # Errors
    ///
    /// If it does not.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<(), WeightError> {
        self.checked(name, shape).map(drop)
    }

    /// The tensors as they are stored.
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// Elements one device tensor may hold.
    pub fn max_elements(&self) -> usize {
        self.max_elements
    }

    /// The stored name of `name`: itself, or the first alias that exists.
    fn stored<'a>(&'a self, name: &'a str) -> &'a str {
        let exists = |name: &str| self.tensors.info(name).is_some();
        if exists(name) {
            return name;
        }
        let mut aliases = self.aliases.iter().filter(|(asked, _)| asked == name);
        aliases.find(|(_, stored)| exists(stored)).map_or(name, |(_, stored)| stored)
    }

    /// The stored name, if the tensor exists in the shape `expected`.
    fn checked<'a>(&'a self, name: &'a str, expected: &[usize]) -> Result<&'a str, WeightError> {
        let stored = self.stored(name);
        match self.tensors.info(stored).map(|info| info.shape()) {
            None => Err(WeightError::Missing {
                tensor: name.to_owned(),
                path: self.tensors.path().to_owned(),
            }),
            Some(actual) if actual != expected => Err(WeightError::Shape {
                tensor: stored.to_owned(),
                actual: actual.to_vec(),
                expected: expected.to_vec(),
                path: self.tensors.path_of(stored).to_owned(),
            }),
            Some(_) => Ok(stored),
        }
    }
}

impl From<Tensors> for Checkpoint {
    fn from(tensors: Tensors) -> Self {
        Self { tensors, aliases: Vec::new(), max_elements: DEFAULT_MAX_ELEMENTS }
    }
}

impl WeightSource for Checkpoint {
    fn has(&self, name: &str) -> bool {
        self.tensors.info(self.stored(name)).is_some()
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError> {
        let stored = self.checked(name, shape)?;
        self.tensors.floats(stored).map_err(|err| err.into_weight_error(stored))
    }

    fn rows(&self, name: &str, shape: [usize; 2], rows: &[usize]) -> Result<Vec<f32>, WeightError> {
        let stored = self.checked(name, &shape)?;
        self.tensors.float_rows(stored, rows).map_err(|err| err.into_weight_error(stored))
    }

    fn linear(
        &self,
        name: &str,
        out_features: usize,
        in_features: usize,
        has_bias: bool,
        device: &Device,
    ) -> Result<Linear, WeightError> {
        let weight_name = format!("{name}.weight");
        let weight = self.values(&weight_name, &[out_features, in_features])?;
        if weight.is_empty() {
            return Err(WeightError::Unusable {
                message: format!("[{out_features}, {in_features}] is no linear layer"),
                path: self.tensors.path_of(&weight_name).to_owned(),
                tensor: weight_name,
            });
        }
        let bias = if has_bias {
            Some(self.values(&format!("{name}.bias"), &[out_features])?)
        } else {
            None
        };
        Ok(Linear::Full(FullLinear::new(&weight, bias, in_features, self.max_elements, device)))
    }
}
