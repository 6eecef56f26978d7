//! Every form of the packed product against its twin, then it and the products of float tokens
//! against Burn's own f32 `matmul`.
//!
//! `cargo run --release --example qmatmul_forms -- [--adapter NAME] [--runs 5] [TOKENSxOUTxIN …]`
//!
//! `QVGEN_TUNING=all` also measures which form a software adapter should choose.
//!
//! Times are those of one process, interleaved: CPU time on a software adapter, which other
//! programs do not change, else the wall clock. The ratio is Burn's median over the form's.

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use cpu_time::ProcessTime;
use qvgen::kernels::device::{self, Selection};
use qvgen::kernels::qmatmul::{Params, reference_accumulators};
use qvgen::kernels::qmatmul_form::{Form, Product};
use qvgen::kernels::{AdapterFacts, client_of, matmul, qmatmul_float, quantize_tokens};
use qvgen::kernels::{PackedTensor, qmatmul, qmatmul::qmatmul_in_form};
use qvgen::quant::{self, Bits, Calibration, Scheme, TokenRange, TokenSpec, WeightSpec};
use std::time::Instant;

/// Projection, and both layers of the feed-forward part of Wan 1.3B, for 256 tokens.
const SHAPES: [[usize; 3]; 3] = [[256, 1536, 1536], [256, 8960, 1536], [256, 1536, 8960]];

struct Arguments {
    adapter: Selection,
    runs: usize,
    shapes: Vec<[usize; 3]>,
}

fn arguments() -> Result<Arguments> {
    let mut parsed = Arguments { adapter: Selection::Auto, runs: 5, shapes: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--adapter" => {
                parsed.adapter = Selection::Named(words.next().context("--adapter NAME")?);
            }
            "--runs" => parsed.runs = words.next().context("--runs COUNT")?.parse()?,
            shape => {
                let sizes: Vec<usize> =
                    shape.split('x').map(str::parse).collect::<Result<_, _>>()?;
                let sizes = sizes.try_into().ok().context("a shape is TOKENSxOUTxIN")?;
                parsed.shapes.push(sizes);
            }
        }
    }
    if parsed.shapes.is_empty() {
        parsed.shapes = SHAPES.to_vec();
    }
    Ok(parsed)
}

fn wave(len: usize, step: f32) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * step).sin()).collect()
}

fn matrix(values: &[f32], columns: usize, device: &Device) -> Tensor<2> {
    let shape = [values.len() / columns, columns];
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

fn token_spec(bits: Bits) -> TokenSpec {
    TokenSpec { bits, scheme: Scheme::Asymmetric, range: TokenRange::FULL }
}

/// Milliseconds of `run`, which waits for what it computes.
fn milliseconds(is_software: bool, run: &dyn Fn() -> Result<()>) -> Result<f64> {
    let (wall, cpu) = (Instant::now(), ProcessTime::now());
    run()?;
    let time = if is_software { cpu.elapsed() } else { wall.elapsed() };
    Ok(time.as_secs_f64() * 1e3)
}

/// Waits until everything on `device` is computed.
fn finish(device: &Device) -> Result<()> {
    device.sync().map_err(|err| anyhow::anyhow!("the device failed: {err:?}"))
}

/// Asserts that `form` gives the twin's integers for some of the shape.
fn verify(form: Form, bits: Bits, device: &Device) -> Result<()> {
    let (m, n, k) = (70, 270, 200);
    let x = quant::quantize_tokens(&wave(m * k, 0.37), k, token_spec(bits));
    let w = quant::quantize_weight(&wave(n * k, 0.73), k, weight_spec(bits));
    let grids = |rows: &quant::PackedRows| -> Vec<u32> {
        let grids = rows.grids.iter().zip(&rows.code_sums);
        grids
            .flat_map(|(g, sum)| [g.scale.to_bits(), g.zero_point.to_bits(), *sum as u32])
            .collect()
    };
    let product = Product { raw: true, ..Product::plain(bits, bits) };
    let params = Params { m: m as u32, n: n as u32, k: k as u32, group_size: k as u32 };
    let (x_grid, w_grid, bias) = (grids(&x), grids(&w), vec![0; n]);
    let inputs = [&x.codes[..], &x_grid, &w.codes, &w_grid, &bias];
    let actual = form.run_raw(&client_of(device), product, &inputs, params);
    let expected = reference_accumulators(&x, &w);
    ensure!(
        actual.iter().zip(&expected).all(|(a, e)| *a as i32 == *e),
        "{form} differs from its twin at {bits} bits"
    );
    Ok(())
}

fn weight_spec(bits: Bits) -> WeightSpec {
    let scheme = Scheme::AsymmetricReal;
    WeightSpec { bits, scheme, group_size: None, calibration: Calibration::MinMax }
}

type Entry<'a> = (String, Box<dyn Fn() -> Result<()> + 'a>);

