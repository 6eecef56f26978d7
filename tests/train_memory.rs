//! What a block keeps for its backward pass, as plans of trainings count it, against the bytes that
//! are in use on a device.
//!
//! One test in a program of its own: others would use the device at the same time.

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use common::wgpu_device;
use qvgen::method::Scope;
use qvgen::method::qvgen::Method;
use qvgen::models::DenoiserConfig;
use qvgen::models::cogvideox::CogVideoXConfig;
use qvgen::models::wan::WanConfig;
use qvgen::nn::{Limits, Trace, Weights};
use qvgen::train::{Group, ParameterSource, Parameters, QuantizedLayers};
use std::sync::Arc;

/// Heads of the usual width: what attention keeps beside tokens is one number per head and token.
const HEADS: usize = 4;
/// Latent frames of the short and the long video, each of 64 tokens.
const FRAMES: [usize; 2] = [4, 12];
const FRAME_TOKENS: usize = 64;
/// Tokens of the short and the long text.
const TEXT: [usize; 2] = [64, 256];

fn wan(ffn_dim: usize) -> Arc<dyn DenoiserConfig> {
    Arc::new(WanConfig {
        num_attention_heads: HEADS,
        attention_head_dim: 64,
        in_channels: 4,
        out_channels: 4,
        text_dim: 64,
        freq_dim: 64,
        ffn_dim,
        ..WanConfig::wan2_1_t2v_1_3b()
    })
}

fn cogvideox(use_rotary_positional_embeddings: bool) -> Arc<dyn DenoiserConfig> {
    Arc::new(CogVideoXConfig {
        num_attention_heads: HEADS,
        attention_head_dim: 64,
        in_channels: 4,
        out_channels: 4,
        text_embed_dim: 64,
        time_embed_dim: 64,
        use_rotary_positional_embeddings,
        ..CogVideoXConfig::cogvideox_2b()
    })
}

fn tensor<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    let values = (0..shape.iter().product()).map(|i: usize| (0.37 * i as f32).sin());
    Tensor::from_data(TensorData::new(values.collect(), shape), device)
}

fn parameters(config: &dyn DenoiserConfig, device: &Device) -> Parameters {
    let mut parameters = Parameters::default();
    for (name, shape) in config.parameter_shapes() {
        let inputs = shape[1..].iter().product::<usize>().max(1) as f32;
        let values = (0..shape.iter().product()).map(|i: usize| (i as f32).sin() / inputs.sqrt());
        parameters.insert_values(name, values.collect(), &shape, Group::Weights, device);
    }
    parameters
}

fn in_use(device: &Device) -> u64 {
    device.sync().expect("a device");
    device.memory_pool_usage().expect("a device that tells").bytes_in_use
}

/// Bytes that a forward pass leaves for its backward pass.
fn kept(config: &dyn DenoiserConfig, [frames, text]: [usize; 2], bits: Option<&str>) -> u64 {
    let device = wgpu_device();
    let mut parameters = parameters(config, &device);
    let layers = bits.map(|bits| {
        let scope = Scope::recommended(bits.parse().expect("bits"), config.sensitive_layers());
        let (linears, recipe) = (config.linears(), Method::Lsq.recipe(8, 0.5));
        let layers = QuantizedLayers::prepare(&mut parameters, &linears, &scope, &recipe, 100, 0);
        let mut layers = layers.expect("layers");
        // The weights of the step are counted for themselves.
        layers.begin_step(&mut parameters, 1, true);
        layers
    });
    let noisy = tensor([4, frames, 16, 16], &device);
    let text = tensor([text, config.text_dim()], &device);
    let before = in_use(&device);
    let source = ParameterSource::graph(&parameters, layers.as_ref());
    let autodiff = device.clone().autodiff();
    let limits = Limits { max_elements: 1 << 25 };
    let model = config.load(&Weights::new(&source, &autodiff), limits).expect("a model");
    let context = model.text_context(Tensor::from_inner(text), &mut Trace::off());
    let prediction = model.forward(Tensor::from_inner(noisy), 400.0, &context);
    drop((model, context));
    let after = in_use(&device);
    drop(prediction);
    after - before
}

#[test]
fn blocks_keep_what_plans_count() {
    let models = [
        ("wan", wan(512), None),
        ("wan, wide layers", wan(1024), Some("w4a4")),
        ("cogvideox", cogvideox(false), Some("w4a4")),
        ("cogvideox, rotary", cogvideox(true), None),
    ];
    for (name, config, bits) in models {
        // Of the second block alone: weights and what is around the blocks cancel.
        let of_a_block = |frames, text| {
            let [one, two] = [1, 2]
                .map(|layers| kept(&*config.with_num_layers(layers), [frames, text], bits) as f64);
            two - one
        };
        let tensors = config.block_tensors();
        let dim = 4.0 * config.dim() as f64;
        let wide = tensors.kept[0] as f64 * dim;
        let counted = wide + tensors.kept[1] as f64 * 4.0 * config.ffn_dim() as f64;
        let short = of_a_block(FRAMES[0], TEXT[0]);
        let frames = (FRAMES[1] - FRAMES[0]) * FRAME_TOKENS;
        let token = (of_a_block(FRAMES[1], TEXT[0]) - short) / frames as f64;
        assert_near(&format!("{name}: a token"), token, counted);
        // A text is in the sequence, or beside it.
        let in_sequence = config.sequence_tokens(0, 1) as f64 * counted;
        let counted = in_sequence + tensors.kept_of_text as f64 * dim;
        let text = (TEXT[1] - TEXT[0]) as f64;
        let token = (of_a_block(FRAMES[0], TEXT[1]) - short) / text;
        assert_near(&format!("{name}: a token of the text"), token, counted);
    }
}

#[track_caller]
fn assert_near(what: &str, bytes: f64, counted: f64) {
    let share = bytes / counted;
    assert!((0.98..1.02).contains(&share), "{what} keeps {bytes:.0} bytes, {counted:.0} counted");
}
