//! What plans of runs predict against the bytes that are in use on a device at the fullest moment.
//!
//! One test in a program of its own: others would use the device at the same time.

mod common;
#[path = "common/weights.rs"]
mod weights;

use burn::tensor::{Device, Tensor, TensorData};
use common::wgpu_device;
use qvgen::bench::RandomWeights;
use qvgen::kernels::MemoryWatch;
use qvgen::models::cogvideox::CogVideoXConfig;
use qvgen::models::cogvideox_vae::CogVideoXVaeConfig;
use qvgen::models::t5::{self, T5Config, TokenIds};
use qvgen::models::wan::WanConfig;
use qvgen::models::wan_vae::WanVaeConfig;
use qvgen::models::{AutoencoderConfig, DenoiserConfig, LinearShape};
use qvgen::nn::{Limits, Trace, Weights};
use qvgen::pipeline::memory::{TransformerBytes, text_encoder_bytes};
use std::ops::ControlFlow;
use weights::FixtureWeights;

/// Predictions may be off by a tenth.
const TOLERANCE: f64 = 0.1;
/// What adapters of the usual limits can bind.
const LIMITS: Limits = Limits { max_elements: 1 << 25 };
const LAYERS: usize = 4;
const TEXT_TOKENS: usize = 64;

fn wan() -> WanConfig {
    WanConfig {
        num_attention_heads: 6,
        attention_head_dim: 64,
        num_layers: LAYERS,
        text_dim: 64,
        ffn_dim: 1536,
        ..WanConfig::wan2_1_t2v_1_3b()
    }
}

fn cogvideox() -> CogVideoXConfig {
    CogVideoXConfig {
        num_attention_heads: 6,
        attention_head_dim: 64,
        num_layers: LAYERS,
        text_embed_dim: 64,
        ..CogVideoXConfig::cogvideox_2b()
    }
}

fn tensor<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    let values = (0..shape.iter().product()).map(|i: usize| (0.37 * i as f32).sin());
    Tensor::from_data(TensorData::new(values.collect(), shape), device)
}

/// Predicted bytes of a pass with `resident` blocks on the device, and those that were in use.
fn denoised(
    config: &dyn DenoiserConfig,
    precision: &str,
    resident: usize,
    latent: [usize; 4],
) -> [u64; 2] {
    let device = wgpu_device();
    let precision = precision.parse().expect("a precision");
    let source = RandomWeights::new(config, precision, LIMITS.max_elements).with_own_blocks();
    let weights = Weights::new(&source, &device);
    let transformer =
        config.load_streamed(&weights, LIMITS, resident, &mut |_, _| {}).expect("a transformer");
    let text = tensor([TEXT_TOKENS, config.text_dim()], &device);
    let context = transformer.text_context(text, &mut Trace::off());
    let noisy = tensor(latent, &device);
    device.sync().expect("a device");
    device.memory_cleanup();
    let watch = MemoryWatch::start();
    transformer.forward(noisy, 500.0, &context).into_data();
    let in_use = watch.stop().expect("dispatches");
    let tokens = config.grid(latent).iter().product();
    let activations = config.activation_bytes(tokens, TEXT_TOKENS, 1, LIMITS.max_elements);
    let parameters = TransformerBytes::of(config, &|layer| source.weight_bytes(layer));
    [parameters.on_device(resident, activations) + activations, in_use]
}

/// The same of decoding.
fn decoded(config: &dyn AutoencoderConfig, [height, width]: [usize; 2]) -> [u64; 2] {
    let device = wgpu_device();
    let shapes = config.decoder_parameter_shapes();
    let elements = |(_, shape): &(String, Vec<usize>)| shape.iter().product::<usize>() as u64;
    let parameters = 4 * shapes.iter().map(elements).sum::<u64>();
    let source = FixtureWeights::synthetic(shapes);
    let decoder = config.load_decoder(&Weights::new(&source, &device)).expect("a decoder");
    let latent = tensor([config.z_dim(), 5, height, width], &device);
    device.sync().expect("a device");
    let watch = MemoryWatch::start();
    let mut take = |chunk: Tensor<4>| {
        chunk.into_data();
        ControlFlow::Continue(())
    };
    decoder.decode(latent, None, &mut take).expect("a video");
    let in_use = watch.stop().expect("dispatches");
    [parameters + config.decode_peak_bytes(height, width), in_use]
}

/// The same of encoding prompts, as long as texts may be.
fn encoded(config: &T5Config, prompts: usize) -> [u64; 2] {
    let device = wgpu_device();
    let source = FixtureWeights::synthetic(config.parameter_shapes());
    let prompt = TokenIds { ids: vec![1; TEXT_TOKENS], length: TEXT_TOKENS };
    let watch = MemoryWatch::start();
    let weights = Weights::new(&source, &device);
    let mut advance = |_, _| ControlFlow::Continue(());
    t5::encode(&weights, config, &vec![prompt; prompts], &mut advance).expect("embeddings");
    let in_use = watch.stop().expect("dispatches");
    let weight_bytes =
        |layer: &LinearShape| 4 * layer.out_features as u64 * layer.in_features as u64;
    [text_encoder_bytes(config, TEXT_TOKENS, prompts, &weight_bytes), in_use]
}

#[test]
fn plans_predict_what_is_in_use() {
    let (long, short) = ([16, 4, 32, 48], [16, 2, 8, 16]);
    let mut wrong = Vec::new();
    let mut hold = |what: String, [predicted, in_use]: [u64; 2]| {
        let share = predicted as f64 / in_use as f64;
        println!("{what}: {predicted} bytes predicted, {in_use} in use: {share:.3}");
        let near = (share - 1.0).abs() <= TOLERANCE;
        if !near {
            wrong.push(format!("{what}: {predicted} bytes predicted, {in_use} in use"));
        }
    };
    let models: [(&str, &dyn DenoiserConfig); 2] = [("wan", &wan()), ("cogvideox", &cogvideox())];
    for (name, config) in models {
        for precision in ["full", "w4a4"] {
            for (resident, latent) in [(LAYERS, long), (LAYERS, short), (0, long), (0, short)] {
                let what = format!("{name} {precision}, {resident} resident, latent {latent:?}");
                hold(what, denoised(config, precision, resident, latent));
            }
        }
    }
    let wan = WanVaeConfig { base_dim: 32, ..WanVaeConfig::default() };
    let cogvideox = CogVideoXVaeConfig {
        block_out_channels: vec![32, 64, 64, 128],
        ..CogVideoXVaeConfig::default()
    };
    let t5 = T5Config {
        d_model: 256,
        num_heads: 4,
        d_ff: 640,
        num_layers: 2,
        vocab_size: 16,
        ..T5Config::umt5_xxl()
    };
    hold("one prompt".into(), encoded(&t5, 1));
    hold("two prompts".into(), encoded(&t5, 2));
    hold("wan decoder".into(), decoded(&wan, [12, 16]));
    hold("cogvideox decoder".into(), decoded(&cogvideox, [12, 16]));
    assert!(wrong.is_empty(), "off by more than a tenth:\n{}", wrong.join("\n"));
}
