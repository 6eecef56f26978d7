//! Loss and gradients of one example.
//!
//! Either the whole transformer is one graph, or every block is: then only the tokens between
//! blocks are kept, each block is computed a second time for its backward pass, and the gradient
//! of its output is handed on by hand. Burn's own checkpointing has no segments of this kind.

use super::parameters::Parameters;
use super::source::{GradientMap, ParameterSource, accumulate};
use super::student::QuantizedLayers;
use crate::models::DenoiserConfig;
use crate::models::denoiser::{Embedded, Stages};
use crate::nn::{Limits, Trace, WeightError, Weights};
use burn::tensor::{Device, Gradients, Tensor};

/// One noisy latent with what should be predicted for it; tensors without autodiff.
#[derive(Clone, Debug)]
pub struct Example {
    /// `x_t`, `[channels, frames, height, width]`.
    pub noisy: Tensor<4>,
    /// What the transformer is told of the noise level, in 0 to 1000.
    pub timestep: f32,
    /// Embedded caption, `[tokens, text_dim]`.
    pub text: Tensor<2>,
    /// The velocities to compare with, and the weight of each.
    pub targets: Vec<(Tensor<4>, f32)>,
}

impl Example {
    /// `Σ weight · mean (prediction − target)²`.
    fn loss(&self, prediction: &Tensor<4>, target: impl Fn(&Tensor<4>) -> Tensor<4>) -> Tensor<1> {
        let term = |(velocity, weight): &(Tensor<4>, f32)| {
            let difference = prediction.clone() - target(velocity);
            (difference.clone() * difference).mean() * *weight
        };
        self.targets.iter().map(term).reduce(|a, b| a + b).expect("an example has a target")
    }
}

/// What of a model a pass needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Pass<'a> {
    /// The parameters.
    pub parameters: &'a Parameters,
    /// Which layers are quantized; `None` in full precision.
    pub layers: Option<&'a QuantizedLayers>,
    /// Sizes of the transformer.
    pub config: &'a dyn DenoiserConfig,
    /// Where it runs, without autodiff.
    pub device: &'a Device,
    /// Largest tensors.
    pub limits: Limits,
}

