//! The Wan transformer against the reference implementation's outputs.

mod common;
#[path = "common/weights.rs"]
mod weights;

use burn::tensor::{Device, Tensor, TensorData};
use common::{Reference, assert_matches, devices, fixture_folders};
use qvgen::models::wan::{WanConfig, WanTransformer};
use qvgen::nn::{Limits, RopeAxis, RopeGrid, Trace, Weights};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use weights::FixtureWeights;

const TOLERANCE: f32 = 1e-4;

fn json_of(folder: &Path, component: &str) -> Value {
    let path = folder.join(component).join("config.json");
    let bytes = std::fs::read(&path).unwrap_or_else(|err| panic!("{err}: {}", path.display()));
    serde_json::from_slice(&bytes).expect("a JSON file")
}

fn wan_config(folder: &Path) -> WanConfig {
    WanConfig::from_json(&json_of(folder, "transformer")).expect("a supported model")
}

fn data<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_to_vec::<f32>().expect("f32 values")
}

/// Sample `index` of a reference tensor with a leading batch dimension, as `shape`.
fn sample<const D: usize>(
    reference: &Reference,
    name: &str,
    index: usize,
    shape: [usize; D],
    device: &Device,
) -> Tensor<D> {
    let len: usize = shape.iter().product();
    let values = reference.f32(name)[index * len..(index + 1) * len].to_vec();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// What one folder's transformer computes for both samples of the reference: the output, and the
/// intermediate tensors by name.
fn transform(folder: &Path, device: &Device, limits: Limits) -> BTreeMap<String, Vec<f32>> {
    let reference = Reference::open(folder);
    let config = wan_config(folder);
    let weights = FixtureWeights::open(&folder.join("transformer"));
    let weights = Weights::new(&weights, device);
    let transformer = WanTransformer::load(&weights, &config, limits, &mut |_, _| ())
        .expect("a complete checkpoint");
    let timesteps = reference.f32("transformer.timestep");
    let [_, c, t, h, w] = reference.shape("transformer.hidden_states")[..] else { panic!() };
    let [_, tokens, dim] = reference.shape("transformer.encoder_hidden_states")[..] else {
        panic!()
    };
    let mut seen: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for (i, &timestep) in timesteps.iter().enumerate() {
        let latent = sample(&reference, "transformer.hidden_states", i, [c, t, h, w], device);
        let embeds =
            sample(&reference, "transformer.encoder_hidden_states", i, [tokens, dim], device);
        let mut observe = |name: &str, value: Tensor<2>| {
            seen.entry(name.to_owned()).or_default().extend(data(value));
        };
        let mut trace = Trace::to(&mut observe);
        let context = transformer.text_context(embeds, &mut trace);
        let output = transformer.forward_traced(latent, timestep, &context, &mut trace);
        assert_eq!(output.dims(), [config.out_channels, t, h, w]);
        seen.entry("output".to_owned()).or_default().extend(data(output));
    }
    seen
}

/// Compares all tensors of the reference that the transformer shows; returns how many.
fn compare(folder: &Path, what: &str, seen: &BTreeMap<String, Vec<f32>>) -> usize {
    let reference = Reference::open(folder);
    let mut compared = 0;
    for (name, actual) in seen {
        let key = format!("transformer.{name}");
        if !reference.has(&key) {
            continue;
        }
        let (mut expected, shape) = (reference.f32(&key), reference.shape(&key));
        let mut actual = actual.clone();
        if name == "patch_embedding" {
            expected = channels_last(&expected, shape[0], shape[1]);
        }
        if name == "text" {
            // The reference keeps the first rows of each sample.
            let kept = expected.len() / shape[0];
            let rows = actual.len() / shape[0];
            actual = actual.chunks(rows).flat_map(|sample| sample[..kept].to_vec()).collect();
        }
        assert_matches(
            &format!("{} {what} {name}", folder.display()),
            &actual,
            &expected,
            TOLERANCE,
        );
        compared += 1;
    }
    compared
}

/// `[batch, channels, …]` to `[batch, …, channels]`.
fn channels_last(values: &[f32], batch: usize, channels: usize) -> Vec<f32> {
    let pixels = values.len() / (batch * channels);
    let at = |i: usize| {
        let (sample, pixel, channel) =
            (i / (pixels * channels), i / channels % pixels, i % channels);
        values[(sample * channels + channel) * pixels + pixel]
    };
    (0..values.len()).map(at).collect()
}

#[test]
fn transformer_matches_the_reference_step_by_step() {
    for folder in fixture_folders("wan_") {
        for (name, device) in devices() {
            let seen = transform(&folder, &device, Limits::default());
            let compared = compare(&folder, name, &seen);
            let least = if Reference::open(&folder).has("transformer.temb") { 13 } else { 1 };
            assert!(compared >= least, "{}: {compared} tensors compared", folder.display());
        }
    }
}

#[test]
fn transformer_matches_the_reference_when_tokens_are_held_in_parts() {
    for folder in fixture_folders("wan_") {
        let config = wan_config(&folder);
        // Parts of five tokens, of which the feed-forward layer takes fewer at once.
        let limits = Limits { max_elements: 5 * config.dim() };
        for (name, device) in devices() {
            compare(&folder, &format!("{name} in parts"), &transform(&folder, &device, limits));
        }
    }
}

#[test]
fn rotation_is_the_references_table() {
    for folder in fixture_folders("wan_") {
        let reference = Reference::open(&folder);
        if !reference.has("transformer.rope_cos") {
            continue;
        }
        let [_, _, t, h, w] = reference.shape("transformer.hidden_states")[..] else { panic!() };
        let head_dim = reference.shape("transformer.rope_cos")[3];
        let spatial = 2 * (head_dim / 6);
        let grid = RopeGrid::new(
            RopeAxis::indices(t, head_dim - 2 * spatial),
            RopeAxis::indices(h / 2, spatial),
            RopeAxis::indices(w / 2, spatial),
        );
        let rotation = grid.rotation(0..grid.tokens(), &Device::flex());
        for (name, table) in [("cos", rotation.cos), ("sin", rotation.sin)] {
            // The reference repeats each value for both channels of a pair.
            let expected = reference.f32(&format!("transformer.rope_{name}"));
            let expected: Vec<f32> = expected.chunks(2).map(|pair| pair[0]).collect();
            assert_matches(name, &data(table), &expected, 1e-6);
        }
    }
}

#[test]
fn a_missing_tensor_is_named() {
    let folder = &fixture_folders("wan_")[0];
    let mut json = json_of(folder, "transformer");
    json["num_layers"] = json!(json["num_layers"].as_u64().unwrap() + 1);
    let config = WanConfig::from_json(&json).unwrap();
    let weights = FixtureWeights::open(&folder.join("transformer"));
    let weights = Weights::new(&weights, &Device::flex());
    let error = WanTransformer::load(&weights, &config, Limits::default(), &mut |_, _| ());
    let message = error.unwrap_err().to_string();
    assert!(message.contains("attn1.to_q.weight\" is missing"), "{message}");
}

#[test]
fn cross_attention_needs_no_normalization() {
    let folder = &fixture_folders("wan_")[0];
    let mut json = json_of(folder, "transformer");
    json["cross_attn_norm"] = json!(false);
    let config = WanConfig::from_json(&json).unwrap();
    assert!(!config.parameter_shapes().iter().any(|(name, _)| name.contains("norm2")));
    let (weights, device) = (FixtureWeights::open(&folder.join("transformer")), Device::flex());
    let weights = Weights::new(&weights, &device);
    let transformer =
        WanTransformer::load(&weights, &config, Limits::default(), &mut |_, _| ()).unwrap();
    let ones = Tensor::ones([config.in_channels, 1, 2, 2], &device);
    let mut seen: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    let mut observe =
        |name: &str, value: Tensor<2>| drop(seen.insert(name.to_owned(), data(value)));
    let mut trace = Trace::to(&mut observe);
    let context = transformer.text_context(Tensor::ones([3, config.text_dim], &device), &mut trace);
    transformer.forward_traced(ones, 500.0, &context, &mut trace);
    let rms = |x: &[f32]| (x.iter().map(|v| v * v).sum::<f32>() / x.len() as f32).sqrt();
    assert!((rms(&seen["block0.norm1"]) - 1.0).abs() < 1e-3);
    assert!((rms(&seen["block0.norm2"]) - 1.0).abs() > 1e-3, "norm2 is the hidden state itself");
}

#[test]
fn prompts_that_share_a_timestep_get_the_velocities_of_separate_passes_exactly() {
    let folder = &fixture_folders("wan_")[0];
    let config = wan_config(folder);
    let weights = FixtureWeights::open(&folder.join("transformer"));
    for (name, device) in devices() {
        let weights = Weights::new(&weights, &device);
        let transformer =
            WanTransformer::load(&weights, &config, Limits::default(), &mut |_, _| ()).unwrap();
        let off = &mut Trace::off();
        let value = |len: usize| (0..len).map(|i| (0.7 * i as f32).sin()).collect::<Vec<f32>>();
        // The second grid has the same number of tokens: its positions are others.
        for [frames, height] in [[1, 4], [2, 2]] {
            let shape = [config.in_channels, frames, height, 4];
            let latent = Tensor::<4>::from_data(
                TensorData::new(value(shape.iter().product()), shape),
                &device,
            );
            let timestep = transformer.timestep_context(500.0, off);
            let velocities = [1.0, -1.0].map(|sign| {
                let embeds = TensorData::new(value(3 * config.text_dim), [3, config.text_dim]);
                let embeds = Tensor::<2>::from_data(embeds, &device) * sign;
                let text = transformer.text_context(embeds, off);
                let shared = data(transformer.forward_at(latent.clone(), &timestep, &text, off));
                let fresh =
                    WanTransformer::load(&weights, &config, Limits::default(), &mut |_, _| ())
                        .unwrap();
                let mut count = 0;
                let mut observe = |_: &str, _| count += 1;
                let trace = &mut Trace::to(&mut observe);
                assert_eq!(shared, data(fresh.forward(latent.clone(), 500.0, &text)), "{name}");
                let traced = fresh.forward_traced(latent.clone(), 500.0, &text, trace);
                assert_eq!(shared, data(traced), "{name}: watching changes the result");
                assert!(count > 10);
                shared
            });
            assert_ne!(velocities[0], velocities[1], "{name}");
        }
    }
}
