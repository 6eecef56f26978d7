//! A full-precision layer that shows what it reads, for methods that calibrate on it, and lets its
//! result be changed.

use super::{FullLinear, LinearInput, RunClock};
use crate::quant::RunStep;
use burn::tensor::Tensor;
use std::fmt::Debug;
use std::sync::Arc;

/// Sees what layers read.
pub trait InputObserver: Debug + Send + Sync {
    /// Layer `name` is about to read `x` at `step` of a run; a long sequence comes in several calls,
    /// in token order.
    fn observe(&self, name: &str, x: &LinearInput, step: RunStep);

    /// What becomes of the result `y` `[tokens, out_features]` of layer `name`: `y` itself, unless
    /// the effect of a change is to be seen.
    fn alter(&self, name: &str, y: Tensor<2>) -> Tensor<2> {
        let _ = name;
        y
    }
}

/// A full-precision layer and who observes it.
#[derive(Clone, Debug)]
pub struct ObservedLinear {
    pub(super) full: FullLinear,
    pub(super) observed: Observed,
}

/// Who observes a layer, and under which name.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    name: Arc<str>,
    observer: Arc<dyn InputObserver>,
    pub(super) clock: RunClock,
}

impl ObservedLinear {
    pub(super) fn new(full: FullLinear, name: &str, observer: Arc<dyn InputObserver>) -> Self {
        let observed = Observed { name: name.into(), observer, clock: RunClock::default() };
        Self { full, observed }
    }

    pub(super) fn forward(&self, x: &LinearInput) -> Tensor<2> {
        let Observed { name, observer, clock } = &self.observed;
        observer.observe(name, x, clock.now());
        observer.alter(name, self.full.forward(x.values(), None))
    }
}