fn measure(shape: [usize; 3], runs: usize, is_software: bool, device: &Device) -> Result<()> {
    let [m, n, k] = shape;
    let facts = AdapterFacts::of(device);
    let (x, w) = (matrix(&wave(m * k, 0.37), k, device), wave(n * k, 0.73));
    let full = matrix(&w, k, device);
    let bias = Tensor::<1>::zeros([n], device);
    let mut entries: Vec<Entry<'_>> = Vec::new();
    {
        let (x, full) = (x.clone(), full.clone());
        entries.push((
            "Burn f32".to_owned(),
            Box::new(move || {
                drop(x.clone().matmul(full.clone().transpose()));
                finish(device)
            }),
        ));
    }
    {
        let (x, full, bias) = (x.clone(), full.clone(), bias.clone());
        entries.push((
            "f32".to_owned(),
            Box::new(move || {
                drop(matmul(x.clone(), full.clone(), bias.clone()));
                finish(device)
            }),
        ));
    }
    for bits in [Bits::B3, Bits::B4, Bits::B8] {
        let weight =
            PackedTensor::from_rows(&quant::quantize_weight(&w, k, weight_spec(bits)), device);
        let tokens = quantize_tokens(x.clone(), token_spec(bits));
        for form in Form::candidates(&facts, Product::plain(bits, bits)) {
            verify(form, bits, device)?;
            let (tokens, weight, bias) = (tokens.clone(), weight.clone(), bias.clone());
            entries.push((
                format!("W{bits}A{bits} {form}"),
                Box::new(move || {
                    drop(qmatmul_in_form(form, &tokens, &weight, bias.clone()));
                    finish(device)
                }),
            ));
        }
        {
            let (x, weight, bias) = (x.clone(), weight.clone(), bias.clone());
            entries.push((
                format!("W{bits}A16"),
                Box::new(move || {
                    drop(qmatmul_float(x.clone(), &weight, bias.clone()));
                    finish(device)
                }),
            ));
        }
        let bias = bias.clone();
        entries.push((
            format!("W{bits}A{bits} as chosen"),
            Box::new(move || {
                drop(qmatmul(&tokens, &weight, bias.clone()));
                finish(device)
            }),
        ));
        let x = x.clone();
        entries.push((
            format!("quantize_tokens to {bits} bits"),
            Box::new(move || {
                drop(quantize_tokens(x.clone(), token_spec(bits)));
                finish(device)
            }),
        ));
    }
    let mut times = vec![Vec::new(); entries.len()];
    for run in 0..=runs {
        for ((_, entry), times) in entries.iter().zip(&mut times) {
            let time = milliseconds(is_software, entry)?;
            if run > 0 {
                times.push(time); // the first compiles
            }
        }
    }
    let medians: Vec<f64> = times
        .iter_mut()
        .map(|times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        })
        .collect();
    println!("{m} tokens, {n} × {k}:");
    for ((name, _), median) in entries.iter().zip(&medians) {
        println!("  {name:36} {median:9.2} ms   {:6.2} of Burn's speed", medians[0] / median);
    }
    Ok(())
}

fn main() -> Result<()> {
    let Arguments { adapter, runs, shapes } = arguments()?;
    let open = device::open(&adapter, None)?;
    let adapter = open.adapter.as_ref().context("the CPU device runs no shaders")?;
    let clock = if adapter.is_software() { "CPU time" } else { "wall clock" };
    println!("{}, {clock}", adapter.describe());
    shapes
        .into_iter()
        .try_for_each(|shape| measure(shape, runs, adapter.is_software(), &open.device))
}
