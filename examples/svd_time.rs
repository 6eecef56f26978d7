//! Rank-32 factors of matrices with known singular values: seconds, and the error against the
//! smallest possible.
//!
//! `cargo run --release --example svd_time -- [cpu|DEVICE] [OUTxIN]`
//!
//! The defaults are the best device and 1536x8960, the largest layer of Wan 2.1 1.3B.

use anyhow::Context;
use burn::tensor::{Device, Tensor, TensorData};
use qvgen::kernels::device::{self, Selection};
use qvgen::method::{rebalance, truncated_svd};
use std::time::Instant;

const RANK: usize = 32;

/// `w − 2 u (uᵀ w)` with a unit vector `u` as long as the columns: singular values stay.
fn reflect(w: Tensor<2>, seed: usize) -> Tensor<2> {
    let [rows, _] = w.dims();
    let u: Vec<f32> = (0..rows).map(|i| ((i * (2 * seed + 1)) as f32 * 0.7).sin()).collect();
    let u = Tensor::<2>::from_data(TensorData::new(u, [rows, 1]), &w.device());
    let squared = u.clone().square().sum_dim(0);
    let projected = u.clone().transpose().matmul(w.clone()) / squared;
    w - u.matmul(projected) * 2.0
}

/// A dense matrix with these singular values.
fn with_singular_values(s: &[f32], [rows, columns]: [usize; 2], device: &Device) -> Tensor<2> {
    let mut w = vec![0.0; rows * columns];
    s.iter().enumerate().for_each(|(i, s)| w[i * columns + i] = *s);
    let mut w = Tensor::<2>::from_data(TensorData::new(w, [rows, columns]), device);
    for seed in 0..3 {
        w = reflect(reflect(w, seed).transpose(), seed + 5).transpose();
    }
    w
}

fn norm(tensor: Tensor<2>) -> anyhow::Result<f64> {
    let squares = tensor.square().sum_dim(1).into_data().try_to_vec::<f32>();
    let squares = squares.ok().context("the device returned no floats")?;
    Ok(squares.into_iter().map(f64::from).sum::<f64>().sqrt())
}

fn seconds<T>(device: &Device, mut run: impl FnMut() -> T) -> anyhow::Result<(f64, T)> {
    run(); // compiles shaders
    device.sync()?;
    let start = Instant::now();
    let result = run();
    device.sync()?;
    Ok((start.elapsed().as_secs_f64(), result))
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let device = match arguments.first().map(String::as_str) {
        Some("cpu") => {
            println!("CPU");
            Device::flex()
        }
        name => {
            let selection = name.map_or(Selection::Auto, |name| Selection::Named(name.to_owned()));
            let open = device::open(&selection, None)?;
            println!("{}", open.describe());
            open.device
        }
    };
    let size = arguments.get(1).map_or("1536x8960", String::as_str);
    let (rows, columns) = size.split_once('x').context("a size such as 1536x8960")?;
    let shape: [usize; 2] = [rows.parse()?, columns.parse()?];
    let count = shape[0].min(shape[1]);
    let flat: Vec<f32> = (0..count).map(|i| 1.0 - 0.9 * i as f32 / count as f32).collect();
    let decaying: Vec<f32> = (1..=count).map(|i| 1.0 / (i as f32).sqrt()).collect();
    println!("{size}, rank {RANK}");
    for (name, s) in [("flat", flat), ("decaying", decaying)] {
        let w = with_singular_values(&s, shape, &device);
        let (elapsed, (low_rank, _)) = seconds(&device, || truncated_svd(w.clone(), RANK, 0))?;
        let error = norm(w - low_rank.product())?;
        let optimum = s.iter().skip(RANK).map(|&s| f64::from(s * s)).sum::<f64>().sqrt();
        let excess = 100.0 * (error / optimum - 1.0);
        println!("{name}: truncated_svd {elapsed:.4} s, error {excess:+.3} % of the optimum");
        let (elapsed, _) = seconds(&device, || rebalance(low_rank.l.clone(), low_rank.r.clone()))?;
        println!("{name}: rebalance {elapsed:.4} s");
    }
    Ok(())
}
