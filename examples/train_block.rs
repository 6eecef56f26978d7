//! Time and memory of training one Wan-1.3B block of true size: forward and backward pass in full
//! precision, fake-quantized, and with Φ.
//!
//! ```sh
//! cargo run --release --example train_block -- 1560 [cpu|auto|NAME]
//! ```
//!
//! The weights are random, which changes no time. Every pass recomputes the block's forward pass
//! as training does.

use anyhow::{Context, bail};
use burn::tensor::{Device, Tensor, TensorData};
use qvgen::kernels::device::{self, OpenDevice, Selection};
use qvgen::method::Scope;
use qvgen::method::qvgen::{Auxiliary, Method, Recipe};
use qvgen::models::DenoiserConfig;
use qvgen::models::wan::{WanBlock, WanConfig, rotations};
use qvgen::nn::{Limits, Trace, Weights};
use qvgen::pipeline::plan::peak_host_bytes;
use qvgen::train::{Group, ParameterSource, Parameters, QuantizedLayers};
use std::time::Instant;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let tokens: usize =
        arguments.first().map_or("1560", String::as_str).parse().context("tokens")?;
    let selection = match arguments.get(1).map(String::as_str) {
        None | Some("auto") => Selection::Auto,
        Some("cpu") => Selection::Cpu,
        Some(name) => Selection::Named(name.to_owned()),
    };
    if tokens == 0 || !tokens.is_multiple_of(1560) {
        bail!("{tokens} tokens: give a multiple of 1560, the tokens of a 480x832 latent frame");
    }
    let open = device::open(&selection, None)?;
    println!("{}; {tokens} tokens", open.describe());
    let config = WanConfig { num_layers: 1, ..WanConfig::wan2_1_t2v_1_3b() };
    let none = Recipe { auxiliary: Auxiliary::None, ..Method::QDm.recipe(32, 0.5) };
    let cases = [
        ("full precision", None),
        ("W4A4, without Φ", Some(none)),
        ("W4A4, with Φ of rank 32", Some(Method::Qvgen.recipe(32, 0.5))),
    ];
    let mut first = None;
    for (what, recipe) in cases {
        let block = Case::new(&config, recipe.as_ref(), &open.device)?;
        block.pass(tokens, &open)?; // pipelines and caches
        let mut seconds: Vec<f64> =
            (0..3).map(|_| block.pass(tokens, &open)).collect::<anyhow::Result<_>>()?;
        seconds.sort_by(f64::total_cmp);
        let base = *first.get_or_insert(seconds[1]);
        println!(
            "{what:<24} {:8.2} s (best {:.2}, worst {:.2}), {:.2} of full precision; \
             device {}, host peak {}",
            seconds[1],
            seconds[0],
            seconds[2],
            seconds[1] / base,
            gib(open.device.memory_pool_usage().map(|usage| usage.bytes_reserved)),
            gib(peak_host_bytes()),
        );
    }
    Ok(())
}

fn gib(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "unknown".to_owned(), |b| format!("{:.2} GiB", b as f64 / 2_f64.powi(30)))
}

/// A block in training.
struct Case {
    config: WanConfig,
    parameters: Parameters,
    layers: Option<QuantizedLayers>,
}

impl Case {
    fn new(config: &WanConfig, recipe: Option<&Recipe>, device: &Device) -> anyhow::Result<Self> {
        let mut parameters = Parameters::default();
        for (index, (name, shape)) in config.parameter_shapes().into_iter().enumerate() {
            if !name.starts_with("blocks.0.") {
                continue;
            }
            let len: usize = shape.iter().product();
            let inputs = shape[1..].iter().product::<usize>().max(1) as f32;
            let values = (0..len).map(|i| noise(i, index) / inputs.sqrt()).collect();
            parameters.insert_values(name, values, &shape, Group::Weights, device);
        }
        let linears: Vec<_> =
            config.linears().into_iter().filter(|l| l.name.starts_with("blocks.0.")).collect();
        let scope = Scope::recommended("w4a4".parse()?, config.sensitive_layers());
        let layers = recipe
            .map(|recipe| {
                QuantizedLayers::prepare(&mut parameters, &linears, &scope, recipe, 1000, 0)
            })
            .transpose()?;
        Ok(Self { config: config.clone(), parameters, layers })
    }

    /// Seconds of a forward pass without gradients, and then one with, and the backward pass.
    fn pass(&self, tokens: usize, open: &OpenDevice) -> anyhow::Result<f64> {
        let (limits, dim) = (Limits { max_elements: open.max_elements() }, self.config.dim());
        let grid = [tokens / 1560, 30, 52];
        let value = |shape: [usize; 2], seed| {
            let values: Vec<f32> = (0..shape[0] * shape[1]).map(|i| noise(i, seed)).collect();
            Tensor::<2>::from_data(TensorData::new(values, shape), &open.device)
        };
        let (hidden, text) = (value([tokens, dim], 1), value([512, dim], 2));
        let timestep = value([6, dim], 3);
        let mut layers = self.layers.clone();
        let mut parameters = self.parameters.clone();
        open.device.sync()?;
        let start = Instant::now();
        if let Some(layers) = &mut layers {
            layers.begin_step(&mut parameters, 1, false);
        }
        let parts = |hidden: Tensor<2>| hidden.split(limits.tokens(dim), 0);
        let plain = ParameterSource::plain(&parameters, layers.as_ref());
        let block = WanBlock::load(&Weights::new(&plain, &open.device), &self.config, limits, 0)?;
        let positions = rotations(&self.config, grid, limits, &open.device);
        let keys_values = block.text_keys_values(&text);
        let off = &mut Trace::off();
        let of_block = block.timestep(&timestep);
        drop(block.forward(parts(hidden.clone()), &of_block, &positions, &keys_values, off));

        let device = open.device.clone().autodiff();
        let source = ParameterSource::graph(&parameters, layers.as_ref());
        let block = WanBlock::load(&Weights::new(&source, &device), &self.config, limits, 0)?;
        let hidden = Tensor::from_inner(hidden).require_grad();
        let timestep = Tensor::from_inner(timestep).require_grad();
        let text = Tensor::from_inner(text).require_grad();
        let positions = rotations(&self.config, grid, limits, &device);
        let keys_values = block.text_keys_values(&text);
        let of_block = block.timestep(&timestep);
        let out = block.forward(parts(hidden.clone()), &of_block, &positions, &keys_values, off);
        let sum = out.into_iter().map(|y| (y.clone() * y).sum()).reduce(|a, b| a + b);
        let gradients = sum.context("tokens")?.backward();
        let mut map = source.gradients(&gradients);
        if let Some(layers) = &layers {
            layers.backward(&parameters, &mut map);
        }
        let kept = (map, hidden.grad(&gradients));
        open.device.sync()?;
        let seconds = start.elapsed().as_secs_f64();
        drop(kept);
        Ok(seconds)
    }
}

/// A value from −1 to 1.
fn noise(i: usize, seed: usize) -> f32 {
    let mut x = (i as u32).wrapping_mul(0x9E37_79B9) ^ (seed as u32).wrapping_mul(0x85EB_CA6B);
    x ^= x >> 16;
    x = x.wrapping_mul(0x7FEB_352D);
    x ^= x >> 15;
    (x >> 8) as f32 / 8_388_608.0 - 1.0
}
