//! One packed product on the best device of this machine, checked against its plain-Rust twin.
//!
//! `cargo run --release --example run_one_kernel`

use anyhow::Context;
use burn::tensor::{Tensor, TensorData};
use qvgen::kernels::device::{self, Selection};
use qvgen::kernels::qmatmul::reference;
use qvgen::kernels::{PackedTensor, qmatmul, quantize_tokens};
use qvgen::quant::{self, Bits, Calibration, Scheme, TokenRange, TokenSpec, WeightSpec};
use std::time::Instant;

const TOKENS: usize = 256;
const OUT_FEATURES: usize = 1536;
const IN_FEATURES: usize = 1536;

fn main() -> anyhow::Result<()> {
    let open = device::open(&Selection::Auto, None)?;
    println!("{}", open.describe());
    let wave = |len: usize, step: f32| (0..len).map(|i| (i as f32 * step).sin()).collect();
    let (x, w): (Vec<f32>, Vec<f32>) =
        (wave(TOKENS * IN_FEATURES, 0.37), wave(OUT_FEATURES * IN_FEATURES, 0.73));
    for bits in [Bits::B3, Bits::B4, Bits::B8] {
        let weight_spec = WeightSpec {
            bits,
            scheme: Scheme::AsymmetricReal,
            group_size: None,
            calibration: Calibration::MinMax,
        };
        let token_spec = TokenSpec { bits, scheme: Scheme::Asymmetric, range: TokenRange::FULL };
        let packed = quant::quantize_weight(&w, IN_FEATURES, weight_spec);
        let twin = {
            let x = quant::quantize_tokens(&x, IN_FEATURES, token_spec);
            reference(&x, &packed, &vec![0.0; OUT_FEATURES])
        };
        let weight = PackedTensor::from_rows(&packed, &open.device);
        let data = TensorData::new(x.clone(), [TOKENS, IN_FEATURES]);
        let tokens = Tensor::<2>::from_data(data, &open.device);
        let bias = Tensor::<1>::zeros([OUT_FEATURES], &open.device);
        let run = || -> anyhow::Result<Vec<f32>> {
            let y = qmatmul(&quantize_tokens(tokens.clone(), token_spec), &weight, bias.clone());
            y.into_data().try_to_vec().ok().context("the device returned no floats")
        };
        let y = run()?; // compiles the shaders
        let start = Instant::now();
        run()?;
        let seconds = start.elapsed().as_secs_f64();
        let worst = y.iter().zip(&twin).map(|(y, t)| (y - t).abs()).fold(0.0, f32::max);
        let operations = 2.0 * (TOKENS * OUT_FEATURES * IN_FEATURES) as f64;
        println!(
            "W{bits}A{bits}: {:.1} ms, {:.2} GOP/s, largest difference from the twin {worst:e}",
            seconds * 1e3,
            operations / seconds / 1e9
        );
    }
    Ok(())
}
