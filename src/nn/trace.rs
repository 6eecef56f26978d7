//! Watching a model's intermediate values without the model keeping them.

use burn::tensor::Tensor;
use std::fmt::{Debug, Display, Formatter, Result};

/// Takes the name and the value of an intermediate tensor.
type Observer<'a> = &'a mut dyn FnMut(&str, Tensor<2>);

/// Where intermediate tensors go: nowhere, or to an observer.
///
/// An observer gets the name and the value. A long sequence arrives in several calls under one
/// name, in token order.
#[derive(Default)]
pub struct Trace<'a>(Option<Observer<'a>>);

impl Debug for Trace<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_tuple("Trace").field(&self.0.is_some()).finish()
    }
}

impl<'a> Trace<'a> {
    /// A trace that nobody reads.
    pub fn off() -> Self {
        Self(None)
    }

    /// A trace read by `observer`.
    pub fn to(observer: &'a mut dyn FnMut(&str, Tensor<2>)) -> Self {
        Self(Some(observer))
    }

    /// Shows `value` to the observer; `name` is written only if there is one.
    pub fn record(&mut self, name: impl Display, value: &Tensor<2>) {
        self.record_with(name, || value.clone());
    }

    /// Shows a value that is computed only if there is an observer: what the model itself never
    /// stores.
    pub fn record_with(&mut self, name: impl Display, value: impl FnOnce() -> Tensor<2>) {
        if let Some(observer) = &mut self.0 {
            observer(&name.to_string(), value());
        }
    }
}
