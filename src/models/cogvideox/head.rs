//! What comes after the blocks: the video's tokens become the predicted velocity.

use super::CogVideoXConfig;
use super::modulation::AdaptiveNorm;
use crate::nn::{FrameTokens, LayerNorm, Linear, Modulation, Trace, WeightError, Weights};
use burn::tensor::Tensor;

/// The last two normalizations and the projection.
#[derive(Debug)]
pub struct CogVideoXHead {
    config: CogVideoXConfig,
    norm_final: LayerNorm,
    norm_out: AdaptiveNorm,
    proj_out: Linear,
}

impl CogVideoXHead {
    /// The head of the transformer at `weights`.
    ///
    /// # Errors
    ///
    /// If a tensor is missing or unusable.
    pub fn load(weights: &Weights<'_>, config: &CogVideoXConfig) -> Result<Self, WeightError> {
        let dim = config.dim();
        Ok(Self {
            norm_final: LayerNorm::load(&weights.at("norm_final"), dim, config.norm_eps)?,
            norm_out: AdaptiveNorm::load(&weights.at("norm_out"), config, 2)?,
            proj_out: weights.linear("proj_out", config.out_features(), dim)?,
            config: config.clone(),
        })
    }

    /// What a timestep does before the projection; `conditioning` is `[1, time_embed_dim]`.
    ///
    /// # Panics
    ///
    /// If it has another shape.
    pub fn timestep(&self, conditioning: &Tensor<2>) -> Modulation {
        self.norm_out.modulation(&self.norm_out.rows(conditioning), 0)
    }

    /// The velocity `[out_channels, frames, height, width]` of the tokens of a `grid` of patch
    /// frames, patch rows and patch columns; `hidden` is what the last block returns, text first.
    ///
    /// # Panics
    ///
    /// If the tokens are not those of the grid.
    pub fn forward(
        &self,
        hidden: Vec<Tensor<2>>,
        timestep: &Modulation,
        grid: [usize; 3],
        trace: &mut Trace<'_>,
    ) -> Tensor<4> {
        let mut frames = FrameTokens { first: 0, per_frame: grid[1] * grid[2] };
        let project = |hidden: Tensor<2>| {
            let of_frames = Some(frames);
            frames = frames.skip(hidden.dims()[0]);
            let hidden = self.norm_final.forward(hidden);
            trace.record("norm_final", &hidden);
            let normed = self.norm_out.normed(hidden, timestep);
            trace.record_with("norm_out", || normed.values());
            let patches = self.proj_out.forward_input(&normed.of_frames(of_frames));
            trace.record("proj_out", &patches);
            patches
        };
        let patches = Tensor::cat(hidden.into_iter().skip(1).map(project).collect(), 0);
        latent_from_patches(patches, grid, self.config.patch())
    }
}

/// `[tokens, _]` to `[channels, frames, height, width]`; a patch is in the order channel, frame,
/// row, column, as on the way in.
fn latent_from_patches(
    patches: Tensor<2>,
    [frames, rows, columns]: [usize; 3],
    [pt, ph, pw]: [usize; 3],
) -> Tensor<4> {
    let channels = patches.dims()[1] / (pt * ph * pw);
    patches
        .reshape([frames, rows, columns, channels, pt, ph, pw])
        .permute([3, 0, 4, 1, 5, 2, 6])
        .reshape([channels, frames * pt, rows * ph, columns * pw])
}
