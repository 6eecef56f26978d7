//! The transformer one stage at a time.

use super::embedder::rotations;
use super::{WanBlock, WanConfig, WanEmbedder, WanHead};
use crate::models::denoiser::{BlockPass, Embedded, EmbeddedShapes, Stages};
use crate::nn::{Limits, Rotation, Trace, WeightError, Weights};
use burn::tensor::Tensor;
use std::cell::OnceCell;

/// Conditions: the timestep for the head `[1, dim]` and for the blocks `[6, dim]`, the text
/// `[tokens, dim]`.
#[derive(Debug)]
pub(super) struct WanStages<'a> {
    config: &'a WanConfig,
    weights: &'a Weights<'a>,
    limits: Limits,
    grid: [usize; 3],
    positions: OnceCell<Vec<Rotation>>,
}

impl<'a> WanStages<'a> {
    pub(super) fn new(
        config: &'a WanConfig,
        weights: &'a Weights<'a>,
        limits: Limits,
        grid: [usize; 3],
    ) -> Self {
        Self { config, weights, limits, grid, positions: OnceCell::new() }
    }

    fn positions(&self) -> Vec<Rotation> {
        let device = self.weights.device();
        self.positions
            .get_or_init(|| rotations(self.config, self.grid, self.limits, device))
            .clone()
    }
}

impl Stages for WanStages<'_> {
    fn embed(
        &self,
        latent: Tensor<4>,
        timestep: f32,
        text: Tensor<2>,
    ) -> Result<Embedded, WeightError> {
        let embedder = WanEmbedder::load(self.weights, self.config, self.limits)?;
        let off = &mut Trace::off();
        let hidden = embedder.embed_patches(latent, off);
        let (temb, timestep_proj) = embedder.embed_timestep(timestep, off);
        let text = embedder.embed_text(text, off);
        Ok(Embedded { hidden, conditions: vec![temb, timestep_proj, text] })
    }

    fn block(&self, index: usize, conditions: &[Tensor<2>]) -> Result<BlockPass, WeightError> {
        let block = WanBlock::load(self.weights, self.config, self.limits, index)?;
        let (timestep, text) =
            (block.timestep(&conditions[1]), block.text_keys_values(&conditions[2]));
        let positions = self.positions();
        Ok(Box::new(move |hidden| {
            block.forward(hidden, &timestep, &positions, &text, &mut Trace::off())
        }))
    }

    fn head(
        &self,
        hidden: Vec<Tensor<2>>,
        conditions: &[Tensor<2>],
    ) -> Result<Tensor<4>, WeightError> {
        let head = WanHead::load(self.weights, self.config)?;
        let timestep = head.timestep(&conditions[0]);
        Ok(head.forward(hidden, &timestep, self.grid, &mut Trace::off()))
    }

    fn shapes(&self, text_tokens: usize) -> EmbeddedShapes {
        let (dim, tokens) = (self.config.dim(), self.grid.iter().product::<usize>());
        EmbeddedShapes {
            hidden: self.limits.parts(tokens, dim).map(|rows| [rows, dim]).collect(),
            conditions: vec![[1, dim], [6, dim], [text_tokens, dim]],
        }
    }
}
