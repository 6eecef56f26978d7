//! Products of packed tokens and weights on the CPU, checked against the plain twin, then timed.
//!
//! `cargo run --release --example cpu_products [tokens out_features in_features]`

use burn::tensor::{Device, Tensor, TensorData};
use cpu_time::ProcessTime;
use qvgen::kernels::cpu::{self, Form, RowsBuffer};
use qvgen::kernels::qmatmul::reference;
use qvgen::quant::{
    Bits, Calibration, Scheme, TokenRange, TokenSpec, WeightSpec, quantize_tokens, quantize_weight,
};
use std::time::{Duration, Instant};

/// `(tokens, out_features, in_features)` of a Wan 1.3B: projections, the ends of a feed-forward
/// part, and a single token.
const SIZES: [[usize; 3]; 4] =
    [[256, 1536, 1536], [256, 8960, 1536], [256, 1536, 8960], [1, 1536, 1536]];

fn main() {
    let arguments: Vec<usize> = std::env::args().skip(1).map(|arg| arg.parse().unwrap()).collect();
    let sizes = match arguments[..] {
        [m, n, k] => vec![[m, n, k]],
        _ => SIZES.to_vec(),
    };
    println!("{:26}{:>18}{:>9}{:>10}{:>9}", "product", "form", "threads", "core-ms", "GOP/s");
    for size in sizes {
        for threads in [1, 0] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| measure(size));
        }
    }
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * 0.37).sin() + 0.1 * (i as f32 * 0.011).cos()).collect()
}

fn measure([m, n, k]: [usize; 3]) {
    let report = |what: &str, form: &str, mut product: Box<dyn FnMut() + '_>| {
        let seconds = core_seconds(&mut product).as_secs_f64();
        let rate = 2e-9 * (m * n * k) as f64 / seconds;
        let (size, threads) = (format!("{what} {m}x{n}x{k}"), rayon::current_num_threads());
        println!("{size:26}{form:>18}{threads:>9}{:>10.3}{rate:>9.1}", 1e3 * seconds);
    };
    let (x, w, bias) = (values(m * k), values(n * k), values(n));
    for bits in [Bits::B8, Bits::B4, Bits::B3] {
        let range = TokenRange::FULL;
        let x = quantize_tokens(&x, k, TokenSpec { bits, scheme: Scheme::Asymmetric, range });
        let (calibration, group_size) = (Calibration::MinMax, None);
        let scheme = Scheme::AsymmetricReal;
        let w = quantize_weight(&w, k, WeightSpec { bits, scheme, group_size, calibration });
        let expected = reference(&x, &w, &bias);
        let (x, w) = (RowsBuffer::from(x), RowsBuffer::from(w));
        for form in Form::available() {
            let product = || cpu::qmatmul(form, x.view(), w.view(), &bias);
            assert!(product() == expected, "W{bits}A{bits} by {} is wrong", form.name());
            report(&format!("W{bits}A{bits}"), form.name(), Box::new(|| drop(product())));
        }
    }
    let device = Device::flex();
    let x = Tensor::<2>::from_data(TensorData::new(x, [m, k]), &device);
    let w = Tensor::<2>::from_data(TensorData::new(w, [n, k]), &device).transpose();
    let product = || drop(x.clone().matmul(w.clone()).into_data());
    report("f32", "Burn Flex", Box::new(product));
}

/// Processor time of one call: the least of several, for other programs disturb the caches.
fn core_seconds(product: &mut dyn FnMut()) -> Duration {
    let mut best = Duration::MAX;
    let start = Instant::now();
    product();
    let calls =
        (Duration::from_millis(20).as_secs_f64() / start.elapsed().as_secs_f64()) as u32 + 1;
    for _ in 0..7 {
        let start = ProcessTime::now();
        (0..calls).for_each(|_| product());
        best = best.min(start.elapsed() / calls);
    }
    best
}
