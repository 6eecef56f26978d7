//! From a noisy latent, a timestep and a text to the predicted velocity.

use super::CogVideoXConfig;
use super::block::{BlockTimestep, CogVideoXBlock};
use super::embedder::CogVideoXEmbedder;
use super::head::CogVideoXHead;
use super::positions::{Positions, positions};
use crate::models::blocks::Blocks;
use crate::nn::{AttentionPrecision, Limits, Modulation, RunClock, Trace, WeightError, Weights};
use burn::tensor::{Device, Tensor};
use std::sync::{Mutex, OnceLock, PoisonError};

/// A prompt as the blocks take it: tokens in front of the video's, `[tokens, dim]`.
///
/// They depend on nothing but the text, so they are computed once per prompt and not once per step.
#[derive(Clone, Debug)]
pub struct TextContext {
    tokens: Tensor<2>,
    /// `[tokens, text_embed_dim]`, if the above depend on the step of a run.
    embeds: Option<Tensor<2>>,
}

/// A timestep as the blocks and the head see it.
///
/// It depends on nothing but the timestep, so everything is computed once per step, when it is
/// first needed, and not once per prompt of the step: of CogVideoX-2B's weights, a fifth are read
/// for nothing else. `(2 + 12 · num_layers) · dim` values.
#[derive(Clone, Debug)]
pub struct TimestepContext {
    /// `[1, time_embed_dim]`.
    conditioning: Tensor<2>,
    blocks: Vec<OnceLock<BlockTimestep>>,
    head: Modulation,
}

impl TimestepContext {
    fn of_block(&self, index: usize, block: &CogVideoXBlock) -> &BlockTimestep {
        self.blocks[index].get_or_init(|| block.timestep(&self.conditioning))
    }
}

/// The denoiser.
///
/// A trainer that must not keep every activation composes the same three stages itself, one
/// block at a time.
#[derive(Debug)]
pub struct CogVideoXTransformer {
    config: CogVideoXConfig,
    limits: Limits,
    device: Device,
    clock: RunClock,
    embedder: CogVideoXEmbedder,
    blocks: Blocks<CogVideoXBlock>,
    head: CogVideoXHead,
    /// Of the latent seen last, with its grid: all steps of a run have the same.
    positions: Mutex<Option<([usize; 3], Vec<Positions>)>>,
}

impl CogVideoXTransformer {
    /// The transformer whose tensors are at `weights`.
    ///
    /// `loaded(done, total)` is called after each block.
    ///
    /// # Errors
    ///
    /// If a tensor is missing or unusable.
    pub fn load(
        weights: &Weights<'_>,
        config: &CogVideoXConfig,
        limits: Limits,
        loaded: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, WeightError> {
        Self::load_streamed(weights, config, limits, config.num_layers, loaded)
    }

    /// [`CogVideoXTransformer::load`] with only the first `resident_blocks` blocks on the device;
    /// the others wait in host memory, packed as they are, and visit the device in every pass.
    ///
    /// # Errors
    ///
    /// As [`CogVideoXTransformer::load`], or if the device fails.
    pub fn load_streamed(
        weights: &Weights<'_>,
        config: &CogVideoXConfig,
        limits: Limits,
        resident_blocks: usize,
        loaded: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, WeightError> {
        Ok(Self {
            embedder: CogVideoXEmbedder::load(weights, config, limits)?,
            blocks: Blocks::load(weights, config, limits, resident_blocks, loaded)?,
            head: CogVideoXHead::load(weights, config)?,
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

    /// The same with another second embedded number, for the models that take one; it is 2 unless
    /// given, as in the published pipelines.
    #[must_use]
    pub fn with_ofs(self, ofs: f32) -> Self {
        Self { embedder: self.embedder.with_ofs(ofs), ..self }
    }

    /// The configuration it was loaded with.
    pub fn config(&self) -> &CogVideoXConfig {
        &self.config
    }

    /// What the blocks need of a prompt; `embeds` is `[tokens, text_embed_dim]`.
    ///
    /// All rows take part in attention, those of padding too: the models were trained so.
    ///
    /// # Panics
    ///
    /// If `embeds` has not `text_embed_dim` columns.
    pub fn text_context(&self, embeds: Tensor<2>, trace: &mut Trace<'_>) -> TextContext {
        TextContext {
            tokens: self.embedder.embed_text(embeds.clone(), trace),
            embeds: self.embedder.text_depends_on_step().then_some(embeds),
        }
    }

    /// What the layers ask where in a run they are.
    pub fn clock(&self) -> &RunClock {
        &self.clock
    }

    /// What the blocks and the head need of a timestep, in 0 to 1000.
    pub fn timestep_context(&self, timestep: f32, trace: &mut Trace<'_>) -> TimestepContext {
        self.clock.begin_step(timestep);
        let conditioning = self.embedder.embed_timestep(timestep, trace);
        TimestepContext {
            blocks: vec![OnceLock::new(); self.config.num_layers],
            head: self.head.timestep(&conditioning),
            conditioning,
        }
    }

    /// The velocity `[out_channels, frames, height, width]` at `latent`
    /// `[in_channels, frames, height, width]`; the timestep is in 0 to 1000.
    ///
    /// # Panics
    ///
    /// As [`CogVideoXConfig::grid`].
    pub fn forward(&self, latent: Tensor<4>, timestep: f32, text: &TextContext) -> Tensor<4> {
        self.forward_traced(latent, timestep, text, &mut Trace::off())
    }

    /// [`CogVideoXTransformer::forward`] with a view of the intermediate tensors.
    ///
    /// # Panics
    ///
    /// As [`CogVideoXTransformer::forward`].
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

    /// [`CogVideoXTransformer::forward_traced`] at a timestep that several prompts share.
    ///
    /// # Panics
    ///
    /// As [`CogVideoXTransformer::forward`].
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
        let positions = self.positions(grid);
        let mut hidden = vec![text.tokens.clone()];
        hidden.extend(self.embedder.embed_patches(latent, &positions, trace));
        self.blocks.for_each(|index, block| {
            let timestep = timestep.of_block(index, block);
            hidden = block.forward(std::mem::take(&mut hidden), timestep, &positions, trace);
        });
        self.head.forward(hidden, &timestep.head, grid, trace)
    }

    fn positions(&self, grid: [usize; 3]) -> Vec<Positions> {
        let mut known = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((of, positions)) if *of == grid => positions.clone(),
            _ => {
                let positions = positions(&self.config, grid, self.limits, &self.device);
                *known = Some((grid, positions.clone()));
                positions
            }
        }
    }
}
