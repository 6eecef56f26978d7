//! `AdamW` over groups of parameters, with warm-up, cosine decay and clipping of the global norm.

use super::parameters::{Group, Parameters};
use super::source::GradientMap;
use crate::kernels::adamw::{AdamWStep, adamw};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// Settings of the optimizer; the defaults are QVGen's (released training scripts).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerSettings {
    /// Learning rate of weights, biases, norms and tables.
    pub learning_rate: f64,
    /// Learning rate of scales and zero points.
    pub scale_learning_rate: f64,
    /// Learning rate of the factors of Φ or of a LoRA.
    pub low_rank_learning_rate: f64,
    /// Learning rate of the logits of the activations' clips.
    pub clip_learning_rate: f64,
    /// Share of the steps over which learning rates rise from 0.
    pub warmup: f64,
    /// Learning rate at the end, as a share of the highest.
    pub final_share: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay, of all groups.
    pub weight_decay: f64,
    /// Largest norm of all gradients together; larger ones are scaled down.
    pub max_gradient_norm: f64,
    /// Decay of an exponential moving average of the parameters; absent for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average_decay: Option<f64>,
}

impl Default for OptimizerSettings {
    fn default() -> Self {
        Self {
            learning_rate: 3e-5,
            scale_learning_rate: 3e-5,
            low_rank_learning_rate: 3e-5,
            clip_learning_rate: 1e-2,
            warmup: 0.1,
            final_share: 0.0,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 1e-4,
            max_gradient_norm: 1.0,
            average_decay: None,
        }
    }
}

impl OptimizerSettings {
    /// Share of the highest learning rate at `step` of `steps`: linear up, then half a cosine down.
    pub fn rate_share(&self, step: usize, steps: usize) -> f64 {
        let warmup = (self.warmup * steps as f64).round().max(1.0);
        let at = (step + 1) as f64;
        if at <= warmup {
            return at / warmup;
        }
        let over = (at - warmup) / (steps as f64 - warmup).max(1.0);
        let cosine = (1.0 + (PI * over.min(1.0)).cos()) / 2.0;
        self.final_share + (1.0 - self.final_share) * cosine
    }

    fn rate(&self, group: Group) -> f64 {
        match group {
            Group::Weights => self.learning_rate,
            Group::Scales => self.scale_learning_rate,
            Group::LowRank => self.low_rank_learning_rate,
            Group::Clips => self.clip_learning_rate,
            Group::Frozen => 0.0,
        }
    }

    /// Updates `parameters` by the sum of the gradients of `examples` examples at `step` (from 0)
    /// of `steps`. `norm` is that of the mean gradient.
    ///
    /// Moments that a phase of rank decay has reset start again from zero, but are corrected as
    /// if they had run since the first step, which only makes their first updates smaller.
    pub fn update(
        &self,
        parameters: &mut Parameters,
        gradients: &GradientMap,
        norm: f64,
        examples: usize,
        (step, steps): (usize, usize),
    ) {
        let share = self.rate_share(step, steps);
        let clip = if norm > self.max_gradient_norm { self.max_gradient_norm / norm } else { 1.0 };
        for (name, parameter) in parameters.iter_mut() {
            if parameter.group == Group::Frozen {
                continue;
            }
            let Some(gradient) = gradients.get(name) else { continue };
            let zeros = || Tensor::zeros_like(&parameter.value);
            let [m, v] = parameter.moments.take().unwrap_or_else(|| [zeros(), zeros()]);
            let settings = AdamWStep {
                step: step as u64 + 1,
                learning_rate: self.rate(parameter.group) * share,
                beta1: self.beta1,
                beta2: self.beta2,
                eps: self.epsilon,
                weight_decay: self.weight_decay,
                grad_scale: clip / examples as f64,
            };
            let (value, m, v) = adamw(parameter.value.clone(), gradient.clone(), m, v, settings);
            if let Some(decay) = self.average_decay {
                let average = parameter.average.take().unwrap_or_else(|| parameter.value.clone());
                parameter.average = Some(average * decay + value.clone() * (1.0 - decay));
            }
            parameter.value = value;
            parameter.moments = Some([m, v]);
        }
    }
}

/// Sum of the squares of all gradients, a tensor of one element.
pub(crate) fn square_sum(gradients: &GradientMap) -> Option<Tensor<1>> {
    gradients.values().map(|g| (g.clone() * g.clone()).sum()).reduce(|a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_linearly_and_falls_by_a_cosine() {
        let settings = OptimizerSettings::default();
        let share = |step| settings.rate_share(step, 100);
        assert!((share(0) - 0.1).abs() < 1e-12);
        assert!((share(9) - 1.0).abs() < 1e-12);
        assert!((share(54) - 0.5).abs() < 0.01);
        assert!(share(99) < 1e-6);
        let one_step = settings.rate_share(0, 1);
        assert!(one_step.is_finite() && one_step > 0.0);
    }
}
