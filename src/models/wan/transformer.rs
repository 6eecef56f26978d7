//! From a noisy latent, a timestep and a text to the predicted velocity.

use super::WanConfig;
use super::block::{Block, Conditioning, Modulation};
use super::config::{PATCH, PATCH_PIXELS};
use crate::nn::{
    FullLinear, KeysValues, LayerNorm, Limits, Linear, RopeAxis, RopeGrid, Rotation, Trace,
    WeightError, Weights, gelu_tanh, silu, timestep_sinusoid,
};
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
#[derive(Debug)]
pub struct WanTransformer {
    config: WanConfig,
    limits: Limits,
    device: Device,
    patch_embedding: Linear,
    time_embedder: [Linear; 2],
    time_proj: Linear,
    text_embedder: [Linear; 2],
    blocks: Vec<Block>,
    norm_out: LayerNorm,
    /// `[2, dim]`: shift, scale.
    scale_shift_table: Tensor<2>,
    proj_out: Linear,
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
        let (dim, layers) = (config.dim(), config.num_layers);
        let embedder = weights.at("condition_embedder");
        let two = |name: &str, in_features| {
            let layers = embedder.at(name);
            let first = layers.linear("linear_1", dim, in_features)?;
            Ok::<_, WeightError>([first, layers.linear("linear_2", dim, dim)?])
        };
        let block = |index| {
            let block = Block::load(weights, config, limits, index)?;
            loaded(index + 1, layers);
            Ok(block)
        };
        Ok(Self {
            patch_embedding: patch_embedding(weights, config, limits)?,
            time_embedder: two("time_embedder", config.freq_dim)?,
            time_proj: embedder.linear("time_proj", 6 * dim, dim)?,
            text_embedder: two("text_embedder", config.text_dim)?,
            blocks: (0..layers).map(block).collect::<Result<_, WeightError>>()?,
            norm_out: LayerNorm::plain(config.eps),
            scale_shift_table: weights.tensor("scale_shift_table", [1, 2, dim])?.reshape([2, dim]),
            proj_out: weights.linear("proj_out", PATCH_PIXELS * config.out_channels, dim)?,
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
        let [first, second] = &self.text_embedder;
        let text = second.forward(gelu_tanh(first.forward(embeds))); // [tokens, dim]
        trace.record("text", &text);
        TextContext {
            blocks: self.blocks.iter().map(|block| block.text_keys_values(&text)).collect(),
        }
    }

    /// The velocity `[out_channels, frames, height, width]` at `latent`
    /// `[in_channels, frames, height, width]`; the timestep is in 0 to 1000.
    ///
    /// # Panics
    ///
    /// If the channels do not fit the configuration, height or width is odd, or the latent has
    /// more than `rope_max_seq_len` frames, patch rows or patch columns.
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
        let grid = self.grid(&latent);
        let mut hidden = self.embed_patches(latent, grid, trace);
        let (temb, timestep_proj) = self.embed_timestep(timestep, trace);
        let conditioning =
            Conditioning { timestep: timestep_proj, rotations: self.rotations(grid, &hidden) };
        for (block, text) in self.blocks.iter().zip(&context.blocks) {
            hidden = block.forward(hidden, &conditioning, text, trace);
        }
        let modulation = Modulation::of(&(self.scale_shift_table.clone() + temb), 0);
        let project = |hidden| {
            let normed = self.norm_out.forward(hidden);
            trace.record("norm_out", &normed);
            let patches = self.proj_out.forward(modulation.apply(normed));
            trace.record("proj_out", &patches);
            patches
        };
        let patches = Tensor::cat(hidden.into_iter().map(project).collect(), 0);
        latent_from_patches(patches, grid, self.config.out_channels)
    }

    /// Frames, patch rows and patch columns of `latent`.
    fn grid(&self, latent: &Tensor<4>) -> [usize; 3] {
        let [channels, frames, height, width] = latent.dims();
        assert!(
            channels == self.config.in_channels
                && height.is_multiple_of(PATCH[1])
                && width.is_multiple_of(PATCH[2]),
            "a latent of shape {:?} for {} channels and patches of {PATCH:?}",
            latent.dims(),
            self.config.in_channels
        );
        let grid = [frames, height / PATCH[1], width / PATCH[2]];
        let longest = self.config.rope_max_seq_len;
        assert!(grid.iter().all(|&len| len <= longest), "{grid:?} exceeds {longest} positions");
        grid
    }

