//! The `CogVideoX` transformer against the reference implementation's outputs.

mod common;
#[path = "common/weights.rs"]
mod weights;

use burn::tensor::{Device, Tensor, TensorData};
use common::{Reference, assert_matches, devices, fixture_folders, max_error};
use qvgen::method::{Rounding, Scope};
use qvgen::models::cogvideox::{CogVideoXConfig, CogVideoXTransformer, Positions, positions};
use qvgen::nn::{AttentionPrecision, Limits, Trace, WeightSource, Weights};
use qvgen::pipeline::checkpoint::Checkpoint;
use qvgen::pipeline::packed::{Arithmetic, RoundingSource};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use weights::FixtureWeights;

const TOLERANCE: f32 = 1e-4;

/// Folders with a transformer of this family.
fn folders() -> Vec<PathBuf> {
    fixture_folders("cogvideox_").into_iter().chain(fixture_folders("ofs_")).collect()
}

fn json_of(folder: &Path) -> Value {
    let path = folder.join("transformer/config.json");
    let bytes = std::fs::read(&path).unwrap_or_else(|err| panic!("{err}: {}", path.display()));
    serde_json::from_slice(&bytes).expect("a JSON file")
}

fn config_of(folder: &Path) -> CogVideoXConfig {
    CogVideoXConfig::from_json(&json_of(folder)).expect("a supported model")
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

fn load(
    folder: &Path,
    source: &dyn WeightSource,
    limits: Limits,
    resident: usize,
    device: &Device,
) -> CogVideoXTransformer {
    let reference = Reference::open(folder);
    let weights = Weights::new(source, device);
    let load = CogVideoXTransformer::load_streamed;
    let transformer = load(&weights, &config_of(folder), limits, resident, &mut |_, _| ());
    let transformer = transformer.expect("a complete checkpoint");
    if reference.has("transformer.ofs") {
        transformer.with_ofs(reference.f32("transformer.ofs")[0])
    } else {
        transformer
    }
}

/// What `transformer` computes for the samples of the reference: the output, and the intermediate
/// tensors by name.
fn transform(
    folder: &Path,
    transformer: &CogVideoXTransformer,
    device: &Device,
) -> BTreeMap<String, Vec<f32>> {
    let reference = Reference::open(folder);
    // Frames come before channels in the reference.
    let [_, t, c, h, w] = reference.shape("transformer.hidden_states")[..] else { panic!() };
    let [_, tokens, dim] = reference.shape("transformer.encoder_hidden_states")[..] else {
        panic!()
    };
    let mut seen: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    for (i, &timestep) in reference.f32("transformer.timestep").iter().enumerate() {
        let latent = sample(&reference, "transformer.hidden_states", i, [t, c, h, w], device);
        let embeds =
            sample(&reference, "transformer.encoder_hidden_states", i, [tokens, dim], device);
        let mut observe = |name: &str, value: Tensor<2>| {
            seen.entry(name.to_owned()).or_default().extend(data(value));
        };
        let mut trace = Trace::to(&mut observe);
        let context = transformer.text_context(embeds, &mut trace);
        let latent = latent.swap_dims(0, 1);
        let output = transformer.forward_traced(latent, timestep, &context, &mut trace);
        assert_eq!(output.dims(), [transformer.config().out_channels, t, h, w]);
        seen.entry("output".to_owned()).or_default().extend(data(output.swap_dims(0, 1)));
    }
    seen
}

fn transform_on(folder: &Path, device: &Device, limits: Limits) -> BTreeMap<String, Vec<f32>> {
    let weights = FixtureWeights::open(&folder.join("transformer"));
    transform(folder, &load(folder, &weights, limits, usize::MAX, device), device)
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
        let (expected, batch) = (reference.f32(&key), reference.shape(&key)[0]);
        let (kept, len) = (expected.len() / batch, actual.len() / batch);
        // Of the text, the reference keeps the first rows of each sample.
        assert!(kept == len || name.ends_with(".text"), "{name}: {len} values, expected {kept}");
        let actual: Vec<f32> =
            actual.chunks(len).flat_map(|sample| sample[..kept].to_vec()).collect();
        let what = format!("{} {what} {name}", folder.display());
        assert_matches(&what, &actual, &expected, TOLERANCE);
        compared += 1;
    }
    compared
}