impl Pass<'_> {
    /// The prediction without gradients.
    ///
    /// # Errors
    ///
    /// If a parameter is missing.
    pub fn predict(
        &self,
        example: &Example,
        trace: &mut Trace<'_>,
    ) -> Result<Tensor<4>, WeightError> {
        let source = ParameterSource::plain(self.parameters, self.layers);
        let weights = Weights::new(&source, self.device);
        let model = self.config.load(&weights, self.limits)?;
        let context = model.text_context(example.text.clone(), trace);
        Ok(model.forward_traced(example.noisy.clone(), example.timestep, &context, trace))
    }

    /// The loss without gradients, a tensor of one element.
    ///
    /// # Errors
    ///
    /// If a parameter is missing.
    pub fn loss(&self, example: &Example) -> Result<Tensor<1>, WeightError> {
        let prediction = self.predict(example, &mut Trace::off())?;
        Ok(example.loss(&prediction, Clone::clone))
    }

    /// Loss and gradients with all activations kept.
    ///
    /// # Errors
    ///
    /// If a parameter is missing.
    pub fn whole(&self, example: &Example) -> Result<(Tensor<1>, GradientMap), WeightError> {
        let source = ParameterSource::graph(self.parameters, self.layers);
        let device = self.device.clone().autodiff();
        let weights = Weights::new(&source, &device);
        let model = self.config.load(&weights, self.limits)?;
        let text = Tensor::from_inner(example.text.clone());
        let context = model.text_context(text, &mut Trace::off());
        let noisy = Tensor::from_inner(example.noisy.clone());
        let prediction = model.forward(noisy, example.timestep, &context);
        let loss = example.loss(&prediction, |target| Tensor::from_inner(target.clone()));
        let gradients = loss.backward();
        Ok((loss.inner(), source.gradients(&gradients)))
    }

    /// Loss and gradients with every block computed twice, so that the activations of one block
    /// are the most that exist at a time.
    ///
    /// # Errors
    ///
    /// If a parameter is missing.
    pub fn recomputed(&self, example: &Example) -> Result<(Tensor<1>, GradientMap), WeightError> {
        let plain = ParameterSource::plain(self.parameters, self.layers);
        let weights = Weights::new(&plain, self.device);
        let stages = self.stages(&weights, example);
        let (noisy, text) = (example.noisy.clone(), example.text.clone());
        let Embedded { hidden, conditions } = stages.embed(noisy, example.timestep, text)?;
        let mut inputs = vec![hidden];
        for index in 0..self.config.num_layers() {
            let block = stages.block(index, &conditions)?;
            inputs.push(block(inputs[index].clone()));
        }
        let mut sum = Backward::default();
        let last = inputs.pop().expect("the tokens after the last block");
        let loss = self.head(example, last, &conditions, &mut sum)?;
        for (index, hidden) in inputs.into_iter().enumerate().rev() {
            self.block(index, example, hidden, &conditions, &mut sum)?;
        }
        self.embedder(example, &mut sum)?;
        Ok((loss, sum.parameters))
    }

    fn stages<'a>(&'a self, weights: &'a Weights<'a>, example: &Example) -> Box<dyn Stages + 'a> {
        self.config.stages(weights, self.limits, self.config.grid(example.noisy.dims()))
    }

    fn head(
        &self,
        example: &Example,
        hidden: Vec<Tensor<2>>,
        conditions: &[Tensor<2>],
        sum: &mut Backward,
    ) -> Result<Tensor<1>, WeightError> {
        let source = ParameterSource::graph(self.parameters, self.layers);
        let device = self.device.clone().autodiff();
        let weights = Weights::new(&source, &device);
        let (hidden, conditions) = (leaves(&hidden), leaves(conditions));
        let prediction = self.stages(&weights, example).head(hidden.clone(), &conditions)?;
        let loss = example.loss(&prediction, |target| Tensor::from_inner(target.clone()));
        let gradients = loss.backward();
        sum.take(&hidden, &conditions, &gradients);
        accumulate(&mut sum.parameters, source.gradients(&gradients));
        Ok(loss.inner())
    }

    fn block(
        &self,
        index: usize,
        example: &Example,
        hidden: Vec<Tensor<2>>,
        conditions: &[Tensor<2>],
        sum: &mut Backward,
    ) -> Result<(), WeightError> {
        let source = ParameterSource::graph(self.parameters, self.layers);
        let device = self.device.clone().autodiff();
        let weights = Weights::new(&source, &device);
        let (hidden, conditions) = (leaves(&hidden), leaves(conditions));
        let block = self.stages(&weights, example).block(index, &conditions)?;
        let gradients = product(block(hidden.clone()), &sum.hidden).backward();
        sum.take(&hidden, &conditions, &gradients);
        accumulate(&mut sum.parameters, source.gradients(&gradients));
        Ok(())
    }

    fn embedder(&self, example: &Example, sum: &mut Backward) -> Result<(), WeightError> {
        let source = ParameterSource::graph(self.parameters, self.layers);
        let device = self.device.clone().autodiff();
        let weights = Weights::new(&source, &device);
        let noisy = Tensor::from_inner(example.noisy.clone());
        let text = Tensor::from_inner(example.text.clone());
        let embedded = self.stages(&weights, example).embed(noisy, example.timestep, text)?;
        let outputs = embedded.hidden.into_iter().chain(embedded.conditions).collect();
        let incoming: Vec<_> = sum.hidden.iter().chain(&sum.conditions).cloned().collect();
        let gradients = product(outputs, &incoming).backward();
        accumulate(&mut sum.parameters, source.gradients(&gradients));
        Ok(())
    }
}

/// Gradients on their way from the head to the embedder; none of what took no part.
#[derive(Default)]
struct Backward {
    hidden: Vec<Option<Tensor<2>>>,
    /// The sum over all stages so far.
    conditions: Vec<Option<Tensor<2>>>,
    parameters: GradientMap,
}

impl Backward {
    /// Takes those of a stage's inputs: the tokens' instead of what was there, the conditions' on
    /// top of it.
    fn take(&mut self, hidden: &[Tensor<2>], conditions: &[Tensor<2>], gradients: &Gradients) {
        self.hidden = hidden.iter().map(|leaf| leaf.grad(gradients)).collect();
        self.conditions.resize(conditions.len(), None);
        for (sum, leaf) in self.conditions.iter_mut().zip(conditions) {
            *sum = match (sum.take(), leaf.grad(gradients)) {
                (Some(a), Some(b)) => Some(a + b),
                (a, b) => a.or(b),
            };
        }
    }
}

fn leaf<const D: usize>(value: &Tensor<D>) -> Tensor<D> {
    Tensor::from_inner(value.clone()).require_grad()
}

fn leaves(values: &[Tensor<2>]) -> Vec<Tensor<2>> {
    values.iter().map(leaf).collect()
}

/// A scalar whose gradients with respect to `outputs` are `gradients`.
fn product(outputs: Vec<Tensor<2>>, gradients: &[Option<Tensor<2>>]) -> Tensor<1> {
    let weigh = |(out, gradient): (Tensor<2>, &Option<Tensor<2>>)| {
        Some((out * Tensor::from_inner(gradient.clone()?)).sum())
    };
    let products = outputs.into_iter().zip(gradients).filter_map(weigh);
    products.reduce(|a, b| a + b).expect("every stage takes part in the loss")
}
