//! How much of an error in one layer's output arrives at the model's prediction.
//!
//! Layers differ by orders of magnitude: what one writes is scaled by a gate close to zero, what
//! another writes is read by every block behind it. The full-precision model predicts at a few noise
//! levels of a sampled latent, once undisturbed and once for each layer with an error of known size
//! in that layer's output. The error looks like one of quantization: as large in each channel as the
//! channel, and of no sign that a later layer could make use of; it is another token's output with
//! signs at random.

use super::CalibrationJob;
use super::source::ObservingSource;
use crate::kernels::device::OpenDevice;
use crate::nn::{InputObserver, LinearInput};
use crate::pipeline::PipelineError;
use crate::pipeline::cancel::Cancel;
use crate::pipeline::checkpoint::ComponentKind;
use crate::pipeline::model::VideoModel;
use crate::pipeline::noise::standard_normal;
use crate::pipeline::noisy_latent::NoisyLatent;
use crate::pipeline::plan::Plan;
use crate::pipeline::sample::Sampler;
use crate::quant::RunStep;
use burn::tensor::{Device, Tensor, TensorData};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Shares of the way from data to noise at which the model predicts.
const LEVELS: [f64; 3] = [0.25, 0.6, 0.95];
/// Root of the relative square of the error: as that of 4 bits.
const ERROR: f64 = 0.1;

/// By layer, the relative square of the prediction's error over that of the layer's output.
pub type Sensitivities = BTreeMap<String, f64>;

/// Adds an error to the output of one layer at a time.
#[derive(Debug, Default)]
struct Disturber {
    layer: Mutex<Option<String>>,
}

impl Disturber {
    fn set(&self, layer: Option<&str>) {
        *self.layer.lock().unwrap_or_else(PoisonError::into_inner) = layer.map(str::to_owned);
    }
}

impl InputObserver for Disturber {
    fn observe(&self, _: &str, _: &LinearInput, _: RunStep) {}

    fn alter(&self, name: &str, y: Tensor<2>) -> Tensor<2> {
        let layer = self.layer.lock().unwrap_or_else(PoisonError::into_inner);
        if layer.as_deref() == Some(name) { disturbed(y) } else { y }
    }
}

/// `y` `[tokens, channels]` with an error of [`ERROR`] relative to it.
fn disturbed(y: Tensor<2>) -> Tensor<2> {
    let [tokens, channels] = y.dims();
    let device = y.device();
    let other = if tokens > 1 {
        let half = tokens / 2;
        let [first, rest] = [(0, half), (half, tokens - half)];
        let rows = |(start, len)| y.clone().narrow(0, start, len);
        Tensor::cat(vec![rows(rest), rows(first)], 0)
    } else {
        y.clone()
    };
    let signs = signs(tokens, 1, &device).reshape([tokens, 1])
        * signs(channels, 2, &device).reshape([1, channels]);
    y + other * signs * ERROR
}

/// `len` signs that depend on `stream`.
fn signs(len: usize, stream: u32, device: &Device) -> Tensor<1> {
    let signs = standard_normal(0, stream, len).into_iter().map(|x| 1_f32.copysign(x));
    Tensor::from_data(TensorData::new(signs.collect(), [len]), device)
}

/// The sensitivities of the layers of `job`, by the clip of its first prompt.
///
/// # Errors
///
/// If the model cannot be run, a value is not finite, or the work is canceled.
pub fn sensitivities(
    model: &VideoModel,
    job: &CalibrationJob,
    device: &OpenDevice,
    cancel: &Cancel,
    progress: &mut super::Progress<'_>,
) -> Result<Sensitivities, PipelineError> {
    let sampler = Sampler { model, device, cancel: cancel.clone() };
    let settings = job.clip(0);
    let mut texts = vec![settings.prompt.as_str()];
    texts.extend(settings.uses_guidance().then_some(settings.negative_prompt.as_str()));
    let embeds = sampler.encode(&texts, &mut |_, _, _| {})?;
    let weights = model.weights(ComponentKind::Transformer, None, device.max_elements())?;
    let plan = Plan::new(model, &job.sampling, &weights, device, job.max_memory);
    plan.check(job.max_memory)?;
    let disturber = Arc::new(Disturber::default());
    let source = ObservingSource::new(weights.source(), &job.layers, disturber.clone());
    let transformer = sampler.load_from(&source, plan.resident_blocks, &mut |_, _, _| {})?;
    let latent = sampler.latent(&settings, &*transformer, embeds.clone(), &mut |_, _, _| {})?;
    let latent_shape = settings.latent_shape(model);
    let noisy = NoisyLatent::new(model, latent, latent_shape, 0, &device.device)?;
    let predict = || -> Result<Vec<f32>, PipelineError> {
        Ok(noisy.predictions(&*transformer, &embeds[0], &LEVELS, cancel)?.concat())
    };
    let exact = predict()?;
    let mut found = Sensitivities::new();
    for (done, layer) in job.layers.iter().enumerate() {
        progress(done, job.layers.len());
        disturber.set(Some(layer));
        let share = relative_square(&predict()?, &exact);
        if !share.is_finite() {
            let what = format!("the prediction behind layer {layer}");
            return Err(PipelineError::NotFinite { what });
        }
        found.insert(layer.clone(), share / (ERROR * ERROR));
    }
    progress(job.layers.len(), job.layers.len());
    Ok(found)
}

/// `‖a − b‖² / ‖b‖²`.
fn relative_square(a: &[f32], b: &[f32]) -> f64 {
    let square = |value: f32| f64::from(value) * f64::from(value);
    let error: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    error / b.iter().map(|&b| square(b)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_has_the_size_that_it_says() {
        for shape in [[6, 5], [7, 40], [1, 9]] {
            let y = standard_normal(3, 0, shape[0] * shape[1]);
            let tensor = Tensor::from_data(TensorData::new(y.clone(), shape), &Device::flex());
            let actual = disturbed(tensor).into_data().try_to_vec::<f32>().expect("f32 values");
            assert!((relative_square(&actual, &y) - ERROR * ERROR).abs() < 1e-6);
        }
    }
}
