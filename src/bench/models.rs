//! Models of known sizes, whose blocks and steps are timed with random weights.

use crate::models::DenoiserConfig;
use crate::models::wan::WanConfig;
use crate::pipeline::family::published_models;
use std::sync::Arc;

/// The small model inside the program, by its name in the list.
const POCKET: &str = "pocket";

/// A model of known sizes.
#[derive(Clone, Debug)]
pub struct Model {
    /// Name on the command line and in reports.
    pub name: &'static str,
    /// Its sizes.
    pub config: Arc<dyn DenoiserConfig>,
    /// Width and height of its videos, pixels.
    pub size: (usize, usize),
    /// Frames of a short video of it.
    pub short_frames: usize,
    /// Text tokens that it sees.
    pub text_tokens: usize,
    /// Pixels that become one latent pixel, in a row.
    pub(super) pixels_per_latent: usize,
}

impl PartialEq for Model {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Model {
    /// Every model: the small one inside the program, then the published ones, family by family.
    pub fn all() -> Vec<Self> {
        let published = published_models().into_iter().map(|model| {
            let usual = model.transformer.usual_call(model.pixels_per_latent);
            Self {
                name: model.name,
                size: (usual.width, usual.height),
                short_frames: 17,
                text_tokens: usual.text_tokens,
                pixels_per_latent: model.pixels_per_latent,
                config: model.transformer,
            }
        });
        std::iter::once(Self::pocket()).chain(published).collect()
    }

    /// The model of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|model| model.name == name)
    }

    /// The small model inside the program; its sizes are what `qvgen pretrain` chooses.
    pub fn pocket() -> Self {
        let config = WanConfig {
            num_attention_heads: 4,
            attention_head_dim: 24,
            in_channels: 8,
            out_channels: 8,
            text_dim: 32,
            freq_dim: 64,
            ffn_dim: 384,
            num_layers: 4,
            ..WanConfig::wan2_1_t2v_1_3b()
        };
        Self {
            name: POCKET,
            config: Arc::new(config),
            size: (32, 32),
            short_frames: 9,
            text_tokens: 16,
            pixels_per_latent: 4,
        }
    }

    /// The model whose true sizes are timed unless another is asked for.
    ///
    /// # Panics
    ///
    /// Never: it is among the published ones.
    pub fn usual() -> Self {
        Self::named("wan-1.3b").expect("a published model")
    }

    /// Whether it is the small one.
    pub fn is_pocket(&self) -> bool {
        self.name == POCKET
    }

    /// `[channels, frames, height, width]` of the latent of a video, in whole patches.
    pub fn latent(&self, frames: usize, (width, height): (usize, usize)) -> [usize; 4] {
        let [_, rows, columns] = self.config.patch();
        let latents =
            |pixels: usize, patch: usize| (pixels / self.pixels_per_latent / patch).max(1) * patch;
        let frames = self.config.padded_frames((frames.max(1) - 1) / 4 + 1);
        [self.config.in_channels(), frames, latents(height, rows), latents(width, columns)]
    }

    /// Frames, patch rows and patch columns of so many tokens: frames of the usual size where they
    /// fill them; `None` if the model has no positions for them.
    pub(super) fn grid(&self, tokens: usize) -> Option<[usize; 3]> {
        let [_, rows, columns] = self.config.grid(self.latent(1, self.size));
        let grid = match tokens {
            t if t.is_multiple_of(rows * columns) => [t / (rows * columns), rows, columns],
            t if t.is_multiple_of(8) => [1, 8, t / 8],
            t => [1, 1, t],
        };
        let most = self.config.max_grid();
        (0..3).all(|axis| (1..=most[axis]).contains(&grid[axis])).then_some(grid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pocket_model_has_the_sizes_of_its_folder() {
        let json = include_str!("../../assets/models/pocket/transformer/config.json");
        let config = WanConfig::from_json(&serde_json::from_str(json).unwrap()).unwrap();
        assert_eq!(format!("{:?}", Model::pocket().config), format!("{config:?}"));
    }

    #[test]
    fn tokens_become_videos_that_rotary_positions_can_address() {
        let model = Model::usual();
        assert_eq!(model.grid(32_760), Some([21, 30, 52]));
        assert_eq!(model.grid(64), Some([1, 8, 8]));
        assert_eq!(model.grid(8 * 1025), None);
    }
}
