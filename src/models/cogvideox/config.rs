//! Sizes of a `CogVideoX` transformer, and the tensors they imply.

use crate::models::fields::{Fields, LAYERS, PATCH, WIDTH};
use crate::models::{ConfigError, LinearShape};
use crate::nn::MAX_HEAD_DIM;
use serde_json::Value;

/// Width of the feed-forward layers, in widths of a token.
const FEED_FORWARD: usize = 4;

/// What `transformer/config.json` says; field names as there.
#[derive(Clone, Debug, PartialEq)]
pub struct CogVideoXConfig {
    /// Heads of the attention.
    pub num_attention_heads: usize,
    /// Channels per head.
    pub attention_head_dim: usize,
    /// Channels of the latent.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Width of a text embedding.
    pub text_embed_dim: usize,
    /// Tokens of a text.
    pub max_text_seq_length: usize,
    /// Width of an embedded timestep.
    pub time_embed_dim: usize,
    /// Width of the second embedded number, `ofs`, of the models that take one.
    pub ofs_embed_dim: Option<usize>,
    /// Blocks.
    pub num_layers: usize,
    /// Rows and columns of latent pixels that become one token.
    pub patch_size: usize,
    /// Frames of latent pixels that become one token: 1.5 only.
    pub patch_size_t: Option<usize>,
    /// Whether the patch embedding of the models before 1.5 has a bias; that of 1.5 always has.
    pub patch_bias: bool,
    /// Added to variances, but those of queries and keys.
    pub norm_eps: f64,
    /// Rotary positions in the attention, or a table that is added to the tokens.
    pub use_rotary_positional_embeddings: bool,
    /// Divides the rows and columns of the table.
    pub spatial_interpolation_scale: f64,
    /// Divides the frames of the table.
    pub temporal_interpolation_scale: f64,
    /// Latent rows that it was trained on, and for 1.5 the most.
    pub sample_height: usize,
    /// Latent columns that it was trained on, and for 1.5 the most.
    pub sample_width: usize,
    /// Frames of the videos that it was trained on.
    pub sample_frames: usize,
}

impl CogVideoXConfig {
    /// CogVideoX-2B.
    pub fn cogvideox_2b() -> Self {
        Self {
            num_attention_heads: 30,
            attention_head_dim: 64,
            in_channels: 16,
            out_channels: 16,
            text_embed_dim: 4096,
            max_text_seq_length: 226,
            time_embed_dim: 512,
            ofs_embed_dim: None,
            num_layers: 30,
            patch_size: 2,
            patch_size_t: None,
            patch_bias: true,
            norm_eps: 1e-5,
            use_rotary_positional_embeddings: false,
            spatial_interpolation_scale: 1.875,
            temporal_interpolation_scale: 1.0,
            sample_height: 60,
            sample_width: 90,
            sample_frames: 49,
        }
    }

    /// CogVideoX-5B.
    pub fn cogvideox_5b() -> Self {
        Self {
            num_attention_heads: 48,
            num_layers: 42,
            use_rotary_positional_embeddings: true,
            ..Self::cogvideox_2b()
        }
    }

    /// CogVideoX1.5-5B.
    pub fn cogvideox1_5_5b() -> Self {
        Self {
            patch_size_t: Some(2),
            patch_bias: false,
            sample_height: 300,
            sample_width: 300,
            sample_frames: 81,
            ..Self::cogvideox_5b()
        }
    }

