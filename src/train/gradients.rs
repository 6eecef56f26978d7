//! Loss and gradients of one example.
//!
//! Either the whole transformer is one graph, or every block is: then only the tokens between
//! blocks are kept, each block is computed a second time for its backward pass, and the gradient
//! of its output is handed on by hand. Burn's own checkpointing has no segments of this kind.

use super::parameters::Parameters;
use super::source::{GradientMap, ParameterSource, accumulate};
use super::student::QuantizedLayers;
use crate::models::wan::{
    Embedded, WanBlock, WanConfig, WanEmbedder, WanHead, WanTransformer, rotations,
};
use crate::nn::{Limits, Trace, WeightError, Weights};
use burn::tensor::{Device, Gradients, Tensor};

/// One noisy latent with what should be predicted for it; tensors without autodiff.
#[derive(Clone, Debug)]
pub struct Example {
    /// `x_t`, `[channels, frames, height, width]`.
    pub noisy: Tensor<4>,
    /// Noise level in 0..1; the timestep is 1000 times it.
    pub sigma: f32,
    /// Embedded caption, `[tokens, text_dim]`.
    pub text: Tensor<2>,
    /// The velocities to compare with, and the weight of each.
    pub targets: Vec<(Tensor<4>, f32)>,
}

impl Example {
    /// The timestep of the noise level.
    pub fn timestep(&self) -> f32 {
        self.sigma * 1000.0
    }

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
    pub config: &'a WanConfig,
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
        let model = WanTransformer::load(&weights, self.config, self.limits, &mut |_, _| ())?;
        let context = model.text_context(example.text.clone(), trace);
        Ok(model.forward_traced(example.noisy.clone(), example.timestep(), &context, trace))
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
        let model = WanTransformer::load(&weights, self.config, self.limits, &mut |_, _| ())?;
        let text = Tensor::from_inner(example.text.clone());
        let context = model.text_context(text, &mut Trace::off());
        let noisy = Tensor::from_inner(example.noisy.clone());
        let prediction = model.forward(noisy, example.timestep(), &context);
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
        let grid = self.config.grid(example.noisy.dims());
        let off = &mut Trace::off();
        let plain = ParameterSource::plain(self.parameters, self.layers);
        let weights = Weights::new(&plain, self.device);
        let embedder = WanEmbedder::load(&weights, self.config, self.limits)?;
        let Embedded { hidden, temb, timestep_proj } =
            embedder.embed(example.noisy.clone(), example.timestep(), off);
        let text = embedder.embed_text(example.text.clone(), off);
        drop(embedder);
        let positions = rotations(self.config, grid, self.limits, self.device);
        let mut inputs = vec![hidden];
        for index in 0..self.config.num_layers {
            let block = WanBlock::load(&weights, self.config, self.limits, index)?;
            let keys_values = block.text_keys_values(&text);
            let hidden = inputs[index].clone();
            let timestep = block.timestep(&timestep_proj);
            inputs.push(block.forward(hidden, &timestep, &positions, &keys_values, off));
        }
        let conditions = Conditions { temb, timestep_proj, text };
        let mut sum = Backward::default();
        let last = inputs.pop().expect("the tokens after the last block");
        let loss = self.head(example, last, grid, &conditions, &mut sum)?;
        for (index, hidden) in inputs.into_iter().enumerate().rev() {
            self.block(index, hidden, grid, &conditions, &mut sum)?;
        }
        self.embedder(example, &mut sum)?;
        Ok((loss, sum.parameters))
    }

    fn head(
        &self,
        example: &Example,
        hidden: Vec<Tensor<2>>,
        grid: [usize; 3],
        conditions: &Conditions,
        sum: &mut Backward,
    ) -> Result<Tensor<1>, WeightError> {
        let source = ParameterSource::graph(self.parameters, self.layers);
        let device = self.device.clone().autodiff();
        let head = WanHead::load(&Weights::new(&source, &device), self.config)?;
        let (hidden, temb) = (leaves(hidden), leaf(&conditions.temb));
        let timestep = head.timestep(&temb);
        let prediction = head.forward(hidden.clone(), &timestep, grid, &mut Trace::off());
        let loss = example.loss(&prediction, |target| Tensor::from_inner(target.clone()));
        let gradients = loss.backward();
        sum.hidden = of_leaves(&hidden, &gradients);
        sum.temb = temb.grad(&gradients);
        accumulate(&mut sum.parameters, source.gradients(&gradients));
        Ok(loss.inner())
    }

    fn block(
        &self,
        index: usize,
        hidden: Vec<Tensor<2>>,
        grid: [usize; 3],
        conditions: &Conditions,
        sum: &mut Backward,
    ) -> Result<(), WeightError> {
        let source = ParameterSource::graph(self.parameters, self.layers);
        let device = self.device.clone().autodiff();
        let weights = Weights::new(&source, &device);
        let block = WanBlock::load(&weights, self.config, self.limits, index)?;
        let positions = rotations(self.config, grid, self.limits, &device);
        let (hidden, timestep_proj) = (leaves(hidden), leaf(&conditions.timestep_proj));
        let text = leaf(&conditions.text);
        let keys_values = block.text_keys_values(&text);
        let off = &mut Trace::off();
        let timestep = block.timestep(&timestep_proj);
        let out = block.forward(hidden.clone(), &timestep, &positions, &keys_values, off);
        let products = out.into_iter().zip(&sum.hidden).map(|(out, g)| weigh(out, g));
        let gradients = products.reduce(|a, b| a + b).expect("tokens").backward();
        sum.hidden = of_leaves(&hidden, &gradients);
        add(&mut sum.timestep_proj, timestep_proj.grad(&gradients));
        add(&mut sum.text, text.grad(&gradients));
        accumulate(&mut sum.parameters, source.gradients(&gradients));
        Ok(())
    }

    fn embedder(&self, example: &Example, sum: &mut Backward) -> Result<(), WeightError> {
        let source = ParameterSource::graph(self.parameters, self.layers);
        let device = self.device.clone().autodiff();
        let weights = Weights::new(&source, &device);
        let embedder = WanEmbedder::load(&weights, self.config, self.limits)?;
        let off = &mut Trace::off();
        let noisy = Tensor::from_inner(example.noisy.clone());
        let embedded = embedder.embed(noisy, example.timestep(), off);
        let text = embedder.embed_text(Tensor::from_inner(example.text.clone()), off);
        let mut products: Vec<Tensor<1>> =
            embedded.hidden.into_iter().zip(&sum.hidden).map(|(out, g)| weigh(out, g)).collect();
        let conditions = [
            (embedded.temb, &sum.temb),
            (embedded.timestep_proj, &sum.timestep_proj),
            (text, &sum.text),
        ];
        for (out, gradient) in conditions {
            products.extend(gradient.as_ref().map(|gradient| weigh(out, gradient)));
        }
        let gradients = products.into_iter().reduce(|a, b| a + b).expect("tokens").backward();
        accumulate(&mut sum.parameters, source.gradients(&gradients));
        Ok(())
    }
}

