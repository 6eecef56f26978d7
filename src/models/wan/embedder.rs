//! What comes before the blocks: patches, timestep and text become tokens of the model's width.

use super::WanConfig;
use super::config::{PATCH, PATCH_PIXELS};
use crate::nn::{
    FullLinear, Limits, Linear, RopeAxis, RopeGrid, Rotation, Trace, WeightError, Weights,
    gelu_tanh, in_a_row, silu, timestep_sinusoid,
};
use burn::tensor::{Device, Tensor};

/// The embedding layers.
#[derive(Debug)]
pub struct WanEmbedder {
    config: WanConfig,
    limits: Limits,
    device: Device,
    patch_embedding: Linear,
    time_embedder: [Linear; 2],
    time_proj: Linear,
    text_embedder: [Linear; 2],
}

impl WanEmbedder {
    /// The layers of the transformer at `weights`.
    ///
    /// # Errors
    ///
    /// If a tensor is missing or unusable.
    pub fn load(
        weights: &Weights<'_>,
        config: &WanConfig,
        limits: Limits,
    ) -> Result<Self, WeightError> {
        let dim = config.dim();
        let embedder = weights.at("condition_embedder");
        let two = |name: &str, in_features| {
            let layers = embedder.at(name);
            let first = layers.linear("linear_1", dim, in_features)?;
            Ok::<_, WeightError>([first, layers.linear("linear_2", dim, dim)?])
        };
        Ok(Self {
            patch_embedding: patch_embedding(weights, config)?,
            time_embedder: two("time_embedder", config.freq_dim)?,
            time_proj: embedder.linear("time_proj", 6 * dim, dim)?,
            text_embedder: two("text_embedder", config.text_dim)?,
            config: config.clone(),
            limits,
            device: weights.device().clone(),
        })
    }

    /// The text `[tokens, text_dim]` as `[tokens, dim]`.
    ///
    /// # Panics
    ///
    /// If `embeds` has not `text_dim` columns.
    pub fn embed_text(&self, embeds: Tensor<2>, trace: &mut Trace<'_>) -> Tensor<2> {
        let [first, second] = &self.text_embedder;
        let text = second.forward(gelu_tanh(first.forward(embeds))); // [tokens, dim]
        trace.record("text", &text);
        text
    }

    /// Whether the text becomes other tokens at another step of a run.
    pub fn text_depends_on_step(&self) -> bool {
        self.text_embedder.iter().any(Linear::depends_on_step)
    }

    /// The tokens of a latent `[in_channels, frames, height, width]` in as many parts as the limits
    /// ask for, `[tokens, dim]` each.
    ///
    /// # Panics
    ///
    /// As [`WanConfig::grid`].
    pub fn embed_patches(&self, latent: Tensor<4>, trace: &mut Trace<'_>) -> Vec<Tensor<2>> {
        let grid = self.config.grid(latent.dims());
        let patches = patches_from_latent(latent, grid);
        let embed = |patches| {
            let tokens = self.patch_embedding.forward(patches);
            trace.record("patch_embedding", &tokens);
            tokens
        };
        let most = self.limits.tokens(self.config.dim());
        patches.split(most, 0).into_iter().map(embed).collect()
    }

    /// The timestep, in 0 to 1000, as `[1, dim]` for the head and as `[6, dim]` for the blocks: shift,
    /// scale and gate of the attention, then of the feed-forward layer.
    pub fn embed_timestep(&self, timestep: f32, trace: &mut Trace<'_>) -> (Tensor<2>, Tensor<2>) {
        let [first, second] = &self.time_embedder;
        let sinusoid = timestep_sinusoid(timestep, self.config.freq_dim, &self.device);
        let temb = second.forward(silu(first.forward(sinusoid)));
        trace.record("temb", &temb);
        let projected = self.time_proj.forward(silu(temb.clone()));
        trace.record("timestep_proj", &projected);
        (temb, projected.reshape([6, self.config.dim()]))
    }
}

/// The rotary positions of the tokens of a `grid` of frames, patch rows and patch columns, one
/// per part of the tokens.
pub fn rotations(
    config: &WanConfig,
    [frames, rows, columns]: [usize; 3],
    limits: Limits,
    device: &Device,
) -> Vec<Rotation> {
    let [time, height, width] = config.rope_dims();
    let grid = RopeGrid::new(
        RopeAxis::indices(frames, time),
        RopeAxis::indices(rows, height),
        RopeAxis::indices(columns, width),
    );
    let (tokens, most) = (grid.tokens(), limits.tokens(config.dim()));
    (0..tokens)
        .step_by(most)
        .map(|first| grid.rotation(first..(first + most).min(tokens), device))
        .collect()
}

/// The patch embedding: a convolution in the checkpoint, a linear layer over patches here.
///
/// It is the first layer and small, so it is never quantized.
fn patch_embedding(weights: &Weights<'_>, config: &WanConfig) -> Result<Linear, WeightError> {
    let ([t, h, w], dim, channels) = (PATCH, config.dim(), config.in_channels);
    let weight = weights.tensor("patch_embedding.weight", [dim, channels, t, h, w])?;
    let bias = weights.tensor("patch_embedding.bias", [dim])?;
    let weight = weight.reshape([dim, channels * PATCH_PIXELS]);
    Ok(Linear::Full(FullLinear::from_tensors(weight, Some(bias))))
}

/// `[channels, frames, height, width]` to `[tokens, channels · 4]`, a patch in the order
/// channel, row, column.
fn patches_from_latent(latent: Tensor<4>, [frames, rows, columns]: [usize; 3]) -> Tensor<2> {
    let channels = latent.dims()[0];
    let [_, ph, pw] = PATCH;
    let patches =
        latent.reshape([channels, frames, rows, ph, columns, pw]).permute([1, 2, 4, 0, 3, 5]);
    in_a_row(patches).reshape([frames * rows * columns, channels * PATCH_PIXELS])
}
