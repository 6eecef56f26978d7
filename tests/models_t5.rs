//! The text encoders of Wan (UMT5) and `CogVideoX` (T5 v1.1) against the reference implementation's
//! outputs.

mod common;
#[path = "common/weights.rs"]
mod weights;

use burn::tensor::{Device, Tensor};
use common::{Reference, assert_matches, devices, fixture_folders};
use qvgen::models::t5::{EncodeError, T5Config, T5Variant, TokenIds, encode};
use qvgen::nn::Weights;
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use weights::FixtureWeights;

const TOLERANCE: f32 = 1e-4;

/// Folders of checkpoints with a text encoder.
fn folders() -> Vec<PathBuf> {
    fixture_folders("wan_").into_iter().chain(fixture_folders("cogvideox_")).collect()
}

fn json_of(folder: &Path) -> Value {
    let path = folder.join("text_encoder/config.json");
    let bytes = std::fs::read(&path).unwrap_or_else(|err| panic!("{err}: {}", path.display()));
    serde_json::from_slice(&bytes).expect("a JSON file")
}

fn config_of(folder: &Path) -> T5Config {
    T5Config::from_json(&json_of(folder)).expect("a supported encoder")
}

fn data(x: Tensor<2>) -> Vec<f32> {
    x.into_data().try_to_vec::<f32>().expect("f32 values")
}

/// The two prompts of a folder: Wan's encoder does not see padding, that of `CogVideoX` does.
fn prompts(folder: &Path) -> Vec<TokenIds> {
    let reference = Reference::open(folder);
    let (ids, mask) = (reference.i64("text.input_ids"), reference.i64("text.attention_mask"));
    let len = reference.shape("text.input_ids")[1];
    let sees_padding = config_of(folder).variant == T5Variant::V1_1;
    let prompt = |(ids, mask): (&[i64], &[i64])| TokenIds {
        ids: ids.iter().map(|&id| u32::try_from(id).expect("an id")).collect(),
        length: mask.iter().filter(|&&valid| sees_padding || valid == 1).count(),
    };
    ids.chunks(len).zip(mask.chunks(len)).map(prompt).collect()
}