#[test]
fn transformer_matches_the_reference_step_by_step() {
    for folder in folders() {
        for (name, device) in devices() {
            let compared =
                compare(&folder, name, &transform_on(&folder, &device, Limits::default()));
            let has_details = Reference::open(&folder).has("transformer.time_embedding");
            let least = if has_details { 20 } else { 1 };
            assert!(compared >= least, "{}: {compared} tensors compared", folder.display());
        }
    }
}

#[test]
fn transformer_matches_the_reference_when_tokens_are_held_in_parts() {
    for folder in folders() {
        let config = config_of(&folder);
        // Parts of five tokens; the feed-forward layer takes fewer than the text has at once.
        let tokens = config.max_text_seq_length + 5;
        let limits = Limits { max_elements: tokens * config.dim() };
        for (name, device) in devices() {
            let seen = transform_on(&folder, &device, limits);
            // What a trace shows of a gate, it shows per chunk.
            let seen = seen.into_iter().filter(|(name, _)| !name.ends_with("gate")).collect();
            compare(&folder, &format!("{name} in parts"), &seen);
        }
    }
}

#[test]
fn rotation_is_the_references_table() {
    for folder in folders() {
        let (reference, config) = (Reference::open(&folder), config_of(&folder));
        if !reference.has("transformer.rope_cos") {
            continue;
        }
        let [_, t, c, h, w] = reference.shape("transformer.hidden_states")[..] else { panic!() };
        let grid = config.grid([c, t, h, w]);
        let positions = positions(&config, grid, Limits::default(), &Device::flex());
        let [Positions::Rotated(rotation)] = &positions[..] else { panic!("one part, rotated") };
        for (name, table) in [("cos", &rotation.cos), ("sin", &rotation.sin)] {
            // The reference repeats each value for both channels of a pair.
            let expected = reference.f32(&format!("transformer.rope_{name}"));
            let expected: Vec<f32> = expected.chunks(2).map(|pair| pair[0]).collect();
            assert_matches(name, &data(table.clone()), &expected, 1e-5);
        }
    }
}

#[test]
fn streamed_blocks_compute_the_same_bits() {
    for folder in &folders()[..1] {
        let weights = FixtureWeights::open(&folder.join("transformer"));
        for (name, device) in devices() {
            let velocity = |resident| {
                let transformer = load(folder, &weights, Limits::default(), resident, &device);
                transform(folder, &transformer, &device)["output"].clone()
            };
            let expected = velocity(usize::MAX);
            for resident in [0, 1] {
                assert_eq!(velocity(resident), expected, "{name}, {resident} resident");
            }
        }
    }
}

#[test]
fn attention_in_other_precisions_stays_near_the_exact_one() {
    for folder in &fixture_folders("cogvideox_5b_")[..1] {
        let weights = FixtureWeights::open(&folder.join("transformer"));
        for (name, device) in devices() {
            let velocity = |precision| {
                let exact = load(folder, &weights, Limits::default(), usize::MAX, &device);
                transform(folder, &exact.with_attention(precision), &device)["output"].clone()
            };
            let exact = velocity(AttentionPrecision::Exact);
            let int8 = velocity(AttentionPrecision::Int8);
            let error = max_error(&int8, &exact);
            assert!(error > 0.0 && error < 5e-2, "{name}: int8 differs by {error}");
            if device.supports_dtype(burn::tensor::DType::F16) {
                let error = max_error(&velocity(AttentionPrecision::F16), &exact);
                assert!(error > 0.0 && error < 1e-2, "{name}: f16 differs by {error}");
            }
        }
    }
}

/// The transformer of `folder` with all its linear layers quantized.
fn quantized(folder: &Path, precision: &str, arithmetic: Arithmetic) -> RoundingSource {
    let file = folder.join("transformer/diffusion_pytorch_model.safetensors");
    let index = file.with_extension("safetensors.index.json");
    let path = if index.is_file() { index } else { file };
    RoundingSource {
        checkpoint: Checkpoint::open(&path).expect("a checkpoint"),
        rounding: Rounding::new(Scope::every_layer(precision.parse().expect("a precision"))),
        arithmetic,
    }
}

