//! A video decoder with random weights: seconds, operations and memory of a chunk of latent frames.
//!
//! `cargo run --release --example vae_decode -- [wan|cogvideox] [LATENT_HEIGHTxLATENT_WIDTH]
//! [LATENT_FRAMES] [exact|f16]`
//!
//! The defaults are Wan 2.1's, 24x40, a video of 192x320, and two latent frames, exact.
//! `QVGEN_DEVICE` takes an index or a part of a name, or `cpu`.

use anyhow::Context;
use burn::tensor::{Device, Tensor, TensorData};
use cpu_time::ProcessTime;
use qvgen::kernels::device::{self, OpenDevice, Selection};
use qvgen::models::DecodeOps;
use qvgen::models::cogvideox_vae::{self, CogVideoXVaeConfig, CogVideoXVaeDecoder};
use qvgen::models::wan_vae::{self, WanVaeConfig, WanVaeDecoder};
use qvgen::nn::{ConvPrecision, Linear, WeightError, WeightSource, Weights};
use std::time::Instant;

/// Parameters that no file holds: different everywhere, the same in every run, and of a size that
/// keeps values from growing.
struct RandomWeights;

fn random(name: &str, len: usize) -> Vec<f32> {
    let mut state =
        name.bytes().fold(0x9E37_79B9_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(16_777_619));
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 * 2.0 - 1.0
        })
        .collect()
}

impl WeightSource for RandomWeights {
    fn has(&self, _name: &str) -> bool {
        true
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError> {
        let values = random(name, shape.iter().product());
        if name.ends_with("gamma") {
            return Ok(values.iter().map(|value| 1.0 + 0.2 * value).collect());
        }
        let inputs: usize = shape[1..].iter().product();
        let scale = (3.0 / inputs.max(1) as f32).sqrt();
        Ok(values.iter().map(|value| scale * value).collect())
    }

    fn rows(&self, name: &str, shape: [usize; 2], rows: &[usize]) -> Result<Vec<f32>, WeightError> {
        Ok(random(name, shape[1] * rows.len()))
    }

    fn linear(
        &self,
        name: &str,
        _out_features: usize,
        _in_features: usize,
        _has_bias: bool,
        _device: &Device,
    ) -> Result<Linear, WeightError> {
        unreachable!("{name}: the decoder has no linear layers")
    }
}

/// Seconds of the parts of a pass, by the clock and of the CPU.
struct Parts {
    device: Device,
    started: (Instant, ProcessTime),
    seconds: Vec<(String, f64, f64)>,
}

impl Parts {
    fn end(&mut self, name: &str) -> anyhow::Result<()> {
        self.device.sync()?;
        let (wall, cpu) = &self.started;
        let seconds = (name.to_owned(), wall.elapsed().as_secs_f64(), cpu.elapsed().as_secs_f64());
        self.seconds.push(seconds);
        self.started = (Instant::now(), ProcessTime::now());
        Ok(())
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1_u64 << 30) as f64
}

/// A decoder in the middle of a video, whatever its family.
struct Job<'a> {
    z_dim: usize,
    spatial_factor: usize,
    /// Latent frames that are decoded together.
    chunks: Vec<usize>,
    /// Operations of a chunk of so many latent frames, the first or a later one.
    ops: &'a dyn Fn(usize, bool) -> DecodeOps,
    peak_bytes: u64,
    decode: &'a mut Decode<'a>,
}

