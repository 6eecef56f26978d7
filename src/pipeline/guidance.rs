//! Classifier-free guidance, and where in a run it ends.

use super::PipelineError;
use super::sample::read;
use crate::models::{Denoiser, TextContext};
use crate::nn::Trace;
use burn::tensor::Tensor;
use std::f64::consts::PI;

/// Classifier-free guidance: the prompt's context and, behind it, the negative prompt's.
#[derive(Debug)]
pub struct Guidance<'a> {
    /// One or two contexts.
    pub contexts: &'a [TextContext],
    /// How far to go from the second prediction beyond the first.
    pub scale: f32,
    /// Whether the scale changes from step to step; see [`dynamic_guidance_scale`].
    pub is_dynamic: bool,
    /// Share of the steps, at the end of the run, that use the prompt's prediction alone; see
    /// [`guided_steps`].
    pub late_drop: f64,
}

impl Guidance<'_> {
    /// The scale of step `step` of `steps`, at `timestep`; `None` if it is not guided.
    pub(super) fn scale_at(&self, step: usize, steps: usize, timestep: f32) -> Option<f32> {
        let is_guided = step < guided_steps(steps, self.late_drop);
        let dynamic = || {
            let timestep = f64::from(timestep);
            dynamic_guidance_scale(f64::from(self.scale), steps, timestep) as f32
        };
        is_guided.then(|| if self.is_dynamic { dynamic() } else { self.scale })
    }

    /// `v_u + scale · (v_c − v_u)`, or, without a scale, the prompt's prediction `v_c` alone.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub(super) fn velocity(
        &self,
        transformer: &dyn Denoiser,
        latent: Tensor<4>,
        timestep: f32,
        scale: Option<f32>,
    ) -> Result<Vec<f32>, PipelineError> {
        let off = &mut Trace::off();
        let timestep = transformer.timestep_context(timestep, off);
        let mut predict = |text| read(transformer.forward_at(latent.clone(), &timestep, text, off));
        let conditional = predict(&self.contexts[0])?;
        let (Some(negative), Some(scale)) = (self.contexts.get(1), scale) else {
            return Ok(conditional);
        };
        let unconditional = predict(negative)?;
        let pairs = conditional.into_iter().zip(unconditional);
        Ok(pairs.map(|(c, u)| u + scale * (c - u)).collect())
    }
}

/// How many of `steps` are guided when guidance is dropped for the share `late_drop` of them, the
/// last ones.
///
/// Guidance settles what is seen in the early, noisy steps. Later it multiplies the error that
/// quantization makes in the difference of two similar predictions, and details are lost: for
/// Wan 2.1 1.3B in 4 bits, dropping it in the last 9 of 50 steps (a share of 0.18) raised the
/// scores without any training (`DSAQuant`, arXiv 2609.04031, table 8).
pub fn guided_steps(steps: usize, late_drop: f64) -> usize {
    steps.saturating_sub((steps as f64 * late_drop).round() as usize)
}

/// The guidance scale of one step under CogVideoX's dynamic guidance,
/// `1 + scale · (1 − cos(π·((steps − timestep)/steps)⁵))/2`.
///
/// `timestep` is what the transformer is told (0 … 999) and not the number of the step, as in
/// `pipeline_cogvideox.py` of diffusers: the angle is some 10¹⁰ and its cosine a matter of the last
/// bits, so power and cosine are those of one library on every platform.
pub fn dynamic_guidance_scale(scale: f64, steps: usize, timestep: f64) -> f64 {
    let steps = steps as f64;
    let angle = PI * libm::pow((steps - timestep) / steps, 5.0);
    1.0 + scale * (1.0 - libm::cos(angle)) / 2.0
}

#[cfg(test)]
mod tests {
    use super::{dynamic_guidance_scale, guided_steps};

    #[test]
    fn dynamic_guidance_is_between_one_and_its_scale_beyond() {
        assert_eq!(dynamic_guidance_scale(6.0, 50, 50.0), 1.0);
        assert!((dynamic_guidance_scale(6.0, 50, 0.0) - 7.0).abs() < 1e-12);
        for timestep in 0..1000 {
            let scale = dynamic_guidance_scale(6.0, 50, f64::from(timestep));
            assert!((1.0..=7.0).contains(&scale), "{scale} at {timestep}");
        }
    }

    #[test]
    fn a_share_of_the_last_steps_is_not_guided() {
        assert_eq!(guided_steps(50, 0.0), 50);
        assert_eq!(guided_steps(50, 0.18), 41);
        assert_eq!(guided_steps(8, 0.18), 7);
        assert_eq!(guided_steps(1, 0.4), 1);
        assert_eq!(guided_steps(7, 1.0), 0);
    }
}
