//! Training: gradients, quantized students, and what the method promises.

#[path = "../common/mod.rs"]
mod common;
mod gradients;
mod pretrain;
mod student;

use burn::tensor::{Device, Tensor, TensorData};
use qvgen::models::DenoiserConfig;
use qvgen::models::cogvideox::CogVideoXConfig;
use qvgen::models::wan::WanConfig;
use qvgen::train::{Example, Group, Parameters};
use std::sync::Arc;

/// Sizes of a transformer that a test can train.
fn tiny() -> WanConfig {
    WanConfig {
        num_attention_heads: 2,
        attention_head_dim: 12,
        in_channels: 4,
        out_channels: 4,
        text_dim: 10,
        freq_dim: 8,
        ffn_dim: 40,
        num_layers: 2,
        cross_attn_norm: true,
        eps: 1e-6,
        rope_max_seq_len: 32,
    }
}

/// The same for CogVideoX, with a table of positions.
fn tiny_cogvideox() -> CogVideoXConfig {
    CogVideoXConfig {
        num_attention_heads: 2,
        attention_head_dim: 16,
        in_channels: 4,
        out_channels: 4,
        text_embed_dim: 10,
        max_text_seq_length: 5,
        time_embed_dim: 12,
        num_layers: 2,
        sample_height: 4,
        sample_width: 6,
        ..CogVideoXConfig::cogvideox_2b()
    }
}

/// Tiny transformers of every architecture.
fn architectures() -> Vec<(&'static str, Arc<dyn DenoiserConfig>)> {
    let rotary = CogVideoXConfig {
        use_rotary_positional_embeddings: true,
        patch_size_t: Some(2),
        ofs_embed_dim: Some(12),
        ..tiny_cogvideox()
    };
    vec![
        ("wan", Arc::new(tiny())),
        ("cogvideox", Arc::new(tiny_cogvideox())),
        ("cogvideox1.5", Arc::new(rotary)),
    ]
}

/// Values from −1 to 1 that look random.
fn values(len: usize, seed: u32) -> Vec<f32> {
    let value = |i: usize| {
        let mut x = (i as u32).wrapping_mul(0x9E37_79B9) ^ seed.wrapping_mul(0x85EB_CA6B);
        x ^= x >> 16;
        x = x.wrapping_mul(0x7FEB_352D);
        x ^= x >> 15;
        x = x.wrapping_mul(0x846C_A68B);
        (x >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..len).map(value).collect()
}

/// Random parameters of a transformer of `config`.
fn parameters(config: &dyn DenoiserConfig, device: &Device) -> Parameters {
    let mut parameters = Parameters::default();
    for (index, (name, shape)) in config.parameter_shapes().into_iter().enumerate() {
        let len: usize = shape.iter().product();
        let inputs: usize = shape[1..].iter().product::<usize>().max(1);
        let is_norm = name.contains("norm") && name.ends_with("weight");
        let spread = 1.7 / (inputs as f32).sqrt();
        let values = values(len, index as u32)
            .into_iter()
            .map(|value| if is_norm { 1.0 + 0.2 * value } else { spread * value });
        parameters.insert_values(name, values.collect(), &shape, Group::Weights, device);
    }
    parameters
}

fn tensor<const D: usize>(shape: [usize; D], seed: u32, device: &Device) -> Tensor<D> {
    let len = shape.iter().product();
    Tensor::from_data(TensorData::new(values(len, seed), shape), device)
}

/// A noisy latent with a target.
fn example(config: &dyn DenoiserConfig, seed: u32, device: &Device) -> Example {
    let shape = [config.in_channels(), 2, 4, 6];
    Example {
        noisy: tensor(shape, 100 + seed, device),
        timestep: 400.0,
        text: tensor([5, config.text_dim()], 200 + seed, device),
        targets: vec![
            (tensor(shape, 300 + seed, device), 0.75),
            (tensor(shape, 400 + seed, device), 0.25),
        ],
    }
}

fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_to_vec().expect("f32 values")
}
