//! What comes after the blocks: tokens become the predicted velocity.

use super::WanConfig;
use super::block::modulation;
use super::config::{PATCH, PATCH_PIXELS};
use crate::nn::{
    FrameTokens, LayerNorm, Linear, LinearInput, Modulation, Trace, WeightError, Weights,
    concatenate, in_a_row,
};
use burn::tensor::Tensor;

/// The last normalization and projection.
#[derive(Debug)]
pub struct WanHead {
    out_channels: usize,
    norm_out: LayerNorm,
    /// `[2, dim]`: shift, scale.
    scale_shift_table: Tensor<2>,
    proj_out: Linear,
}

impl WanHead {
    /// The head of the transformer at `weights`.
    ///
    /// # Errors
    ///
    /// If a tensor is missing or unusable.
    pub fn load(weights: &Weights<'_>, config: &WanConfig) -> Result<Self, WeightError> {
        let dim = config.dim();
        Ok(Self {
            out_channels: config.out_channels,
            norm_out: LayerNorm::plain(config.eps),
            scale_shift_table: weights.tensor("scale_shift_table", [1, 2, dim])?.reshape([2, dim]),
            proj_out: weights.linear("proj_out", PATCH_PIXELS * config.out_channels, dim)?,
        })
    }

    /// What a timestep does before the projection; `temb` is `[1, dim]`.
    ///
    /// # Panics
    ///
    /// If it has another shape.
    pub fn timestep(&self, temb: &Tensor<2>) -> Modulation {
        modulation(&(self.scale_shift_table.clone() + temb.clone()), 0)
    }

    /// The velocity `[out_channels, frames, height, width]` of the tokens of a `grid` of frames,
    /// patch rows and patch columns.
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
            trace.record_with("norm_out", || self.norm_out.forward(hidden.clone()));
            let normed = LinearInput::normed(hidden, &self.norm_out, Some(timestep));
            let patches = self.proj_out.forward_input(&normed.of_frames(of_frames));
            trace.record("proj_out", &patches);
            patches
        };
        let patches = concatenate(hidden.into_iter().map(project).collect(), 0);
        latent_from_patches(patches, grid, self.out_channels)
    }
}

/// `[tokens, 4 · channels]` to `[channels, frames, height, width]`; a patch is in the order row,
/// column, channel, other than on the way in.
fn latent_from_patches(
    patches: Tensor<2>,
    [frames, rows, columns]: [usize; 3],
    channels: usize,
) -> Tensor<4> {
    let [_, ph, pw] = PATCH;
    let values =
        patches.reshape([frames, rows, columns, ph, pw, channels]).permute([5, 0, 1, 3, 2, 4]);
    in_a_row(values).reshape([channels, frames, rows * ph, columns * pw])
}
