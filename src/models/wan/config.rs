//! Sizes of a Wan transformer, and the tensors they imply.

use crate::models::fields::{Fields, LAYERS, WIDTH};
use crate::models::{ConfigError, LinearShape};
use crate::nn::MAX_HEAD_DIM;
use serde_json::{Value, json};

/// Latent pixels that become one token: 1 frame, 2 rows, 2 columns.
pub(super) const PATCH: [usize; 3] = [1, 2, 2];
/// Latent pixels of a patch.
pub(super) const PATCH_PIXELS: usize = PATCH[0] * PATCH[1] * PATCH[2];

/// What `transformer/config.json` says; field names as there.
#[derive(Clone, Debug, PartialEq)]
pub struct WanConfig {
    /// Heads of every attention.
    pub num_attention_heads: usize,
    /// Channels per head, an even number.
    pub attention_head_dim: usize,
    /// Channels of the latent.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Width of a text embedding.
    pub text_dim: usize,
    /// Width of the timestep's sinusoids, an even number.
    pub freq_dim: usize,
    /// Width of the feed-forward layers.
    pub ffn_dim: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Whether the normalization before cross-attention exists.
    pub cross_attn_norm: bool,
    /// Added to variances and mean squares.
    pub eps: f64,
    /// Most frames, patch rows or patch columns.
    pub rope_max_seq_len: usize,
}

impl WanConfig {
    /// Wan2.1-T2V-1.3B.
    pub fn wan2_1_t2v_1_3b() -> Self {
        Self {
            num_attention_heads: 12,
            attention_head_dim: 128,
            in_channels: 16,
            out_channels: 16,
            text_dim: 4096,
            freq_dim: 256,
            ffn_dim: 8960,
            num_layers: 30,
            cross_attn_norm: true,
            eps: 1e-6,
            rope_max_seq_len: 1024,
        }
    }

    /// Wan2.1-T2V-14B.
    pub fn wan2_1_t2v_14b() -> Self {
        Self { num_attention_heads: 40, ffn_dim: 13_824, num_layers: 40, ..Self::wan2_1_t2v_1_3b() }
    }

    /// The configuration in a parsed `config.json`.
    ///
    /// # Errors
    ///
    /// If a value is missing, out of range, or asks for another architecture, such as an
    /// image-to-video model.
    pub fn from_json(json: &Value) -> Result<Self, ConfigError> {
        let fields = Fields(json);
        fields.require("patch_size", |v| *v == json!(PATCH), "expected [1, 2, 2]")?;
        fields.require(
            "qk_norm",
            |v| v == "rms_norm_across_heads",
            "expected \"rms_norm_across_heads\"",
        )?;
        for field in ["image_dim", "added_kv_proj_dim", "pos_embed_seq_len"] {
            let expected = "expected null: only text-to-video models are supported";
            fields.require(field, Value::is_null, expected)?;
        }
        let in_channels = fields.size("in_channels", WIDTH)?;
        let config = Self {
            num_attention_heads: fields.size("num_attention_heads", WIDTH)?,
            attention_head_dim: fields.size("attention_head_dim", WIDTH)?,
            in_channels,
            out_channels: match fields.get("out_channels") {
                Value::Null => in_channels,
                _ => fields.size("out_channels", WIDTH)?,
            },
            text_dim: fields.size("text_dim", WIDTH)?,
            freq_dim: fields.size("freq_dim", WIDTH)?,
            ffn_dim: fields.size("ffn_dim", WIDTH)?,
            num_layers: fields.size("num_layers", LAYERS)?,
            cross_attn_norm: fields.flag("cross_attn_norm")?,
            eps: fields.epsilon("eps")?,
            rope_max_seq_len: fields.size("rope_max_seq_len", WIDTH)?,
        };
        let head_dim = config.attention_head_dim;
        if !head_dim.is_multiple_of(2) || head_dim > MAX_HEAD_DIM {
            return Err(fields.error("attention_head_dim", "expected an even number up to 512"));
        }
        if !config.freq_dim.is_multiple_of(2) {
            return Err(fields.error("freq_dim", "expected an even number"));
        }
        Ok(config)
    }