/// What every block sees beside the tokens.
struct Conditions {
    temb: Tensor<2>,
    timestep_proj: Tensor<2>,
    text: Tensor<2>,
}

/// Gradients on their way from the head to the embedder.
#[derive(Default)]
struct Backward {
    hidden: Vec<Tensor<2>>,
    temb: Option<Tensor<2>>,
    timestep_proj: Option<Tensor<2>>,
    text: Option<Tensor<2>>,
    parameters: GradientMap,
}

fn leaf<const D: usize>(value: &Tensor<D>) -> Tensor<D> {
    Tensor::from_inner(value.clone()).require_grad()
}

fn leaves(values: Vec<Tensor<2>>) -> Vec<Tensor<2>> {
    values.iter().map(leaf).collect()
}

fn of_leaves(leaves: &[Tensor<2>], gradients: &Gradients) -> Vec<Tensor<2>> {
    leaves
        .iter()
        .map(|leaf| leaf.grad(gradients).expect("every token takes part in the result"))
        .collect()
}

/// A scalar whose gradient with respect to `out` is `gradient`.
fn weigh(out: Tensor<2>, gradient: &Tensor<2>) -> Tensor<1> {
    (out * Tensor::from_inner(gradient.clone())).sum()
}

fn add(sum: &mut Option<Tensor<2>>, more: Option<Tensor<2>>) {
    *sum = match (sum.take(), more) {
        (Some(a), Some(b)) => Some(a + b),
        (a, b) => a.or(b),
    };
}
