//! Sizes of a T5 v1.1 or UMT5 encoder.

use crate::models::fields::{Fields, LAYERS, VOCABULARY, WIDTH};
use crate::models::{ConfigError, LinearShape};
use serde_json::Value;

const MAX_DISTANCE: &str = "relative_attention_max_distance";

/// Distance of a configuration that names none, as the published code reads it.
const DEFAULT_MAX_DISTANCE: usize = 128;

/// Member of the family: they differ in where the tables of relative positions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum T5Variant {
    /// T5 v1.1: the first block's table serves all blocks.
    V1_1,
    /// UMT5: every block has its own.
    Umt5,
}

/// What `text_encoder/config.json` says; field names as there.
#[derive(Clone, Debug, PartialEq)]
pub struct T5Config {
    /// From `model_type`.
    pub variant: T5Variant,
    /// Width of a token.
    pub d_model: usize,
    /// Channels per head.
    pub d_kv: usize,
    /// Width of the feed-forward layer.
    pub d_ff: usize,
    /// Heads; their total width need not be `d_model`.
    pub num_heads: usize,
    /// Blocks.
    pub num_layers: usize,
    /// Rows of a relative position table, half of them for keys before the query.
    pub relative_attention_num_buckets: usize,
    /// Distance in tokens from which all keys share a bucket.
    pub relative_attention_max_distance: usize,
    /// Added to the mean square in normalizations.
    pub layer_norm_epsilon: f64,
    /// Rows of the embedding.
    pub vocab_size: usize,
}

impl T5Config {
    /// The encoder of all Wan 2.1 models: UMT5-XXL.
    pub fn umt5_xxl() -> Self {
        Self { variant: T5Variant::Umt5, vocab_size: 256_384, ..Self::t5_v1_1_xxl() }
    }

    /// The encoder of all `CogVideoX` models: T5-v1.1-XXL.
    pub fn t5_v1_1_xxl() -> Self {
        Self {
            variant: T5Variant::V1_1,
            d_model: 4096,
            d_kv: 64,
            d_ff: 10_240,
            num_heads: 64,
            num_layers: 24,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            layer_norm_epsilon: 1e-6,
            vocab_size: 32_128,
        }
    }

    /// The configuration in a parsed `config.json`.
    ///
    /// # Errors
    ///
    /// If a value is missing, out of range, or asks for another architecture.
    pub fn from_json(json: &Value) -> Result<Self, ConfigError> {
        let fields = Fields(json);
        let variant = match fields.get("model_type").as_str() {
            Some("t5") => T5Variant::V1_1,
            Some("umt5") => T5Variant::Umt5,
            _ => return Err(fields.error("model_type", "expected \"t5\" or \"umt5\"")),
        };
        fields.require("feed_forward_proj", |v| v == "gated-gelu", "expected \"gated-gelu\"")?;
        fields.require(
            "dense_act_fn",
            |v| v.is_null() || v == "gelu_new" || v == "gelu_pytorch_tanh",
            "expected \"gelu_new\"",
        )?;
        let config = Self {
            variant,
            d_model: fields.size("d_model", WIDTH)?,
            d_kv: fields.size("d_kv", WIDTH)?,
            d_ff: fields.size("d_ff", WIDTH)?,
            num_heads: fields.size("num_heads", WIDTH)?,
            num_layers: fields.size("num_layers", LAYERS)?,
            relative_attention_num_buckets: fields.size("relative_attention_num_buckets", WIDTH)?,
            relative_attention_max_distance: match fields.get(MAX_DISTANCE) {
                Value::Null => DEFAULT_MAX_DISTANCE,
                _ => fields.size(MAX_DISTANCE, VOCABULARY)?,
            },
            layer_norm_epsilon: fields.epsilon("layer_norm_epsilon")?,
            vocab_size: fields.size("vocab_size", VOCABULARY)?,
        };
        let buckets = config.relative_attention_num_buckets;
        if !buckets.is_multiple_of(4) {
            return Err(fields.error("relative_attention_num_buckets", "expected a multiple of 4"));
        }
        if config.relative_attention_max_distance <= buckets / 4 {
            return Err(fields.error(
                MAX_DISTANCE,
                "expected more than a quarter of relative_attention_num_buckets",
            ));
        }
        Ok(config)
    }

