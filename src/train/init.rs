//! First values of a transformer that is trained from nothing.

use super::parameters::{Group, Parameters};
use super::random::{Purpose, key, normal};
use crate::models::DenoiserConfig;
use burn::tensor::Device;

/// Random parameters of a transformer of `config`.
///
/// Linear layers keep the size of their input; what scales a residual branch and the last layer
/// start at zero, so that the model begins as the identity (adaLN-Zero; Peebles and Xie,
/// arXiv:2212.09748).
pub fn random_parameters(config: &dyn DenoiserConfig, seed: u64, device: &Device) -> Parameters {
    let mut parameters = Parameters::default();
    for (index, (name, shape)) in config.parameter_shapes().iter().enumerate() {
        let len: usize = shape.iter().product();
        let starts_at_zero = name.ends_with(".bias") || config.starts_at_zero(name);
        let values = if starts_at_zero {
            vec![0.0; len]
        } else if name.contains("norm") {
            vec![1.0; len]
        } else {
            let inputs: usize = shape[1..].iter().product();
            let spread = (inputs.max(1) as f32).powf(-0.5);
            let key = key(seed, Purpose::Parameters, 2, index);
            normal(key, 0, len).into_iter().map(|value| value * spread).collect()
        };
        parameters.insert_values(name.clone(), values, shape, Group::Weights, device);
    }
    parameters
}
