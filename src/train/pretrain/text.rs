//! The text side of a pocket model: a tokenizer of whole words and a small random encoder.
//!
//! The encoder is not trained. Every word has a random embedding, which one block of random
//! attention mixes a little; that is a code the denoiser learns to read, and enough for a closed
//! vocabulary. Nothing else in the pipeline knows the difference.

use crate::models::t5::{T5Config, T5Variant};
use crate::train::random::{Purpose, key, normal};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Ids of padding, end and unknown text.
const SPECIAL: [&str; 3] = ["<pad>", "</s>", "<unk>"];

/// The pieces of a tokenizer for the words of `captions`: special tokens, words in alphabetical
/// order, and letters for everything else.
pub(super) fn pieces(captions: impl Iterator<Item = String>) -> Vec<(String, f64)> {
    let mut words = BTreeSet::new();
    for caption in captions {
        words.extend(caption.split_whitespace().map(str::to_lowercase));
    }
    let special = SPECIAL.map(|piece| (piece.to_owned(), 0.0)).into_iter();
    let letters = ('a'..='z').flat_map(|letter| [format!("\u{2581}{letter}"), letter.to_string()]);
    let letters: BTreeSet<String> =
        letters.filter(|piece| !words.contains(piece.trim_start_matches('\u{2581}'))).collect();
    let words = words.into_iter().map(|word| (format!("\u{2581}{word}"), -1.0));
    special.chain(words).chain(letters.into_iter().map(|piece| (piece, -10.0))).collect()
}

/// The `tokenizer.json` of `pieces`, in the form of the `tokenizers` library.
pub(super) fn tokenizer_json(pieces: &[(String, f64)]) -> Value {
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}",
                           "prepend_scheme": "always", "split": true});
    let end = json!({"SpecialToken": {"id": "</s>", "type_id": 0}});
    let sequence = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [sequence("A"), end],
            "pair": [sequence("A"), end, sequence("B"), end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": false},
    })
}

/// The `tokenizer_config.json` for prompts of `max_length` tokens.
pub(super) fn tokenizer_config(max_length: usize) -> Value {
    json!({"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "extra_ids": 0,
           "model_max_length": max_length, "tokenizer_class": "T5TokenizerFast"})
}

/// Sizes of the encoder for `vocab_size` tokens.
pub(super) fn encoder_config(vocab_size: usize) -> T5Config {
    T5Config {
        variant: T5Variant::Umt5,
        d_model: 32,
        d_kv: 16,
        d_ff: 64,
        num_heads: 2,
        num_layers: 1,
        relative_attention_num_buckets: 32,
        relative_attention_max_distance: 128,
        layer_norm_epsilon: 1e-6,
        vocab_size,
    }
}

/// The encoder's `config.json`.
pub(super) fn encoder_config_json(config: &T5Config) -> Value {
    json!({
        "architectures": ["UMT5EncoderModel"], "model_type": "umt5",
        "d_model": config.d_model, "d_kv": config.d_kv, "d_ff": config.d_ff,
        "num_heads": config.num_heads, "num_layers": config.num_layers,
        "num_decoder_layers": config.num_layers, "vocab_size": config.vocab_size,
        "relative_attention_num_buckets": config.relative_attention_num_buckets,
        "relative_attention_max_distance": config.relative_attention_max_distance,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new", "is_gated_act": true,
        "dropout_rate": 0.0, "is_encoder_decoder": true, "tie_word_embeddings": true,
        "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
    })
}

/// Random values of the encoder's tensors, spread as T5 spreads its first ones.
pub(super) fn encoder_values(config: &T5Config, seed: u64) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let width = config.d_model as f32;
    let inner = (config.num_heads * config.d_kv) as f32;
    config
        .parameter_shapes()
        .into_iter()
        .enumerate()
        .map(|(index, (name, shape))| {
            let len: usize = shape.iter().product();
            let spread = match name.rsplit('.').nth(1).unwrap_or_default() {
                "shared" => 1.0,
                "q" => (width * config.d_kv as f32).powf(-0.5),
                "k" | "v" | "wi_0" | "wi_1" => width.powf(-0.5),
                "o" => inner.powf(-0.5),
                "wo" => (config.d_ff as f32).powf(-0.5),
                "relative_attention_bias" => 1.0,
                // Norms.
                _ => return (name, shape, vec![1.0; len]),
            };
            let key = key(seed, Purpose::Parameters, 0, index);
            let values = normal(key, 0, len).into_iter().map(|value| value * spread).collect();
            (name, shape, values)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_before_letters_and_no_piece_twice() {
        let pieces = pieces(["a red circle", "a blue square"].map(str::to_owned).into_iter());
        let names: Vec<&str> = pieces.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names[..6],
            ["<pad>", "</s>", "<unk>", "\u{2581}a", "\u{2581}blue", "\u{2581}circle"]
        );
        let unique: BTreeSet<&&str> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
    }
}