    /// [`Self::from_json`] of an encoder that must be of one variant.
    ///
    /// # Errors
    ///
    /// As there, or if it is of the other.
    pub fn of_variant(variant: T5Variant, json: &Value) -> Result<Self, ConfigError> {
        let config = Self::from_json(json)?;
        if config.variant == variant {
            return Ok(config);
        }
        let expected = match variant {
            T5Variant::V1_1 => "expected \"t5\"",
            T5Variant::Umt5 => "expected \"umt5\"",
        };
        Err(Fields(json).error("model_type", expected))
    }

    /// Width of all heads together.
    pub fn inner_dim(&self) -> usize {
        self.num_heads * self.d_kv
    }

    /// Whether block `index` has a table of relative positions.
    pub(super) fn has_table(&self, index: usize) -> bool {
        self.variant == T5Variant::Umt5 || index == 0
    }

    /// Every linear layer, in the order in which they are loaded; none has a bias.
    pub fn linears(&self) -> Vec<LinearShape> {
        self.parameter_shapes()
            .into_iter()
            .filter(|(name, _)| name.starts_with("encoder.block."))
            .filter(|(name, _)| !name.contains("relative_attention_bias"))
            .filter_map(|(name, shape)| match shape[..] {
                [out_features, in_features] => Some(LinearShape {
                    name: name.strip_suffix(".weight").unwrap_or(&name).to_owned(),
                    out_features,
                    in_features,
                }),
                _ => None,
            })
            .collect()
    }

    /// Bytes of the f32 tensors that live at the fullest moment of a block, for `prompts` prompts of
    /// `tokens` tokens each: the prompts' hidden states, and of one its normed copy with q, k, v and
    /// the heads' result, or with both halves of the gated layer.
    pub fn activation_bytes(&self, tokens: usize, prompts: usize) -> u64 {
        let (dim, inner, ff) = (self.d_model, self.inner_dim(), self.d_ff);
        let beside = (4 * inner).max(2 * ff);
        4 * tokens as u64 * ((prompts + 1) * dim + beside) as u64
    }

    /// Name and shape of every tensor of the encoder.
    pub fn parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let (dim, inner, ff) = (self.d_model, self.inner_dim(), self.d_ff);
        let mut shapes = vec![("shared.weight".to_owned(), vec![self.vocab_size, dim])];
        for i in 0..self.num_layers {
            let tensors = [
                ("layer.0.SelfAttention.q", vec![inner, dim]),
                ("layer.0.SelfAttention.k", vec![inner, dim]),
                ("layer.0.SelfAttention.v", vec![inner, dim]),
                ("layer.0.SelfAttention.o", vec![dim, inner]),
                (
                    "layer.0.SelfAttention.relative_attention_bias",
                    vec![self.relative_attention_num_buckets, self.num_heads],
                ),
                ("layer.0.layer_norm", vec![dim]),
                ("layer.1.DenseReluDense.wi_0", vec![ff, dim]),
                ("layer.1.DenseReluDense.wi_1", vec![ff, dim]),
                ("layer.1.DenseReluDense.wo", vec![dim, ff]),
                ("layer.1.layer_norm", vec![dim]),
            ];
            let stored = tensors
                .into_iter()
                .filter(|(name, _)| self.has_table(i) || !name.ends_with("attention_bias"));
            shapes.extend(
                stored.map(|(name, shape)| (format!("encoder.block.{i}.{name}.weight"), shape)),
            );
        }
        shapes.push(("encoder.final_layer_norm.weight".to_owned(), vec![dim]));
        shapes
    }
}
