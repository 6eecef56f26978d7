//! The transformer one stage at a time.

use super::positions::{Positions, part_tokens, positions};
use super::{CogVideoXBlock, CogVideoXConfig, CogVideoXEmbedder, CogVideoXHead};
use crate::models::denoiser::{BlockPass, Embedded, EmbeddedShapes, Stages};
use crate::nn::{Limits, Trace, WeightError, Weights};
use burn::tensor::Tensor;
use std::cell::OnceCell;

/// Tokens: those of the text, then the video's. The one condition is the embedded timestep
/// `[1, time_embed_dim]`.
#[derive(Debug)]
pub(super) struct CogVideoXStages<'a> {
    config: &'a CogVideoXConfig,
    weights: &'a Weights<'a>,
    limits: Limits,
    grid: [usize; 3],
    positions: OnceCell<Vec<Positions>>,
}

impl<'a> CogVideoXStages<'a> {
    pub(super) fn new(
        config: &'a CogVideoXConfig,
        weights: &'a Weights<'a>,
        limits: Limits,
        grid: [usize; 3],
    ) -> Self {
        Self { config, weights, limits, grid, positions: OnceCell::new() }
    }

    fn positions(&self) -> &Vec<Positions> {
        let device = self.weights.device();
        self.positions.get_or_init(|| positions(self.config, self.grid, self.limits, device))
    }
}

impl Stages for CogVideoXStages<'_> {
    fn embed(
        &self,
        latent: Tensor<4>,
        timestep: f32,
        text: Tensor<2>,
    ) -> Result<Embedded, WeightError> {
        let embedder = CogVideoXEmbedder::load(self.weights, self.config, self.limits)?;
        let off = &mut Trace::off();
        let mut hidden = vec![embedder.embed_text(text, off)];
        hidden.extend(embedder.embed_patches(latent, self.positions(), off));
        Ok(Embedded { hidden, conditions: vec![embedder.embed_timestep(timestep, off)] })
    }

    fn block(&self, index: usize, conditions: &[Tensor<2>]) -> Result<BlockPass, WeightError> {
        let block = CogVideoXBlock::load(self.weights, self.config, self.limits, index)?;
        let (timestep, positions) = (block.timestep(&conditions[0]), self.positions().clone());
        Ok(Box::new(move |hidden| block.forward(hidden, &timestep, &positions, &mut Trace::off())))
    }

    fn head(
        &self,
        hidden: Vec<Tensor<2>>,
        conditions: &[Tensor<2>],
    ) -> Result<Tensor<4>, WeightError> {
        let head = CogVideoXHead::load(self.weights, self.config)?;
        let timestep = head.timestep(&conditions[0]);
        Ok(head.forward(hidden, &timestep, self.grid, &mut Trace::off()))
    }

    fn shapes(&self, text_tokens: usize) -> EmbeddedShapes {
        let (dim, tokens) = (self.config.dim(), self.grid.iter().product::<usize>());
        let most = part_tokens(self.config, self.limits);
        let video = (0..tokens).step_by(most).map(|first| [most.min(tokens - first), dim]);
        EmbeddedShapes {
            hidden: std::iter::once([text_tokens, dim]).chain(video).collect(),
            conditions: vec![[1, self.config.time_embed_dim]],
        }
    }
}
