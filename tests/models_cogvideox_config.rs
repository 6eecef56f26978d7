//! What the configuration of the `CogVideoX` transformer accepts and implies.

mod common;
#[path = "common/weights.rs"]
mod weights;

use common::fixture_folders;
use qvgen::models::LinearShape;
use qvgen::models::cogvideox::CogVideoXConfig;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use weights::FixtureWeights;

fn folders() -> Vec<PathBuf> {
    fixture_folders("cogvideox_").into_iter().chain(fixture_folders("ofs_")).collect()
}

fn json_of(folder: &Path) -> Value {
    let path = folder.join("transformer/config.json");
    let bytes = std::fs::read(&path).unwrap_or_else(|err| panic!("{err}: {}", path.display()));
    serde_json::from_slice(&bytes).expect("a JSON file")
}

#[test]
fn parameter_shapes_lists_exactly_the_tensors_of_the_checkpoints() {
    for folder in folders() {
        let config = CogVideoXConfig::from_json(&json_of(&folder)).unwrap();
        let mut shapes = config.parameter_shapes();
        shapes.sort();
        assert_eq!(shapes, FixtureWeights::open(&folder.join("transformer")).shapes());
    }
}

#[test]
fn real_configurations_have_the_published_number_of_parameters() {
    let count = |config: CogVideoXConfig| -> usize {
        config.parameter_shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    };
    assert_eq!(count(CogVideoXConfig::cogvideox_2b()), 1_693_783_872);
    assert_eq!(count(CogVideoXConfig::cogvideox1_5_5b()), 5_570_676_352);
    // Half as many values per patch, in and out, and a bias of those out.
    let difference = 2 * 64 * 3072 + 64;
    assert_eq!(count(CogVideoXConfig::cogvideox_5b()), 5_570_676_352 - difference);
    let weights = |config: CogVideoXConfig, part: &str| -> usize {
        let of_part = |layer: &LinearShape| {
            layer.name.starts_with("transformer_blocks.") && layer.name.contains(part)
        };
        let layers = config.linears().into_iter().filter(of_part);
        layers.map(|layer| layer.out_features * layer.in_features).sum()
    };
    assert_eq!(weights(CogVideoXConfig::cogvideox_2b(), ""), 1_680_998_400);
    assert_eq!(weights(CogVideoXConfig::cogvideox1_5_5b(), ""), 5_549_064_192);
    assert_eq!(weights(CogVideoXConfig::cogvideox_2b(), ".linear"), 353_894_400);
    // As many layers as the published QVGen quantizes of 2B (its Table of scopes).
    assert_eq!(CogVideoXConfig::cogvideox_2b().linears().len(), 245);
}

#[test]
fn only_1_5_limits_the_size_of_a_video() {
    assert_eq!(CogVideoXConfig::cogvideox_2b().max_grid(), [usize::MAX; 3]);
    assert_eq!(CogVideoXConfig::cogvideox_5b().max_grid(), [usize::MAX; 3]);
    assert_eq!(CogVideoXConfig::cogvideox1_5_5b().max_grid(), [usize::MAX, 150, 150]);
}

#[test]
fn configurations_are_refused_with_the_field_and_what_is_supported() {
    let folder = &fixture_folders("cogvideox_1_5")[0];
    let json = json_of(folder);
    let error = |field: &str, value: Value| {
        let mut json = json.clone();
        json[field] = value;
        CogVideoXConfig::from_json(&json).unwrap_err().to_string()
    };
    assert_eq!(
        error("use_learned_positional_embeddings", json!(true)),
        "\"use_learned_positional_embeddings\" is true, expected false: models with learned \
         positions, made for images, are not supported"
    );
    assert_eq!(
        error("attention_head_dim", json!(24)),
        "\"attention_head_dim\" is 24, expected a multiple of 16 up to 512, for rotary positions"
    );
    assert_eq!(
        error("patch_size", json!(0)),
        "\"patch_size\" is 0, expected a whole number from 1 to 16"
    );
    for (field, value) in [
        ("activation_fn", json!("gelu")),
        ("timestep_activation_fn", json!("gelu")),
        ("attention_bias", json!(false)),
        ("norm_elementwise_affine", json!(false)),
        ("flip_sin_to_cos", json!(false)),
        ("freq_shift", json!(1)),
        ("num_layers", json!(0)),
        ("num_attention_heads", json!(-1)),
        ("attention_head_dim", json!(528)),
        ("in_channels", json!(1e300)),
        ("text_embed_dim", Value::Null),
        ("time_embed_dim", json!(u64::MAX)),
        ("ofs_embed_dim", json!(2)),
        ("patch_size_t", json!(17)),
        ("patch_bias", json!("yes")),
        ("norm_eps", json!(0.0)),
        ("use_rotary_positional_embeddings", Value::Null),
        ("spatial_interpolation_scale", json!(0.0)),
        ("temporal_interpolation_scale", json!("1")),
        ("sample_height", json!(0)),
        ("sample_frames", json!([])),
    ] {
        assert!(error(field, value).starts_with(&format!("\"{field}\" is ")), "{field}");
    }
    let mut table = json.clone();
    table["use_rotary_positional_embeddings"] = json!(false);
    table["attention_head_dim"] = json!(12);
    let message = CogVideoXConfig::from_json(&table).unwrap_err().to_string();
    assert!(message.contains("all heads are a multiple of 16 wide"), "{message}");
    table["num_attention_heads"] = json!(4);
    assert!(CogVideoXConfig::from_json(&table).is_ok());
    assert!(CogVideoXConfig::from_json(&json!("not an object")).is_err());
}