    /// The configuration in a parsed `config.json`.
    ///
    /// # Errors
    ///
    /// If a value is missing, out of range, or asks for another architecture.
    pub fn from_json(json: &Value) -> Result<Self, ConfigError> {
        let fields = Fields(json);
        require_architecture(fields)?;
        let optional = |field, bound| match fields.get(field) {
            Value::Null => Ok(None),
            _ => fields.size(field, bound).map(Some),
        };
        let in_channels = fields.size("in_channels", WIDTH)?;
        let config = Self {
            num_attention_heads: fields.size("num_attention_heads", WIDTH)?,
            attention_head_dim: fields.size("attention_head_dim", WIDTH)?,
            in_channels,
            out_channels: optional("out_channels", WIDTH)?.unwrap_or(in_channels),
            text_embed_dim: fields.size("text_embed_dim", WIDTH)?,
            max_text_seq_length: fields.size("max_text_seq_length", WIDTH)?,
            time_embed_dim: fields.size("time_embed_dim", WIDTH)?,
            ofs_embed_dim: optional("ofs_embed_dim", WIDTH)?,
            num_layers: fields.size("num_layers", LAYERS)?,
            patch_size: fields.size("patch_size", PATCH)?,
            patch_size_t: optional("patch_size_t", PATCH)?,
            // Older configurations do not say.
            patch_bias: fields.get("patch_bias").is_null() || fields.flag("patch_bias")?,
            norm_eps: fields.epsilon("norm_eps")?,
            use_rotary_positional_embeddings: fields.flag("use_rotary_positional_embeddings")?,
            spatial_interpolation_scale: fields.factor("spatial_interpolation_scale")?,
            temporal_interpolation_scale: fields.factor("temporal_interpolation_scale")?,
            sample_height: fields.size("sample_height", WIDTH)?,
            sample_width: fields.size("sample_width", WIDTH)?,
            sample_frames: fields.size("sample_frames", WIDTH)?,
        };
        config.check_widths(fields)?;
        Ok(config)
    }

    /// Refuses widths that positions or sinusoids do not divide.
    fn check_widths(&self, fields: Fields<'_>) -> Result<(), ConfigError> {
        let head_dim = self.attention_head_dim;
        let error = |expected| Err(fields.error("attention_head_dim", expected));
        // A quarter of the channels is for time, the rest for rows and columns alike, in pairs.
        if self.use_rotary_positional_embeddings {
            if !head_dim.is_multiple_of(16) || head_dim > MAX_HEAD_DIM {
                return error("expected a multiple of 16 up to 512, for rotary positions");
            }
        } else if !head_dim.is_multiple_of(2)
            || head_dim > MAX_HEAD_DIM
            || !self.dim().is_multiple_of(16)
        {
            return error(
                "expected an even number up to 512, and that all heads are a multiple of 16 wide",
            );
        }
        if self.ofs_embed_dim.is_some_and(|dim| dim != self.time_embed_dim || dim % 2 != 0) {
            let expected = "expected null or the value of time_embed_dim, an even number";
            return Err(fields.error("ofs_embed_dim", expected));
        }
        Ok(())
    }