    /// The tokens of a latent in as many parts as the limits ask for, `[tokens, dim]` each.
    fn embed_patches(
        &self,
        latent: Tensor<4>,
        grid: [usize; 3],
        trace: &mut Trace<'_>,
    ) -> Vec<Tensor<2>> {
        let patches = patches_from_latent(latent, grid);
        let embed = |patches| {
            let tokens = self.patch_embedding.forward(patches);
            trace.record("patch_embedding", &tokens);
            tokens
        };
        let most = self.limits.tokens(self.config.dim());
        patches.split(most, 0).into_iter().map(embed).collect()
    }

    /// The timestep as `[1, dim]` for the output and as `[6, dim]` for the blocks.
    fn embed_timestep(&self, timestep: f32, trace: &mut Trace<'_>) -> (Tensor<2>, Tensor<2>) {
        let [first, second] = &self.time_embedder;
        let sinusoid = timestep_sinusoid(timestep, self.config.freq_dim, &self.device);
        let temb = second.forward(silu(first.forward(sinusoid)));
        trace.record("temb", &temb);
        let projected = self.time_proj.forward(silu(temb.clone()));
        trace.record("timestep_proj", &projected);
        (temb, projected.reshape([6, self.config.dim()]))
    }

    fn rotations(&self, [frames, rows, columns]: [usize; 3], parts: &[Tensor<2>]) -> Vec<Rotation> {
        let [time, height, width] = self.config.rope_dims();
        let grid = RopeGrid::new(
            RopeAxis::indices(frames, time),
            RopeAxis::indices(rows, height),
            RopeAxis::indices(columns, width),
        );
        let mut first = 0;
        let rotate = |part: &Tensor<2>| {
            let tokens = first..first + part.dims()[0];
            first = tokens.end;
            grid.rotation(tokens, &self.device)
        };
        parts.iter().map(rotate).collect()
    }
}

/// The patch embedding: a convolution in the checkpoint, a linear layer over patches here.
///
/// It is the first layer and small, so it is never quantized.
fn patch_embedding(
    weights: &Weights<'_>,
    config: &WanConfig,
    limits: Limits,
) -> Result<Linear, WeightError> {
    let ([t, h, w], dim, channels) = (PATCH, config.dim(), config.in_channels);
    let weight = weights.values("patch_embedding.weight", &[dim, channels, t, h, w])?;
    let bias = weights.values("patch_embedding.bias", &[dim])?;
    let in_features = channels * PATCH_PIXELS;
    let (most, device) = (limits.max_elements, weights.device());
    Ok(Linear::Full(FullLinear::new(&weight, Some(bias), in_features, most, device)))
}

/// `[channels, frames, height, width]` to `[tokens, channels · 4]`, a patch in the order
/// channel, row, column.
fn patches_from_latent(latent: Tensor<4>, [frames, rows, columns]: [usize; 3]) -> Tensor<2> {
    let channels = latent.dims()[0];
    let [_, ph, pw] = PATCH;
    latent
        .reshape([channels, frames, rows, ph, columns, pw])
        .permute([1, 2, 4, 0, 3, 5])
        .reshape([frames * rows * columns, channels * PATCH_PIXELS])
}

/// `[tokens, 4 · channels]` to `[channels, frames, height, width]`; a patch is in the order row,
/// column, channel, other than on the way in.
fn latent_from_patches(
    patches: Tensor<2>,
    [frames, rows, columns]: [usize; 3],
    channels: usize,
) -> Tensor<4> {
    let [_, ph, pw] = PATCH;
    patches
        .reshape([frames, rows, columns, ph, pw, channels])
        .permute([5, 0, 1, 3, 2, 4])
        .reshape([channels, frames, rows * ph, columns * pw])
}
