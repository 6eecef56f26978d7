//! Full-precision parameters whose layers show what they read.

use crate::nn::{InputObserver, Linear, WeightError, WeightSource};
use burn::tensor::{Device, Tensor};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The parameters of another source, with an observer at some of the layers.
pub(super) struct ObservingSource<'a> {
    source: &'a dyn WeightSource,
    layers: &'a BTreeSet<String>,
    observer: Arc<dyn InputObserver>,
}

impl<'a> ObservingSource<'a> {
    pub(super) fn new(
        source: &'a dyn WeightSource,
        layers: &'a BTreeSet<String>,
        observer: Arc<dyn InputObserver>,
    ) -> Self {
        Self { source, layers, observer }
    }
}

impl WeightSource for ObservingSource<'_> {
    fn has(&self, name: &str) -> bool {
        self.source.has(name)
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError> {
        self.source.values(name, shape)
    }

    fn tensor(
        &self,
        name: &str,
        shape: &[usize],
        device: &Device,
    ) -> Result<Tensor<1>, WeightError> {
        self.source.tensor(name, shape, device)
    }

    fn rows(&self, name: &str, shape: [usize; 2], rows: &[usize]) -> Result<Vec<f32>, WeightError> {
        self.source.rows(name, shape, rows)
    }

    fn linear(
        &self,
        name: &str,
        out_features: usize,
        in_features: usize,
        has_bias: bool,
        device: &Device,
    ) -> Result<Linear, WeightError> {
        let linear = self.source.linear(name, out_features, in_features, has_bias, device)?;
        Ok(if self.layers.contains(name) {
            linear.observed(name, self.observer.clone())
        } else {
            linear
        })
    }
}