    /// Width of a token.
    pub fn dim(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Width of the feed-forward layers.
    pub fn ffn_dim(&self) -> usize {
        FEED_FORWARD * self.dim()
    }

    /// Frames, rows and columns of latent pixels that become one token.
    pub fn patch(&self) -> [usize; 3] {
        [self.patch_size_t.unwrap_or(1), self.patch_size, self.patch_size]
    }

    /// Values that one token predicts.
    pub(super) fn out_features(&self) -> usize {
        self.out_channels * self.patch().iter().product::<usize>()
    }

    /// Most patches along frames, rows and columns.
    ///
    /// Only 1.5 has limits: its positions are indices of a table of one size.
    pub fn max_grid(&self) -> [usize; 3] {
        let is_limited = self.use_rotary_positional_embeddings && self.patch_size_t.is_some();
        let limit = |size| if is_limited { size / self.patch_size } else { usize::MAX };
        [usize::MAX, limit(self.sample_height), limit(self.sample_width)]
    }

    /// Patch frames, patch rows and patch columns of a latent
    /// `[in_channels, frames, height, width]`.
    ///
    /// # Panics
    ///
    /// If the channels do not fit, a size is no multiple of the patch's, or there are more patches
    /// than [`Self::max_grid`].
    pub fn grid(&self, [channels, frames, height, width]: [usize; 4]) -> [usize; 3] {
        let (patch, size) = (self.patch(), [frames, height, width]);
        assert!(
            channels == self.in_channels && (0..3).all(|i| size[i].is_multiple_of(patch[i])),
            "a latent of {channels} channels and {frames}×{height}×{width} for {} channels and \
             patches of {patch:?}",
            self.in_channels
        );
        let grid = [0, 1, 2].map(|i| size[i] / patch[i]);
        let most = self.max_grid();
        assert!((0..3).all(|i| grid[i] <= most[i]), "{grid:?} patches exceed {most:?}");
        grid
    }

    /// Every linear layer, in the order in which they are loaded; each has a bias.
    ///
    /// The patch embedding is among them for 1.5 only: the others store it as a convolution.
    pub fn linears(&self) -> Vec<LinearShape> {
        let (dim, time) = (self.dim(), self.time_embed_dim);
        let shape = |name: &str, out_features, in_features| LinearShape {
            name: name.to_owned(),
            out_features,
            in_features,
        };
        let mut linears = vec![
            shape("time_embedding.linear_1", time, dim),
            shape("time_embedding.linear_2", time, time),
        ];
        if let Some(ofs) = self.ofs_embed_dim {
            linears.push(shape("ofs_embedding.linear_1", ofs, ofs));
            linears.push(shape("ofs_embedding.linear_2", ofs, ofs));
        }
        if self.patch_size_t.is_some() {
            let pixels: usize = self.patch().iter().product();
            linears.push(shape("patch_embed.proj", dim, self.in_channels * pixels));
        }
        linears.push(shape("patch_embed.text_proj", dim, self.text_embed_dim));
        for i in 0..self.num_layers {
            let at = |name: &str| format!("transformer_blocks.{i}.{name}");
            linears.push(shape(&at("norm1.linear"), 6 * dim, time));
            for name in ["to_q", "to_k", "to_v", "to_out.0"] {
                linears.push(shape(&at(&format!("attn1.{name}")), dim, dim));
            }
            linears.push(shape(&at("norm2.linear"), 6 * dim, time));
            linears.push(shape(&at("ff.net.0.proj"), self.ffn_dim(), dim));
            linears.push(shape(&at("ff.net.2"), dim, self.ffn_dim()));
        }
        linears.push(shape("norm_out.linear", 2 * dim, time));
        linears.push(shape("proj_out", self.out_features(), dim));
        linears
    }

    /// Name and shape of every tensor.
    pub fn parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let dim = self.dim();
        let mut shapes = Vec::new();
        if self.patch_size_t.is_none() {
            let kernel = vec![dim, self.in_channels, self.patch_size, self.patch_size];
            shapes.push(("patch_embed.proj.weight".to_owned(), kernel));
            if self.patch_bias {
                shapes.push(("patch_embed.proj.bias".to_owned(), vec![dim]));
            }
        }
        for LinearShape { name, out_features, in_features } in self.linears() {
            shapes.push((format!("{name}.weight"), vec![out_features, in_features]));
            shapes.push((format!("{name}.bias"), vec![out_features]));
        }
        let mut norm = |name: &str, width| {
            for part in ["weight", "bias"] {
                shapes.push((format!("{name}.{part}"), vec![width]));
            }
        };
        for i in 0..self.num_layers {
            let at = |name: &str| format!("transformer_blocks.{i}.{name}");
            norm(&at("norm1.norm"), dim);
            norm(&at("norm2.norm"), dim);
            norm(&at("attn1.norm_q"), self.attention_head_dim);
            norm(&at("attn1.norm_k"), self.attention_head_dim);
        }
        norm("norm_final", dim);
        norm("norm_out.norm", dim);
        shapes
    }
}

/// Refuses other architectures than that of the published models.
fn require_architecture(fields: Fields<'_>) -> Result<(), ConfigError> {
    let learned = "use_learned_positional_embeddings";
    fields.require(
        learned,
        |value| value.is_null() || *value == false,
        "expected false: models with learned positions, made for images, are not supported",
    )?;
    for field in ["attention_bias", "norm_elementwise_affine", "flip_sin_to_cos"] {
        fields.require(field, |value| value.is_null() || *value == true, "expected true")?;
    }
    fields.require("freq_shift", |value| value.is_null() || *value == 0, "expected 0")?;
    fields.require(
        "activation_fn",
        |value| value.is_null() || value == "gelu-approximate",
        "expected \"gelu-approximate\"",
    )?;
    fields.require(
        "timestep_activation_fn",
        |value| value.is_null() || value == "silu",
        "expected \"silu\"",
    )
}
