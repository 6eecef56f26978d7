//! From a noisy latent, a timestep and a text to the predicted velocity.

use super::WanConfig;
use super::block::{BlockTimestep, WanBlock};
use super::embedder::{WanEmbedder, rotations};
use super::head::WanHead;
use crate::models::blocks::Blocks;
use crate::nn::{
    AttentionPrecision, KeysValues, Limits, Modulation, Rotation, RunClock, Trace, WeightError,
    Weights,
};
use burn::tensor::{Device, Tensor};
use std::sync::{Mutex, OnceLock, PoisonError};

/// A prompt as the blocks see it: their cross-attention's keys and values.
///
/// They depend on nothing but the text, so they are computed once per prompt and not once per
/// step; `2 · num_layers · tokens · dim` values. Only where a layer of the text is quantized
/// differently by step are they computed anew in each forward pass.
#[derive(Clone, Debug)]
pub struct TextContext {
    blocks: Vec<KeysValues>,
    /// `[tokens, text_dim]`, if the above depend on the step.
    embeds: Option<Tensor<2>>,
}

/// A timestep as the blocks and the head see it.
///
/// It depends on nothing but the timestep, so everything is computed once per step, when it is
/// first needed, and not once per prompt of the step; `(4 + 6 · num_layers) · dim` values.
#[derive(Clone, Debug)]
pub struct TimestepContext {
    /// `[6, dim]`.
    timestep_proj: Tensor<2>,
    blocks: Vec<OnceLock<BlockTimestep>>,
    head: Modulation,
}

impl TimestepContext {
    fn of_block(&self, index: usize, block: &WanBlock) -> &BlockTimestep {
        self.blocks[index].get_or_init(|| block.timestep(&self.timestep_proj))
    }
}

/// The positions of the tokens of a latent, and its grid.
type Positions = ([usize; 3], Vec<Rotation>);

/// The denoiser.
///
/// A trainer that must not keep every activation composes the same three stages itself, one
/// block at a time.
#[derive(Debug)]
pub struct WanTransformer {
    config: WanConfig,
    limits: Limits,
    device: Device,
    clock: RunClock,
    embedder: WanEmbedder,
    blocks: Blocks<WanBlock>,
    head: WanHead,
    /// Of the latent seen last: all steps of a run have the same.
    positions: Mutex<Option<Positions>>,
}

impl WanTransformer {
    /// The transformer whose tensors are at `weights`.
    ///
    /// `loaded(done, total)` is called after each block.
    ///
    /// # Errors
    ///
    /// If a tensor is missing or unusable.
    pub fn load(
        weights: &Weights<'_>,
        config: &WanConfig,
        limits: Limits,
        loaded: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, WeightError> {
        Self::load_streamed(weights, config, limits, config.num_layers, loaded)
    }

    /// [`WanTransformer::load`] with only the first `resident_blocks` blocks on the device; the
    /// others wait in host memory, packed as they are, and visit the device in every pass.
    ///
    /// # Errors
    ///
    /// As [`WanTransformer::load`], or if the device fails.
    pub fn load_streamed(
        weights: &Weights<'_>,
        config: &WanConfig,
        limits: Limits,
        resident_blocks: usize,
        loaded: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, WeightError> {
        Ok(Self {
            embedder: WanEmbedder::load(weights, config, limits)?,
            blocks: Blocks::load(weights, config, limits, resident_blocks, loaded)?,
            head: WanHead::load(weights, config)?,
            positions: Mutex::new(None),
            config: config.clone(),
            limits,
            device: weights.device().clone(),
            clock: weights.clock().clone(),
        })
    }

    /// The same with attention in another precision.
    #[must_use]
    pub fn with_attention(self, precision: AttentionPrecision) -> Self {
        Self { blocks: self.blocks.with_attention(precision), ..self }
    }

    /// The configuration it was loaded with.
    pub fn config(&self) -> &WanConfig {
        &self.config
    }

    /// What the blocks need of a prompt; `embeds` is `[tokens, text_dim]`, rows of padding zero.
    ///
    /// All rows take part in cross-attention, padding too: the models were trained so.
    ///
    /// # Panics
    ///
    /// If `embeds` has not `text_dim` columns.
    pub fn text_context(&self, embeds: Tensor<2>, trace: &mut Trace<'_>) -> TextContext {
        let text = self.embedder.embed_text(embeds.clone(), trace);
        let mut blocks = Vec::with_capacity(self.config.num_layers);
        let mut depends_on_step = self.embedder.text_depends_on_step();
        self.blocks.for_each(|_, block| {
            depends_on_step |= block.text_depends_on_step();
            blocks.push(block.text_keys_values(&text));
        });
        TextContext { blocks, embeds: depends_on_step.then_some(embeds) }
    }

    /// What the layers ask where in a run they are.
    pub fn clock(&self) -> &RunClock {
        &self.clock
    }

    /// What the blocks and the head need of a timestep, in 0 to 1000.
    pub fn timestep_context(&self, timestep: f32, trace: &mut Trace<'_>) -> TimestepContext {
        self.clock.begin_step(timestep);
        let (temb, timestep_proj) = self.embedder.embed_timestep(timestep, trace);
        TimestepContext {
            timestep_proj,
            blocks: vec![OnceLock::new(); self.config.num_layers],
            head: self.head.timestep(&temb),
        }
    }

    /// The velocity `[out_channels, frames, height, width]` at `latent`
    /// `[in_channels, frames, height, width]`; the timestep is in 0 to 1000.
    ///
    /// # Panics
    ///
    /// As [`WanConfig::grid`].
    pub fn forward(&self, latent: Tensor<4>, timestep: f32, text: &TextContext) -> Tensor<4> {
        self.forward_traced(latent, timestep, text, &mut Trace::off())
    }

    /// [`WanTransformer::forward`] with a view of the intermediate tensors.
    ///
    /// # Panics
    ///
    /// As [`WanTransformer::forward`].
    pub fn forward_traced(
        &self,
        latent: Tensor<4>,
        timestep: f32,
        text: &TextContext,
        trace: &mut Trace<'_>,
    ) -> Tensor<4> {
        let timestep = self.timestep_context(timestep, trace);
        self.forward_at(latent, &timestep, text, trace)
    }

    /// [`WanTransformer::forward_traced`] at a timestep that several prompts share.
    ///
    /// # Panics
    ///
    /// As [`WanTransformer::forward`].
    pub fn forward_at(
        &self,
        latent: Tensor<4>,
        timestep: &TimestepContext,
        text: &TextContext,
        trace: &mut Trace<'_>,
    ) -> Tensor<4> {
        self.clock.begin_call();
        let anew = text.embeds.as_ref().map(|embeds| self.text_context(embeds.clone(), trace));
        let text = anew.as_ref().unwrap_or(text);
        let grid = self.config.grid(latent.dims());
        let mut hidden = self.embedder.embed_patches(latent, trace);
        let rotations = self.rotations(grid);
        self.blocks.for_each(|index, block| {
            let (timestep, text) = (timestep.of_block(index, block), &text.blocks[index]);
            hidden = block.forward(std::mem::take(&mut hidden), timestep, &rotations, text, trace);
        });
        self.head.forward(hidden, &timestep.head, grid, trace)
    }

    fn rotations(&self, grid: [usize; 3]) -> Vec<Rotation> {
        let mut positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        match &*positions {
            Some((known, rotations)) if *known == grid => rotations.clone(),
            _ => {
                let rotations = rotations(&self.config, grid, self.limits, &self.device);
                *positions = Some((grid, rotations.clone()));
                rotations
            }
        }
    }
}