fn encode_on(
    folder: &Path,
    device: &Device,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Vec<Tensor<2>>, EncodeError> {
    let config = config_of(folder);
    let weights = FixtureWeights::open(&folder.join("text_encoder"));
    encode(&Weights::new(&weights, device), &config, &prompts(folder), progress)
}

fn go_on(_: usize, _: usize) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn encoders_match_the_reference_and_zero_what_they_do_not_encode() {
    for folder in folders() {
        let reference = Reference::open(&folder);
        let [_, padded, dim] = reference.shape("text.last_hidden_state")[..] else { panic!() };
        let states = reference.f32("text.last_hidden_state");
        for (name, device) in devices() {
            let embeds = encode_on(&folder, &device, &mut go_on).unwrap();
            for (i, (embeds, prompt)) in embeds.into_iter().zip(prompts(&folder)).enumerate() {
                assert_eq!(embeds.dims(), [padded, dim]);
                let what = format!("{} {name} prompt {i}", folder.display());
                let (actual, encoded) = (data(embeds), prompt.length * dim);
                let expected = &states[i * padded * dim..][..encoded];
                assert_matches(&what, &actual[..encoded], expected, TOLERANCE);
                assert!(actual[encoded..].iter().all(|&value| value == 0.0), "{what}: padding");
            }
        }
    }
}

#[test]
fn the_prompts_of_wan_are_those_that_its_transformer_is_given() {
    for folder in fixture_folders("wan_") {
        let reference = Reference::open(&folder);
        let embeds = encode_on(&folder, &Device::flex(), &mut go_on).unwrap();
        let heads = ["text.prompt_embeds_head", "text.negative_prompt_embeds_head"];
        for (head, embeds) in heads.into_iter().zip(embeds) {
            let (actual, expected) = (data(embeds), reference.f32(head));
            assert_matches(head, &actual[..expected.len()], &expected, TOLERANCE);
        }
    }
}

#[test]
fn encoders_find_the_embedding_under_either_name() {
    for folder in folders() {
        let (config, prompts) = (config_of(&folder), prompts(&folder));
        let mut weights = FixtureWeights::open(&folder.join("text_encoder"));
        let [first, second] = ["shared.weight", "encoder.embed_tokens.weight"].map(|name| {
            weights.rename_any(&["shared.weight", "encoder.embed_tokens.weight"], name);
            let weights = Weights::new(&weights, &Device::flex());
            let embeds = encode(&weights, &config, &prompts[..1], &mut go_on);
            data(embeds.unwrap().remove(0))
        });
        assert_eq!(first, second);
    }
}

#[test]
fn an_encoder_reports_every_block_and_stops_when_asked() {
    let folder = &folders()[0];
    let layers = config_of(folder).num_layers;
    let mut seen = Vec::new();
    let mut count = |done, total| {
        seen.push((done, total));
        ControlFlow::Continue(())
    };
    encode_on(folder, &Device::flex(), &mut count).unwrap();
    assert_eq!(seen, (1..=layers).map(|done| (done, layers)).collect::<Vec<_>>());
    let mut stop = |_, _| ControlFlow::Break(());
    let result = encode_on(folder, &Device::flex(), &mut stop);
    assert!(matches!(result, Err(EncodeError::Canceled)));
}

#[test]
fn an_encoder_refuses_an_id_outside_its_vocabulary() {
    let folder = &folders()[0];
    let weights = FixtureWeights::open(&folder.join("text_encoder"));
    let prompt = TokenIds { ids: vec![1, u32::MAX], length: 2 };
    let weights = Weights::new(&weights, &Device::flex());
    let result = encode(&weights, &config_of(folder), &[prompt], &mut go_on);
    let message = result.unwrap_err().to_string();
    assert!(message.starts_with("token id 4294967295 is outside"), "{message}");
}

#[test]
fn parameter_shapes_lists_exactly_the_tensors_of_the_checkpoints() {
    for folder in folders() {
        let mut stored = FixtureWeights::open(&folder.join("text_encoder")).shapes();
        for (name, _) in &mut stored {
            if name == "encoder.embed_tokens.weight" {
                *name = "shared.weight".to_owned();
            }
        }
        stored.sort();
        stored.dedup();
        let mut shapes = config_of(&folder).parameter_shapes();
        shapes.sort();
        assert_eq!(shapes, stored);
    }
}

#[test]
fn real_configurations_have_the_published_number_of_parameters() {
    let count = |config: T5Config| -> usize {
        config.parameter_shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    };
    assert_eq!(count(T5Config::umt5_xxl()), 5_680_910_336);
    assert_eq!(count(T5Config::t5_v1_1_xxl()), 4_762_310_656);
}

#[test]
fn configurations_are_refused_with_the_field_and_what_is_supported() {
    for folder in folders() {
        let json = json_of(&folder);
        let error = |field: &str, value: Value| {
            let mut json = json.clone();
            json[field] = value;
            T5Config::from_json(&json).unwrap_err().to_string()
        };
        assert_eq!(
            error("model_type", json!("mt5")),
            "\"model_type\" is \"mt5\", expected \"t5\" or \"umt5\""
        );
        for (field, value) in [
            ("feed_forward_proj", json!("relu")),
            ("dense_act_fn", json!("relu")),
            ("num_heads", json!(0)),
            ("relative_attention_num_buckets", json!(6)),
            ("relative_attention_max_distance", json!(8)),
            ("layer_norm_epsilon", json!(-1e-6)),
            ("vocab_size", json!([])),
        ] {
            assert!(error(field, value).starts_with(&format!("\"{field}\" is ")));
        }
        // The published T5 does not say.
        let mut json = json.clone();
        json["relative_attention_max_distance"] = Value::Null;
        assert_eq!(T5Config::from_json(&json).unwrap().relative_attention_max_distance, 128);
    }
}
