//! Where in a run a model is, shared by the layers whose quantizers depend on it.

use crate::quant::RunStep;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

/// A counter of steps and forward passes that a model sets and its layers read.
///
/// Clones are the same clock. A model serves one run at a time if its layers depend on the step;
/// others may be used by several at once.
#[derive(Clone, Debug, Default)]
pub struct RunClock(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// Forward passes begun.
    calls: AtomicUsize,
    /// The one at work or, between the beginning of a step and its first, the next.
    call: AtomicUsize,
    /// Steps begun.
    steps: AtomicUsize,
    /// The timestep's bits.
    timestep: AtomicU32,
    /// Whether some layer depends on all this.
    is_read: AtomicBool,
}

impl RunClock {
    /// Begins a run.
    pub fn restart(&self) {
        self.0.calls.store(0, Ordering::Relaxed);
        self.0.call.store(0, Ordering::Relaxed);
        self.0.steps.store(0, Ordering::Relaxed);
    }

    /// Begins a step at `timestep`, in 0 to 1000: what its forward passes share belongs to the
    /// first of them.
    pub fn begin_step(&self, timestep: f32) {
        self.0.call.store(self.0.calls.load(Ordering::Relaxed), Ordering::Relaxed);
        self.0.steps.fetch_add(1, Ordering::Relaxed);
        self.0.timestep.store(timestep.to_bits(), Ordering::Relaxed);
    }

    /// Begins a forward pass of the step begun last.
    pub fn begin_call(&self) {
        self.0.call.store(self.0.calls.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Says that a layer depends on the step.
    pub(super) fn mark_read(&self) {
        self.0.is_read.store(true, Ordering::Relaxed);
    }

    /// Whether some layer depends on the step: then the model serves one run at a time.
    pub fn is_read(&self) -> bool {
        self.0.is_read.load(Ordering::Relaxed)
    }

    /// The step and forward pass begun last.
    pub fn now(&self) -> RunStep {
        RunStep {
            call: self.0.call.load(Ordering::Relaxed),
            step: self.0.steps.load(Ordering::Relaxed).saturating_sub(1),
            timestep: f32::from_bits(self.0.timestep.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_are_one_clock_and_count_from_zero() {
        let clock = RunClock::default();
        let layer = clock.clone();
        assert_eq!(layer.now(), RunStep::default());
        clock.begin_step(900.0);
        clock.begin_call();
        assert_eq!(layer.now(), RunStep { call: 0, step: 0, timestep: 900.0 });
        clock.begin_call();
        assert_eq!(layer.now().call, 1);
        clock.begin_step(800.0);
        assert_eq!(layer.now().call, 2);
        clock.begin_call();
        assert_eq!(layer.now(), RunStep { call: 2, step: 1, timestep: 800.0 });
        clock.restart();
        assert_eq!((layer.now().call, layer.now().step), (0, 0));
    }
}
