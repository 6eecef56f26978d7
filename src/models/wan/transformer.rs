//! From a noisy latent, a timestep and a text to the predicted velocity.

use super::block::WanBlock;
use super::embedder::{WanEmbedder, rotations};
use super::head::WanHead;
use super::{Embedded, WanConfig};
use crate::nn::{KeysValues, Limits, Trace, WeightError, Weights};
use burn::tensor::{Device, Tensor};

/// A prompt as the blocks see it: their cross-attention's keys and values.
///
/// They depend on nothing but the text, so they are computed once per prompt and not once per
/// step; `2 · num_layers · tokens · dim` values.
#[derive(Clone, Debug)]
pub struct TextContext {
    blocks: Vec<KeysValues>,
}

/// The denoiser.
///
/// A trainer that must not keep every activation composes the same three stages itself, one
/// block at a time.
#[derive(Debug)]
pub struct WanTransformer {
    config: WanConfig,
    limits: Limits,
    device: Device,
    embedder: WanEmbedder,
    blocks: Vec<WanBlock>,
    head: WanHead,
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
        let layers = config.num_layers;
        let block = |index| {
            let block = WanBlock::load(weights, config, limits, index)?;
            loaded(index + 1, layers);
            Ok(block)
        };
        Ok(Self {
            embedder: WanEmbedder::load(weights, config, limits)?,
            blocks: (0..layers).map(block).collect::<Result<_, WeightError>>()?,
            head: WanHead::load(weights, config)?,
            config: config.clone(),
            limits,
            device: weights.device().clone(),
        })
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
        let text = self.embedder.embed_text(embeds, trace);
        TextContext {
            blocks: self.blocks.iter().map(|block| block.text_keys_values(&text)).collect(),
        }
    }

    /// The velocity `[out_channels, frames, height, width]` at `latent`
    /// `[in_channels, frames, height, width]`; the timestep is in 0 to 1000.
    ///
    /// # Panics
    ///
    /// As [`WanConfig::grid`].
    pub fn forward(&self, latent: Tensor<4>, timestep: f32, context: &TextContext) -> Tensor<4> {
        self.forward_traced(latent, timestep, context, &mut Trace::off())
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
        context: &TextContext,
        trace: &mut Trace<'_>,
    ) -> Tensor<4> {
        let grid = self.config.grid(latent.dims());
        let Embedded { mut hidden, temb, timestep_proj } =
            self.embedder.embed(latent, timestep, trace);
        let rotations = rotations(&self.config, grid, self.limits, &self.device);
        for (block, text) in self.blocks.iter().zip(&context.blocks) {
            hidden = block.forward(hidden, &timestep_proj, &rotations, text, trace);
        }
        self.head.forward(hidden, &temb, grid, trace)
    }
}