/// Decodes a chunk and shows its inner results.
type Decode<'a> = dyn FnMut(Tensor<4>, &mut dyn FnMut(&str, &Tensor<4>)) -> Tensor<4> + 'a;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().unwrap_or_else(|| "wan".to_owned());
    let size = arguments.next().unwrap_or_else(|| "24x40".to_owned());
    let (height, width) = size.split_once('x').context("a size such as 24x40")?;
    let (height, width): (usize, usize) = (height.parse()?, width.parse()?);
    let frames: usize = arguments.next().unwrap_or_else(|| "2".to_owned()).parse()?;
    anyhow::ensure!(frames > 0, "at least one latent frame");
    let precision = match arguments.next().as_deref() {
        None | Some("exact") => ConvPrecision::Exact,
        Some("f16") => ConvPrecision::F16,
        Some(other) => anyhow::bail!("no precision {other}, only exact and f16"),
    };
    let selection = match std::env::var("QVGEN_DEVICE") {
        Ok(name) if name == "cpu" => Selection::Cpu,
        Ok(name) => Selection::Named(name),
        Err(_) => Selection::Auto,
    };
    let open = device::open(&selection, None)?;
    println!("{}", open.describe());
    let weights = Weights::new(&RandomWeights, &open.device).with_conv_precision(precision);
    match model.as_str() {
        "wan" => {
            let config = WanVaeConfig::wan2_1();
            let decoder = WanVaeDecoder::load(&weights, &config)?;
            let mut stream = decoder.stream();
            Job {
                z_dim: config.z_dim,
                spatial_factor: config.spatial_factor(),
                chunks: vec![1; frames],
                ops: &|_, is_later| wan_vae::decode_ops(&config, height, width, is_later),
                peak_bytes: wan_vae::decode_peak_bytes(&config, height, width),
                decode: &mut |latent, observe| stream.decode_traced(latent, observe),
            }
            .run(&open, [height, width])
        }
        "cogvideox" => {
            let config = CogVideoXVaeConfig::cogvideox_2b();
            let decoder = CogVideoXVaeDecoder::load(&weights, &config)?;
            let mut stream = decoder.stream();
            // What is left over joins the first chunk of two.
            let mut chunks = vec![2; (frames / 2).max(1)];
            chunks[0] = frames - 2 * (chunks.len() - 1);
            Job {
                z_dim: config.latent_channels,
                spatial_factor: config.spatial_factor(),
                chunks,
                ops: &|frames, _| cogvideox_vae::decode_ops(&config, frames, height, width),
                peak_bytes: cogvideox_vae::decode_peak_bytes(&config, height, width),
                decode: &mut |latent, observe| stream.decode_traced(latent, observe),
            }
            .run(&open, [height, width])
        }
        other => anyhow::bail!("no decoder {other}, only wan and cogvideox"),
    }
}

impl Job<'_> {
    fn run(self, open: &OpenDevice, [height, width]: [usize; 2]) -> anyhow::Result<()> {
        open.device.sync()?;
        let in_use = || open.device.memory_pool_usage().map(|usage| usage.bytes_in_use);
        let weights = in_use().unwrap_or(0);
        for (chunk, &frames) in self.chunks.iter().enumerate() {
            let ops = (self.ops)(frames, chunk > 0);
            let shape = [self.z_dim, frames, height, width];
            let latent = random(&format!("latent {chunk}"), shape.iter().product());
            let latent = Tensor::from_data(TensorData::new(latent, shape), &open.device);
            open.device.sync()?;
            let started = (Instant::now(), ProcessTime::now());
            let mut parts = Parts { device: open.device.clone(), started, seconds: Vec::new() };
            let mut failure = None;
            let video = (self.decode)(latent, &mut |name, _| {
                failure = parts.end(name).err().or(failure.take());
            });
            parts.end("output")?;
            failure.map_or(Ok(()), Err)?;
            let [_, count, rows, columns] = video.dims();
            anyhow::ensure!([rows, columns] == [height, width].map(|n| n * self.spatial_factor));
            let values: Vec<f32> =
                video.into_data().try_to_vec().ok().context("the device returned no floats")?;
            anyhow::ensure!(values.iter().all(|v| v.is_finite()), "values that are not finite");
            println!("chunk {chunk}: {count} frames of {columns}x{rows} from {frames} latent ones");
            report(&parts.seconds, &ops);
            if let Some(usage) = open.device.memory_pool_usage() {
                println!(
                    "  memory without weights: {:.3} GiB in use between chunks, {:.3} GiB reserved; \
                     predicted peak {:.3} GiB",
                    gib(usage.bytes_in_use.saturating_sub(weights)),
                    gib(usage.bytes_reserved.saturating_sub(weights)),
                    gib(self.peak_bytes)
                );
            }
        }
        println!("weights: {:.3} GiB", gib(weights));
        Ok(())
    }
}

/// Prints the time of a chunk, by part, and its operations, by kind.
fn report(seconds: &[(String, f64, f64)], ops: &DecodeOps) {
    let wall: f64 = seconds.iter().map(|part| part.1).sum();
    let cpu: f64 = seconds.iter().map(|part| part.2).sum();
    println!(
        "  {wall:.2} s, {cpu:.2} s of the CPU; {:.1} GFLOP, {:.1} GFLOP/s, {:.1} per second of the CPU",
        ops.total() as f64 / 1e9,
        ops.total() as f64 / wall / 1e9,
        ops.total() as f64 / cpu / 1e9
    );
    for (name, wall, cpu) in seconds {
        println!("  {name:10} {wall:7.2} s  {cpu:7.2} s of the CPU");
    }
    let share = |ops_of: u64| 100.0 * ops_of as f64 / ops.total() as f64;
    println!(
        "  operations: {:.1} % 3x3x3, {:.1} % upsampling, {:.1} % in time, {:.1} % pointwise, \
         {:.1} % attention",
        share(ops.causal),
        share(ops.upsampling),
        share(ops.in_time),
        share(ops.pointwise),
        share(ops.attention)
    );
}
