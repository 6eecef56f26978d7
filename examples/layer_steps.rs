//! What transforms and branches of a quantized layer cost: processor time of each step, alone and
//! fused, on the CPU device and on the default adapter.
//!
//! `cargo run --release --example layer_steps [tokens out_features in_features rank]`

use burn::tensor::{Device, Tensor, TensorData};
use cpu_time::ProcessTime;
use qvgen::kernels::device::{Selection, open};
use qvgen::kernels::{
    Activation, Branch, Epilogue, LogTable, PackedTensor, TokenTransform, hadamard, layer_norm,
    layer_norm_quantize, log_quantize, qmatmul, quantize_tokens, quantize_weight,
    transform_quantize,
};
use qvgen::quant::{Bits, Calibration, LogSpec, Scheme, TokenRange, TokenSpec, WeightSpec};
use std::time::Duration;

fn main() {
    let arguments: Vec<usize> = std::env::args().skip(1).map(|arg| arg.parse().unwrap()).collect();
    let [m, n, k, rank] = arguments[..] else {
        return measure_all([256, 1536, 1536, 32]);
    };
    measure_all([m, n, k, rank]);
}

fn measure_all(size: [usize; 4]) {
    let adapter = open(&Selection::Auto, None).unwrap();
    for (name, device) in [("cpu".to_owned(), Device::flex()), (adapter.describe(), adapter.device)]
    {
        println!("{name}, {size:?} tokens, out_features, in_features, rank");
        measure(size, &device);
    }
}

fn matrix(rows: usize, columns: usize, step: f32, device: &Device) -> Tensor<2> {
    let values: Vec<f32> = (0..rows * columns).map(|i| (i as f32 * step).sin()).collect();
    Tensor::from_data(TensorData::new(values, [rows, columns]), device)
}

fn measure([m, n, k, rank]: [usize; 4], device: &Device) {
    let report = |what: &str, step: &mut dyn FnMut()| {
        println!("{:>10.2} core-ms  {what}", 1e3 * core_seconds(step, device).as_secs_f64());
    };
    let spec = TokenSpec { bits: Bits::B4, scheme: Scheme::Asymmetric, range: TokenRange::FULL };
    let x = matrix(m, k, 0.37, device);
    let row = matrix(1, k, 0.1, device).flatten::<1>(0, 1);
    let none = TokenTransform::default();
    let blocks = TokenTransform { affine: None, hadamard: Some(128) };
    let all = TokenTransform { affine: Some([row.clone(), row.clone()]), ..blocks.clone() };
    let quantize = |transform: &TokenTransform| {
        drop(transform_quantize(x.clone(), Activation::Identity, transform, spec));
    };
    report("quantize", &mut || quantize(&none));
    report("Hadamard 128 and quantize, one dispatch", &mut || quantize(&blocks));
    report("shift, scale, Hadamard 128 and quantize, one dispatch", &mut || quantize(&all));
    report("Hadamard 128, then quantize", &mut || {
        drop(quantize_tokens(hadamard(x.clone(), &blocks), spec));
    });
    report("norm, then quantize", &mut || {
        let normed = layer_norm(x.clone(), row.clone(), row.clone(), 1e-6);
        drop(quantize_tokens(normed, spec));
    });
    for (what, block) in [("norm and quantize", None), ("norm, Hadamard 128, quantize", Some(128))]
    {
        report(what, &mut || {
            drop(layer_norm_quantize(x.clone(), row.clone(), row.clone(), 1e-6, block, spec));
        });
    }
    let scheme = Scheme::AsymmetricReal;
    let calibration = Calibration::MinMax;
    let weight = WeightSpec { bits: Bits::B4, scheme, group_size: None, calibration };
    let w = quantize_weight(matrix(n, k, 0.11, device), weight);
    let codes = quantize_tokens(x.clone(), spec);
    let factors = [matrix(k, rank, 0.2, device), matrix(n, rank, 0.3, device)];
    products(&x, &codes, &w, &factors, &report);
    let log = LogSpec { bits: Bits::B8, steps_per_octave: 12, absmax: 1.0 };
    let (table, one) = (LogTable::new(log, device), matrix(1, k, 0.7, device));
    report("logarithms of one row", &mut || drop(log_quantize(one.clone(), &table)));
}

fn products(
    x: &Tensor<2>,
    codes: &PackedTensor,
    w: &PackedTensor,
    [down, up]: &[Tensor<2>; 2],
    report: &dyn Fn(&str, &mut dyn FnMut()),
) {
    let bias = Tensor::<1>::zeros([w.rows()], &x.device());
    report("product W4A4", &mut || drop(qmatmul(codes, w, bias.clone())));
    report("product and branch, the second factor in its epilogue", &mut || {
        let small = x.clone().matmul(down.clone());
        let branch = Some(Branch { small, up: up.clone() });
        drop(qmatmul(codes, w, Epilogue { bias: bias.clone(), branch, residual: None }));
    });
    report("product, then branch, then their sum", &mut || {
        let branch = x.clone().matmul(down.clone()).matmul(up.clone().transpose());
        drop(qmatmul(codes, w, bias.clone()) + branch);
    });
}

/// Processor time of one call: the least of several, for other programs disturb the caches.
fn core_seconds(step: &mut dyn FnMut(), device: &Device) -> Duration {
    const CALLS: u32 = 8;
    step();
    device.sync().unwrap();
    let time = |_| {
        let start = ProcessTime::now();
        (0..CALLS).for_each(|_| step());
        device.sync().unwrap();
        start.elapsed() / CALLS
    };
    (0..7).map(time).min().unwrap_or_default()
}
