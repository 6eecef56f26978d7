//! What comes before the blocks: patches, timestep and text become tokens of the model's width.

use super::CogVideoXConfig;
use super::positions::{Positions, part_tokens};
use crate::nn::{FullLinear, Limits, Linear, Trace, WeightError, Weights, silu, timestep_sinusoid};
use burn::tensor::{Device, Tensor};
use std::path::PathBuf;

/// The number that models with a second embedded number are given: the only one that the published
/// pipelines give.
const OFS: f32 = 2.0;

/// The embedding layers.
#[derive(Debug)]
pub struct CogVideoXEmbedder {
    config: CogVideoXConfig,
    limits: Limits,
    device: Device,
    proj: Linear,
    text_proj: Linear,
    time_embedding: [Linear; 2],
    ofs_embedding: Option<[Linear; 2]>,
    ofs: f32,
}

impl CogVideoXEmbedder {
    /// The layers of the transformer at `weights`.
    ///
    /// # Errors
    ///
    /// If a tensor is missing or unusable, or positions are stored: only models with learned ones,
    /// made for images, store them.
    pub fn load(
        weights: &Weights<'_>,
        config: &CogVideoXConfig,
        limits: Limits,
    ) -> Result<Self, WeightError> {
        let patch_embed = weights.at("patch_embed");
        if patch_embed.has("pos_embedding") {
            return Err(WeightError::Unusable {
                tensor: "patch_embed.pos_embedding".to_owned(),
                message: "learned positions, of models made for images, are not supported".into(),
                path: PathBuf::from("the transformer's weights"),
            });
        }
        let (dim, time_dim) = (config.dim(), config.time_embed_dim);
        let two = |name: &str, in_features| {
            let layers = weights.at(name);
            let first = layers.linear("linear_1", time_dim, in_features)?;
            Ok::<_, WeightError>([first, layers.linear("linear_2", time_dim, time_dim)?])
        };
        let ofs_embedding = config.ofs_embed_dim.map(|dim| two("ofs_embedding", dim));
        Ok(Self {
            proj: patch_projection(&patch_embed, config)?,
            text_proj: patch_embed.linear("text_proj", dim, config.text_embed_dim)?,
            time_embedding: two("time_embedding", dim)?,
            ofs_embedding: ofs_embedding.transpose()?,
            ofs: OFS,
            config: config.clone(),
            limits,
            device: weights.device().clone(),
        })
    }

    /// The same with another second embedded number, for the models that take one.
    #[must_use]
    pub fn with_ofs(self, ofs: f32) -> Self {
        Self { ofs, ..self }
    }

    /// The text `[tokens, text_embed_dim]` as `[tokens, dim]`.
    ///
    /// # Panics
    ///
    /// If `embeds` has not `text_embed_dim` columns.
    pub fn embed_text(&self, embeds: Tensor<2>, trace: &mut Trace<'_>) -> Tensor<2> {
        let text = self.text_proj.forward(embeds);
        trace.record("patch_embed.text", &text);
        text
    }

    /// Whether the text becomes other tokens at another step of a run.
    pub fn text_depends_on_step(&self) -> bool {
        self.text_proj.depends_on_step()
    }

    /// The tokens of a latent `[in_channels, frames, height, width]`, `[tokens, dim]` per part;
    /// there is a position per part.
    ///
    /// # Panics
    ///
    /// As [`CogVideoXConfig::grid`], or if the positions are of another grid.
    pub fn embed_patches(
        &self,
        latent: Tensor<4>,
        positions: &[Positions],
        trace: &mut Trace<'_>,
    ) -> Vec<Tensor<2>> {
        let grid = self.config.grid(latent.dims());
        let patches = patches_from_latent(latent, grid, self.config.patch());
        let patches = patches.split(part_tokens(&self.config, self.limits), 0);
        assert_eq!(patches.len(), positions.len(), "parts of the video and their positions");
        let embed = |(patches, positions): (Tensor<2>, &Positions)| {
            let tokens = positions.add_to(self.proj.forward(patches));
            trace.record("patch_embed.hidden", &tokens);
            tokens
        };
        patches.into_iter().zip(positions).map(embed).collect()
    }

    /// The timestep, in 0 to 1000, as blocks and head take it, `[1, time_embed_dim]`.
    pub fn embed_timestep(&self, timestep: f32, trace: &mut Trace<'_>) -> Tensor<2> {
        let embed = |[first, second]: &[Linear; 2], value, dim| {
            second.forward(silu(first.forward(timestep_sinusoid(value, dim, &self.device))))
        };
        let mut embedded = embed(&self.time_embedding, timestep, self.config.dim());
        trace.record("time_embedding", &embedded);
        if let Some(layers) = &self.ofs_embedding {
            embedded = embedded + embed(layers, self.ofs, self.config.time_embed_dim);
        }
        silu(embedded)
    }
}

/// The patch embedding: a linear layer over patches, stored as a convolution before 1.5.
///
/// The convolution is the first layer and small, so it is never quantized.
fn patch_projection(
    weights: &Weights<'_>,
    config: &CogVideoXConfig,
) -> Result<Linear, WeightError> {
    let (dim, channels, side) = (config.dim(), config.in_channels, config.patch_size);
    let in_features = channels * config.patch().iter().product::<usize>();
    if config.patch_size_t.is_some() {
        return weights.linear("proj", dim, in_features);
    }
    let weight = weights.tensor("proj.weight", [dim, channels, side, side])?;
    let bias = config.patch_bias.then(|| weights.tensor("proj.bias", [dim])).transpose()?;
    Ok(Linear::Full(FullLinear::from_tensors(weight.reshape([dim, in_features]), bias)))
}

/// `[channels, frames, height, width]` to `[tokens, _]`, a patch in the order channel, frame, row,
/// column.
fn patches_from_latent(
    latent: Tensor<4>,
    [frames, rows, columns]: [usize; 3],
    [pt, ph, pw]: [usize; 3],
) -> Tensor<2> {
    let channels = latent.dims()[0];
    latent
        .reshape([channels, frames, pt, rows, ph, columns, pw])
        .permute([1, 3, 5, 0, 2, 4, 6])
        .reshape([frames * rows * columns, channels * pt * ph * pw])
}
