//! A 3×3×3 convolution of the video decoder against Burn's and against a product of equal arithmetic.
//!
//! `cargo run --release --example conv_speed -- [CHANNELS] [HEIGHTxWIDTH]`
//!
//! The three take turns in one process, and what counts is the time of the CPU: on a software
//! adapter, that of the arithmetic. `QVGEN_DEVICE` takes an index or a part of a name.

use anyhow::Context;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData};
use cpu_time::ProcessTime;
use qvgen::kernels::device::{self, Selection};
use qvgen::nn::{Conv3d, ConvShape};

const ROUNDS: usize = 5;

fn values(len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i as u32).wrapping_mul(0x9E37_79B9) >> 8) as f32 / (1 << 24) as f32)
        .collect()
}

fn tensor<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values(shape.iter().product()), shape), device)
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let channels: usize = arguments.next().unwrap_or_else(|| "96".to_owned()).parse()?;
    let size = arguments.next().unwrap_or_else(|| "60x104".to_owned());
    let (height, width) = size.split_once('x').context("a size such as 60x104")?;
    let (height, width): (usize, usize) = (height.parse()?, width.parse()?);
    let selection = std::env::var("QVGEN_DEVICE").map_or(Selection::Auto, Selection::Named);
    let open = device::open(&selection, None)?;
    println!("{}", open.describe());
    let device = &open.device;

    // One frame after two remembered ones.
    let filters = values(channels * channels * 27);
    let shape = ConvShape::same(channels, channels, [3, 3, 3]);
    let layer = Conv3d::new(shape, &filters, vec![0.0; channels], device);
    let (x, history) = (
        tensor([channels, 1, height, width], device),
        tensor([channels, 2, height, width], device),
    );
    let frames: Tensor<5> = tensor([1, channels, 3, height, width], device);
    let weight: Tensor<5> = tensor([channels, channels, 3, 3, 3], device);
    let windows: Tensor<2> = tensor([height * width, 27 * channels], device);
    let matrix: Tensor<2> = tensor([27 * channels, channels], device);
    let ours =
        || layer.forward(x.clone(), Some(history.clone())).reshape([channels, height * width]);
    let burns = || {
        let options = ConvOptions::new([1, 1, 1], [0, 1, 1], [1, 1, 1], 1);
        let y = burn::tensor::module::conv3d(frames.clone(), weight.clone(), None, options);
        y.reshape([channels, height * width])
    };
    let product = || windows.clone().matmul(matrix.clone());
    let contenders: [(&str, &dyn Fn() -> Tensor<2>); 3] =
        [("ours", &ours), ("Burn's conv3d", &burns), ("Burn's matmul", &product)];

    let ops = 2.0 * 27.0 * (channels * channels * height * width) as f64;
    let mut seconds = [f64::INFINITY; 3];
    for round in 0..=ROUNDS {
        for ((_, run), best) in contenders.iter().zip(&mut seconds) {
            let start = ProcessTime::now();
            let y = run();
            device.sync()?;
            drop(y);
            if round > 0 {
                *best = best.min(start.elapsed().as_secs_f64());
            }
        }
    }
    println!("{channels} channels, {height}x{width}, best of {ROUNDS}:");
    for ((name, _), seconds) in contenders.iter().zip(seconds) {
        println!("  {name:14} {:6.1} GFLOP per second of the CPU", ops / seconds / 1e9);
    }
    Ok(())
}