/// Root mean square of the difference, relative to that of `expected`.
fn rms_error(actual: &[f32], expected: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f32>| -> f64 {
        values.map(|value| f64::from(value) * f64::from(value)).sum()
    };
    let difference = square(&mut actual.iter().zip(expected).map(|(a, e)| a - e));
    (difference / square(&mut expected.iter().copied())).sqrt()
}

#[test]
fn packed_layers_compute_what_rounded_floats_do() {
    let folder = &fixture_folders("cogvideox_1_5_")[0];
    for (name, device) in devices() {
        let velocity = |source: &dyn WeightSource| {
            let transformer = load(folder, source, Limits::default(), usize::MAX, &device);
            transform(folder, &transformer, &device)["output"].clone()
        };
        let full = velocity(&FixtureWeights::open(&folder.join("transformer")));
        // A value at the border of two codes may take the other one and move its token by a step.
        for (precision, step) in [("w4a4", 3e-2), ("w8a8", 2e-3)] {
            let [packed, fake] = [Arithmetic::Packed, Arithmetic::FakeQuant]
                .map(|arithmetic| velocity(&quantized(folder, precision, arithmetic)));
            let error = rms_error(&packed, &fake);
            assert!(
                error < step,
                "{name} {precision}: packed and rounded floats differ by {error}"
            );
            let error = rms_error(&packed, &full);
            assert!(error > step && error < 1.0, "{name} {precision}: differs by {error}");
        }
    }
}

#[test]
fn prompts_that_share_a_timestep_get_the_velocities_of_separate_passes_exactly() {
    let off = &mut Trace::off();
    for folder in folders() {
        let config = config_of(&folder);
        let weights = FixtureWeights::open(&folder.join("transformer"));
        for (name, device) in devices() {
            let fresh = || load(&folder, &weights, Limits::default(), usize::MAX, &device);
            let transformer = fresh();
            let value = |len: usize| (0..len).map(|i| (0.7 * i as f32).sin()).collect::<Vec<f32>>();
            let [pt, ph, pw] = config.patch();
            // The second grid has the same number of tokens: its positions are others.
            for [frames, height] in [[1, 2], [2, 1]] {
                let shape = [config.in_channels, frames * pt, height * ph, 2 * pw];
                let latent = TensorData::new(value(shape.iter().product()), shape);
                let latent = Tensor::<4>::from_data(latent, &device);
                let timestep = transformer.timestep_context(500.0, off);
                let velocities = [1.0, -1.0].map(|sign| {
                    let shape = [3, config.text_embed_dim];
                    let embeds = TensorData::new(value(shape.iter().product()), shape);
                    let text = Tensor::<2>::from_data(embeds, &device) * sign;
                    let text = transformer.text_context(text, off);
                    let shared =
                        data(transformer.forward_at(latent.clone(), &timestep, &text, off));
                    let separate = fresh().forward(latent.clone(), 500.0, &text);
                    assert_eq!(shared, data(separate), "{name}");
                    let mut count = 0;
                    let mut observe = |_: &str, _| count += 1;
                    let trace = &mut Trace::to(&mut observe);
                    let traced = fresh().forward_traced(latent.clone(), 500.0, &text, trace);
                    assert_eq!(shared, data(traced), "{name}: watching changes the result");
                    assert!(count > 10);
                    shared
                });
                assert_ne!(velocities[0], velocities[1], "{name}");
            }
        }
    }
}

#[test]
fn missing_tensors_and_stored_positions_are_named() {
    let folder = &folders()[0];
    let error = |weights: &FixtureWeights, json: &Value| {
        let config = CogVideoXConfig::from_json(json).unwrap();
        let weights = Weights::new(weights, &Device::flex());
        CogVideoXTransformer::load(&weights, &config, Limits::default(), &mut |_, _| ())
            .unwrap_err()
            .to_string()
    };
    let mut weights = FixtureWeights::open(&folder.join("transformer"));
    let mut json = json_of(folder);
    json["num_layers"] = json!(json["num_layers"].as_u64().unwrap() + 1);
    let message = error(&weights, &json);
    assert!(message.contains("ff.net.0.proj.weight\" is missing"), "{message}");
    weights.rename_any(&["proj_out.bias"], "patch_embed.pos_embedding");
    let message = error(&weights, &json_of(folder));
    let expected = "tensor \"patch_embed.pos_embedding\": learned positions, of models made for \
                    images, are not supported";
    assert!(message.starts_with(expected), "{message}");
}
