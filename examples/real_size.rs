//! A transformer of a published size with random weights: memory and seconds per forward pass.
//!
//! `cargo run --release --example real_size -- [MODEL] [WIDTHxHEIGHT] [FRAMES] [PRECISION] [LAYERS] [RESIDENT]`,
//! or `-- plan` for a table of the memory that runs of all models need
//!
//! Models are those of `qvgen bench list`. The defaults are wan-1.3b, the model's own size, 17
//! frames, w4a4, all layers, all of them resident; layers that are not wait in host memory. Without
//! guidance, so there is one prompt.

use anyhow::Context;
use burn::tensor::{Tensor, TensorData};
use cpu_time::ProcessTime;
use qvgen::bench::{Model, RandomWeights};
use qvgen::kernels::MemoryWatch;
use qvgen::kernels::device::{self, Selection};
use qvgen::models::LinearShape;
use qvgen::nn::{Limits, Trace, Weights};
use qvgen::pipeline::memory::TransformerBytes;
use qvgen::pipeline::plan::peak_host_bytes;
use std::time::Instant;

/// Values that look random, the same in every run.
fn random(name: &str, len: usize) -> Vec<f32> {
    let mut state =
        name.bytes().fold(0x9E37_79B9_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(16_777_619));
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state as f32 / u32::MAX as f32 - 0.5) * 0.06
        })
        .collect()
}

const GIB: f64 = (1_u64 << 30) as f64;

/// What denoising takes on the device at a model's own size, with guidance, as the plan of a run
/// predicts it.
fn print_plan() -> anyhow::Result<()> {
    println!("GiB on the device while denoising with guidance, all blocks resident");
    println!(
        "| model | size | precision | weights | 17 frames | 33 frames | 49 frames | 81 frames |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for model in Model::all().iter().filter(|model| !model.is_pocket()) {
        let (config, (width, height)) = (&*model.config, model.size);
        for precision in ["full", "w8a8", "w4a4", "w3a3"] {
            let weights =
                RandomWeights::new(config, precision.parse()?, usize::MAX).with_own_blocks();
            let parameters = TransformerBytes::of(config, &|layer| weights.weight_bytes(layer));
            let weight_bytes = parameters.on_device(config.num_layers(), 0);
            let total = [17, 33, 49, 81].map(|frames| {
                let tokens = config.grid(model.latent(frames, model.size)).iter().product();
                let activations = config.activation_bytes(tokens, model.text_tokens, 2, 1 << 29);
                format!("{:.1}", (weight_bytes + activations) as f64 / GIB)
            });
            let (name, weights) = (model.name, weight_bytes as f64 / GIB);
            let total = total.join(" | ");
            println!("| {name} | {width}x{height} | {precision} | {weights:.1} | {total} |");
        }
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "plan") {
        return print_plan();
    }
    let argument =
        |i: usize, default: &str| arguments.get(i).cloned().unwrap_or_else(|| default.to_owned());
    let name = argument(0, "wan-1.3b");
    let model = Model::named(&name).with_context(|| format!("no model is called {name}"))?;
    let size = argument(1, &format!("{}x{}", model.size.0, model.size.1));
    let (width, height) = size.split_once('x').context("a size such as 832x480")?;
    let (width, height): (usize, usize) = (width.parse()?, height.parse()?);
    let frames: usize = argument(2, "17").parse()?;
    let precision = argument(3, "w4a4").parse()?;
    let layers: usize = argument(4, &model.config.num_layers().to_string()).parse()?;
    let config = model.config.with_num_layers(layers);
    let resident: usize = argument(5, &layers.to_string()).parse()?;
    let resident = resident.min(layers);

    let open = device::open(&Selection::Auto, None)?;
    println!("{}", open.describe());
    let weights = RandomWeights::new(&*config, precision, open.max_elements()).with_own_blocks();
    let weight_bytes = |layer: &LinearShape| weights.weight_bytes(layer);
    let parameters = TransformerBytes::of(&*config, &weight_bytes);
    let weights = Weights::new(&weights, &open.device);
    let limits = Limits { max_elements: open.max_elements() };
    let start = Instant::now();
    let transformer = config.load_streamed(&weights, limits, resident, &mut |_, _| {})?;
    open.device.sync()?;
    // What was needed to quantize is not needed any more.
    open.device.memory_cleanup();
    let in_use = || open.device.memory_pool_usage().map_or(0, |usage| usage.bytes_in_use);
    println!(
        "loaded {layers} layers in {:.1} s: {:.3} GiB in use",
        start.elapsed().as_secs_f64(),
        in_use() as f64 / GIB
    );

    let (shape, text_tokens) = (model.latent(frames, (width, height)), model.text_tokens);
    let tokens = config.grid(shape).iter().product::<usize>();
    let latent = random("latent", shape.iter().product()).iter().map(|v| v * 30.0).collect();
    let latent = Tensor::<4>::from_data(TensorData::new::<f32, _>(latent, shape), &open.device);
    let text = TensorData::new(
        random("text", text_tokens * config.text_dim()),
        [text_tokens, config.text_dim()],
    );
    let context =
        transformer.text_context(Tensor::<2>::from_data(text, &open.device), &mut Trace::off());
    open.device.sync()?;
    let watch = MemoryWatch::start();
    for pass in ["first (compiles shaders)", "second"] {
        let (start, processor) = (Instant::now(), ProcessTime::now());
        let velocity = transformer.forward(latent.clone(), 500.0, &context);
        let values: Vec<f32> =
            velocity.into_data().try_to_vec().ok().context("the device returned no floats")?;
        let seconds = start.elapsed().as_secs_f64();
        anyhow::ensure!(values.iter().all(|v| v.is_finite()), "values that are not finite");
        println!(
            "{pass} forward pass: {frames} frames of {width}x{height}, {tokens} tokens, {precision}: \
             {seconds:.2} s ({:.2} s of processor time), {:.3} tera-operations per second",
            processor.elapsed().as_secs_f64(),
            config.ops(tokens, text_tokens).total(layers) / seconds / 1e12
        );
    }
    let gib = |bytes: u64| bytes as f64 / GIB;
    let activations = config.activation_bytes(tokens, text_tokens, 1, open.max_elements());
    let weight_bytes = parameters.on_device(resident, activations);
    println!(
        "device memory predicted: {:.3} GiB ({:.3} weights, {:.3} activations)",
        gib(weight_bytes + activations),
        gib(weight_bytes),
        gib(activations)
    );
    if let Some(bytes) = watch.stop() {
        println!("device memory in use at the fullest moment: {:.3} GiB", gib(bytes));
    }
    if let Some(usage) = open.device.memory_pool_usage() {
        println!("device memory reserved: {:.2} GiB", gib(usage.bytes_reserved));
    }
    if let Some(bytes) = peak_host_bytes() {
        println!("host memory at the peak: {:.2} GiB", gib(bytes));
    }
    Ok(())
}
