//! Where parameters come from: a checkpoint, a packed folder, a quantizer in between, or a test.
//!
//! A model asks for tensors by the names of the published checkpoint and never learns in which
//! precision they were stored: [`Weights::linear`] hands back whichever [`Linear`] the source has.

use super::{ConvPrecision, HostWeights, Linear, RunClock};
use burn::tensor::{Device, Tensor, TensorData};
use std::path::PathBuf;

/// Why a parameter could not be had; messages name tensor and file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightError {
    /// The checkpoint has no tensor of that name.
    #[error("tensor \"{tensor}\" is missing in {}", path.display())]
    Missing {
        /// Full name.
        tensor: String,
        /// File or folder searched.
        path: PathBuf,
    },
    /// The tensor has another shape than the configuration implies.
    #[error("tensor \"{tensor}\" has shape {actual:?}, expected {expected:?} in {}", path.display())]
    Shape {
        /// Full name.
        tensor: String,
        /// Shape in the file.
        actual: Vec<usize>,
        /// Shape the configuration implies.
        expected: Vec<usize>,
        /// File that holds it.
        path: PathBuf,
    },
    /// A stored value is NaN or infinite.
    #[error("tensor \"{tensor}\" holds {value} at element {index}; the file is damaged: {}", path.display())]
    NotFinite {
        /// Full name.
        tensor: String,
        /// The offending value.
        value: f32,
        /// Flat position.
        index: usize,
        /// File that holds it.
        path: PathBuf,
    },
    /// Anything else the source reports, in its own words.
    #[error("tensor \"{tensor}\": {message} in {}", path.display())]
    Unusable {
        /// Full name.
        tensor: String,
        /// What is wrong and what to do.
        message: String,
        /// File that holds it.
        path: PathBuf,
    },
}

/// A set of named parameters.
pub trait WeightSource {
    /// Whether a tensor of this name exists.
    fn has(&self, name: &str) -> bool;

    /// The values of tensor `name` as f32, row-major.
    ///
    /// # Errors
    ///
    /// If it is missing, not of `shape`, or holds values that are not finite.
    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError>;

    /// Tensor `name` on `device`, its elements in one row.
    ///
    /// A source of parameters in training hands out tensors that gradients are asked of.
    ///
    /// # Errors
    ///
    /// As [`WeightSource::values`].
    fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        device: &Device,
    ) -> Result<Tensor<1>, WeightError> {
        let values = self.values(name, shape)?;
        let len = values.len();
        Ok(Tensor::from_data(TensorData::new(values, [len]), device))
    }

    /// Some rows of the two-dimensional tensor `name`, without reading the others.
    ///
    /// # Errors
    ///
    /// As [`WeightSource::values`].
    fn rows(&self, name: &str, shape: [usize; 2], rows: &[usize]) -> Result<Vec<f32>, WeightError>;

    /// The linear layer `name` (`name.weight [out_features, in_features]`, `name.bias`).
    ///
    /// # Errors
    ///
    /// As [`WeightSource::values`].
    fn linear(
        &self,
        name: &str,
        out_features: usize,
        in_features: usize,
        has_bias: bool,
        device: &Device,
    ) -> Result<Linear, WeightError>;
}

/// A [`WeightSource`] seen from one place in the tree of modules.
#[derive(Clone)]
pub struct Weights<'a> {
    source: &'a dyn WeightSource,
    prefix: String,
    device: Device,
    clock: RunClock,
    conv_precision: ConvPrecision,
}

impl std::fmt::Debug for Weights<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Weights").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl<'a> Weights<'a> {
    /// The root of `source`; tensors are placed on `device`.
    pub fn new(source: &'a dyn WeightSource, device: &Device) -> Self {
        Self {
            source,
            prefix: String::new(),
            device: device.clone(),
            clock: RunClock::default(),
            conv_precision: ConvPrecision::default(),
        }
    }

    /// The same for layers that ask `clock` where in a run they are.
    #[must_use]
    pub fn with_clock(self, clock: &RunClock) -> Self {
        Self { clock: clock.clone(), ..self }
    }

    /// What the layers ask where in a run they are.
    pub fn clock(&self) -> &RunClock {
        &self.clock
    }

    /// The same for convolutions of that precision.
    #[must_use]
    pub fn with_conv_precision(self, conv_precision: ConvPrecision) -> Self {
        Self { conv_precision, ..self }
    }

    /// The precision in which convolutions are loaded.
    pub fn conv_precision(&self) -> ConvPrecision {
        self.conv_precision
    }

    /// The parameters under `name.`.
    #[must_use]
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Self { prefix: format!("{}{name}.", self.prefix), ..self.clone() }
    }

    /// Where tensors are placed.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether tensor `name` exists here.
    pub fn has(&self, name: &str) -> bool {
        self.source.has(&self.full(name))
    }

    /// What `load` returns, and a copy in host memory of everything it asked for.
    ///
    /// # Errors
    ///
    /// What `load` returns, or if the device fails.
    pub fn record<T>(
        &self,
        load: impl FnOnce(&Weights<'_>) -> Result<T, WeightError>,
    ) -> Result<(HostWeights, T), WeightError> {
        HostWeights::record(self.source, |source| load(&Weights { source, ..self.clone() }))
    }

    /// Tensor `name` as f32 values.
    ///
    /// # Errors
    ///
    /// See [`WeightSource::values`].
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError> {
        self.source.values(&self.full(name), shape)
    }

    /// Tensor `name` on the device.
    ///
    /// # Errors
    ///
    /// See [`WeightSource::values`].
    pub fn tensor<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, WeightError> {
        Ok(self.tensor_of(name, &shape)?.reshape(shape))
    }

    /// Tensor `name` of `shape` on the device, its elements in one row.
    ///
    /// # Errors
    ///
    /// See [`WeightSource::values`].
    pub fn tensor_of(&self, name: &str, shape: &[usize]) -> Result<Tensor<1>, WeightError> {
        self.source.tensor(&self.full(name), shape, &self.device)
    }

    /// Some rows of tensor `name` as f32 values.
    ///
    /// # Errors
    ///
    /// See [`WeightSource::rows`].
    pub fn rows(
        &self,
        name: &str,
        shape: [usize; 2],
        rows: &[usize],
    ) -> Result<Vec<f32>, WeightError> {
        self.source.rows(&self.full(name), shape, rows)
    }

    /// The linear layer `name` with a bias.
    ///
    /// # Errors
    ///
    /// See [`WeightSource::linear`].
    pub fn linear(
        &self,
        name: &str,
        out_features: usize,
        in_features: usize,
    ) -> Result<Linear, WeightError> {
        self.linear_of(name, out_features, in_features, true)
    }

    /// The linear layer `name` without a bias.
    ///
    /// # Errors
    ///
    /// See [`WeightSource::linear`].
    pub fn linear_without_bias(
        &self,
        name: &str,
        out_features: usize,
        in_features: usize,
    ) -> Result<Linear, WeightError> {
        self.linear_of(name, out_features, in_features, false)
    }

    fn linear_of(
        &self,
        name: &str,
        out_features: usize,
        in_features: usize,
        has_bias: bool,
    ) -> Result<Linear, WeightError> {
        let name = self.full(name);
        let linear =
            self.source.linear(&name, out_features, in_features, has_bias, &self.device)?;
        Ok(linear.with_clock(&self.clock))
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}
