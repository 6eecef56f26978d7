//! What the configuration of the Wan transformer accepts and implies.

mod common;
#[path = "common/weights.rs"]
mod weights;

use common::fixture_folders;
use qvgen::models::wan::WanConfig;
use serde_json::{Value, json};
use std::path::Path;
use weights::FixtureWeights;

fn json_of(folder: &Path) -> Value {
    let path = folder.join("transformer/config.json");
    let bytes = std::fs::read(&path).unwrap_or_else(|err| panic!("{err}: {}", path.display()));
    serde_json::from_slice(&bytes).expect("a JSON file")
}

#[test]
fn parameter_shapes_lists_exactly_the_tensors_of_the_checkpoints() {
    for folder in fixture_folders("wan_") {
        let config = WanConfig::from_json(&json_of(&folder)).unwrap();
        let mut shapes = config.parameter_shapes();
        shapes.sort();
        assert_eq!(shapes, FixtureWeights::open(&folder.join("transformer")).shapes());
    }
}

#[test]
fn real_configurations_have_the_published_number_of_parameters() {
    let count = |shapes: Vec<(String, Vec<usize>)>| -> usize {
        shapes.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    };
    assert_eq!(count(WanConfig::wan2_1_t2v_1_3b().parameter_shapes()), 1_418_996_800);
    assert_eq!(count(WanConfig::wan2_1_t2v_14b().parameter_shapes()), 14_288_491_584);
    let linears = WanConfig::wan2_1_t2v_1_3b().linears();
    let in_blocks = linears.iter().filter(|linear| linear.name.starts_with("blocks."));
    let weights: usize = in_blocks.map(|linear| linear.out_features * linear.in_features).sum();
    assert_eq!(weights, 1_391_984_640);
}

#[test]
fn configurations_are_refused_with_the_field_and_what_is_supported() {
    let folder = &fixture_folders("wan_a")[0];
    let wan = json_of(folder);
    let wan_error = |field: &str, value: Value| {
        let mut json = wan.clone();
        json[field] = value;
        WanConfig::from_json(&json).unwrap_err().to_string()
    };
    assert_eq!(
        wan_error("patch_size", json!([1, 4, 4])),
        "\"patch_size\" is [1,4,4], expected [1, 2, 2]"
    );
    assert_eq!(
        wan_error("image_dim", json!(1280)),
        "\"image_dim\" is 1280, expected null: only text-to-video models are supported"
    );
    assert_eq!(
        wan_error("num_layers", json!(0)),
        "\"num_layers\" is 0, expected a whole number from 1 to 1024"
    );
    assert_eq!(
        wan_error("attention_head_dim", json!(15)),
        "\"attention_head_dim\" is 15, expected an even number up to 512"
    );
    for (field, value) in [
        ("qk_norm", Value::Null),
        ("added_kv_proj_dim", json!(5120)),
        ("ffn_dim", json!(-1)),
        ("ffn_dim", json!(1e300)),
        ("text_dim", json!(u64::MAX)),
        ("attention_head_dim", json!(514)),
        ("freq_dim", json!(41)),
        ("eps", json!(0.0)),
        ("eps", json!("1e-6")),
        ("cross_attn_norm", Value::Null),
    ] {
        assert!(wan_error(field, value).starts_with(&format!("\"{field}\" is ")));
    }
    assert!(WanConfig::from_json(&json!("not an object")).is_err());
}
