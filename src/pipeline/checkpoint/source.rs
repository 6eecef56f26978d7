//! A checkpoint as the parameters of a model.

use super::{CheckpointError, Dtype, Lora, TensorSpec, Tensors};
use crate::nn::{FullLinear, Linear, WeightError, WeightSource};
use burn::tensor::Device;
use std::path::Path;
use std::sync::Arc;

/// Elements one device tensor holds unless said otherwise: 128 MiB of f32, what every WebGPU
/// adapter can bind.
pub const DEFAULT_MAX_ELEMENTS: usize = 32 << 20;

/// Full-precision parameters from files, with every [`Lora`] added.
#[derive(Debug)]
pub struct Checkpoint {
    tensors: Tensors,
    /// `(asked for, stored as)`.
    aliases: Vec<(String, String)>,
    loras: Arc<Vec<Lora>>,
    max_elements: usize,
}

impl Checkpoint {
    /// Opens a `.safetensors` or `.gguf` file, or the `.json` index of several.
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

    /// Adds `loras` to the parameters that they change, in that order.
    #[must_use]
    pub fn with_loras(mut self, loras: Arc<Vec<Lora>>) -> Self {
        self.loras = loras;
        self
    }

    /// What is added.
    pub fn loras(&self) -> &[Lora] {
        &self.loras
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

    /// How tensor `name` is written to a safetensors file: as it is stored where that is possible,
    /// else, if it is stored in blocks or a LoRA changes it, in f32.
    pub fn copy_spec(&self, name: &str) -> Option<TensorSpec> {
        let info = self.tensors.info(name)?;
        let dtype = info.dtype().plain().filter(|_| !self.is_changed(name)).unwrap_or(Dtype::F32);
        Some(TensorSpec { name: name.to_owned(), dtype, shape: info.shape().to_vec() })
    }

    /// The bytes of tensor `name` as [`Checkpoint::copy_spec`] says.
    ///
    /// # Errors
    ///
    /// If there is no such tensor, it cannot be read, or stands for a number that is not finite.
    pub fn copy_bytes(&self, name: &str) -> Result<Vec<u8>, WeightError> {
        let failed = |err: CheckpointError| err.into_weight_error(name);
        let info = self.tensors.info(name);
        let converts = info.is_some_and(|info| info.dtype().plain().is_none());
        match info {
            Some(info) if converts || self.is_changed(name) => {
                let values = self.values(name, info.shape())?;
                Ok(values.iter().flat_map(|value| value.to_le_bytes()).collect())
            }
            _ => {
                if info.is_some_and(|info| info.dtype().is_float()) {
                    self.tensors.floats(name).map_err(failed)?; // refuses what is not finite
                }
                Ok(self.tensors.raw(name).map_err(failed)?.bytes)
            }
        }
    }

    fn is_changed(&self, name: &str) -> bool {
        self.loras.iter().any(|lora| lora.changes(name))
    }

    /// Adds every [`Lora`] to the given rows of the parameter `name`.
    fn add_loras(&self, name: &str, rows: &[usize], values: &mut [f32]) -> Result<(), WeightError> {
        if !self.is_changed(name) {
            return Ok(());
        }
        for lora in self.loras.iter() {
            lora.add_to(name, rows, values).map_err(|err| err.into_weight_error(name))?;
        }
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(()),
            Some(index) => Err(WeightError::Unusable {
                tensor: name.to_owned(),
                message: format!("is {} at element {index} with the LoRA added", values[index]),
                path: self.tensors.path_of(name).to_owned(),
            }),
        }
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
        let loras = Arc::default();
        Self { tensors, aliases: Vec::new(), loras, max_elements: DEFAULT_MAX_ELEMENTS }
    }
}

impl WeightSource for Checkpoint {
    fn has(&self, name: &str) -> bool {
        self.tensors.info(self.stored(name)).is_some()
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError> {
        let stored = self.checked(name, shape)?;
        let mut values =
            self.tensors.floats(stored).map_err(|err| err.into_weight_error(stored))?;
        let rows: Vec<usize> = (0..shape.first().copied().unwrap_or(1)).collect();
        self.add_loras(stored, &rows, &mut values)?;
        Ok(values)
    }

    fn rows(&self, name: &str, shape: [usize; 2], rows: &[usize]) -> Result<Vec<f32>, WeightError> {
        let stored = self.checked(name, &shape)?;
        let mut values =
            self.tensors.float_rows(stored, rows).map_err(|err| err.into_weight_error(stored))?;
        self.add_loras(stored, rows, &mut values)?;
        Ok(values)
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