    /// Width of a token.
    pub fn dim(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Frames, patch rows and patch columns of a latent `[in_channels, frames, height, width]`.
    ///
    /// # Panics
    ///
    /// If the channels do not fit, height or width is odd, or the latent has more than
    /// `rope_max_seq_len` frames, patch rows or patch columns.
    pub fn grid(&self, [channels, frames, height, width]: [usize; 4]) -> [usize; 3] {
        assert!(
            channels == self.in_channels
                && height.is_multiple_of(PATCH[1])
                && width.is_multiple_of(PATCH[2]),
            "a latent of {channels} channels and {height}×{width} for {} channels and patches of \
             {PATCH:?}",
            self.in_channels
        );
        let grid = [frames, height / PATCH[1], width / PATCH[2]];
        let longest = self.rope_max_seq_len;
        assert!(grid.iter().all(|&len| len <= longest), "{grid:?} exceeds {longest} positions");
        grid
    }

    /// Channels of a head that rotate with frame, row and column.
    pub(super) fn rope_dims(&self) -> [usize; 3] {
        let spatial = 2 * (self.attention_head_dim / 6);
        [self.attention_head_dim - 2 * spatial, spatial, spatial]
    }

    /// Every linear layer, in the order in which they are loaded; each has a bias.
    ///
    /// The patch embedding is stored as a convolution and not among them.
    pub fn linears(&self) -> Vec<LinearShape> {
        let dim = self.dim();
        let shape = |name: &str, out_features, in_features| LinearShape {
            name: name.to_owned(),
            out_features,
            in_features,
        };
        let mut linears = vec![
            shape("condition_embedder.time_embedder.linear_1", dim, self.freq_dim),
            shape("condition_embedder.time_embedder.linear_2", dim, dim),
            shape("condition_embedder.time_proj", 6 * dim, dim),
            shape("condition_embedder.text_embedder.linear_1", dim, self.text_dim),
            shape("condition_embedder.text_embedder.linear_2", dim, dim),
        ];
        for i in 0..self.num_layers {
            for attention in ["attn1", "attn2"] {
                for name in ["to_q", "to_k", "to_v", "to_out.0"] {
                    linears.push(shape(&format!("blocks.{i}.{attention}.{name}"), dim, dim));
                }
            }
            linears.push(shape(&format!("blocks.{i}.ffn.net.0.proj"), self.ffn_dim, dim));
            linears.push(shape(&format!("blocks.{i}.ffn.net.2"), dim, self.ffn_dim));
        }
        linears.push(shape("proj_out", PATCH_PIXELS * self.out_channels, dim));
        linears
    }

    /// Name and shape of every tensor.
    pub fn parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let dim = self.dim();
        let [t, h, w] = PATCH;
        let mut shapes = vec![
            ("patch_embedding.weight".to_owned(), vec![dim, self.in_channels, t, h, w]),
            ("patch_embedding.bias".to_owned(), vec![dim]),
        ];
        for LinearShape { name, out_features, in_features } in self.linears() {
            shapes.push((format!("{name}.weight"), vec![out_features, in_features]));
            shapes.push((format!("{name}.bias"), vec![out_features]));
        }
        for i in 0..self.num_layers {
            shapes.push((format!("blocks.{i}.scale_shift_table"), vec![1, 6, dim]));
            for name in ["attn1.norm_q", "attn1.norm_k", "attn2.norm_q", "attn2.norm_k"] {
                shapes.push((format!("blocks.{i}.{name}.weight"), vec![dim]));
            }
            if self.cross_attn_norm {
                shapes.push((format!("blocks.{i}.norm2.weight"), vec![dim]));
                shapes.push((format!("blocks.{i}.norm2.bias"), vec![dim]));
            }
        }
        shapes.push(("scale_shift_table".to_owned(), vec![1, 2, dim]));
        shapes
    }
}
