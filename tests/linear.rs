//! One layer in all its precisions.

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use common::{assert_close, assert_matches, devices};
use qvgen::kernels::Residual;
use qvgen::nn::{
    FakeQuantLinear, FullLinear, LayerNorm, Linear, LinearInput, Modulation, PackedLinear,
    gelu_tanh,
};
use qvgen::quant::{Bits, Calibration, Scheme, TokenRange, TokenSpec, WeightSpec};

const N: usize = 50;
const K: usize = 72;

fn values(len: usize, step: f32) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * step).sin() * (1.0 + (i % 7) as f32)).collect()
}

fn tokens(m: usize, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values(m * K, 0.7), [m, K]), device)
}

fn read(y: Tensor<2>) -> Vec<f32> {
    y.into_data().try_to_vec().unwrap()
}

fn weight_spec(bits: Bits) -> WeightSpec {
    WeightSpec {
        bits,
        scheme: Scheme::AsymmetricReal,
        group_size: None,
        calibration: Calibration::Mse,
    }
}

fn token_spec(bits: Bits) -> TokenSpec {
    TokenSpec { bits, scheme: Scheme::Asymmetric, range: TokenRange::FULL }
}

fn packed(
    w_bits: Bits,
    x_bits: Option<Bits>,
    max_elements: usize,
    device: &Device,
) -> PackedLinear {
    let (w, bias) = (values(N * K, 0.3), values(N, 0.9));
    let spec = weight_spec(w_bits);
    PackedLinear::quantize(&w, Some(bias), K, spec, x_bits.map(token_spec), max_elements, device)
}

#[test]
fn packed_equals_fake_quantized_within_rounding() {
    let precisions = [
        (Bits::B4, Some(Bits::B4)),
        (Bits::B3, Some(Bits::B3)),
        (Bits::B4, None),
        (Bits::B8, Some(Bits::B8)),
        (Bits::B2, Some(Bits::B8)),
    ];
    for (name, device) in devices() {
        for (w_bits, x_bits) in precisions {
            for m in [3, 33] {
                let packed = packed(w_bits, x_bits, usize::MAX, &device);
                let fake = Linear::FakeQuant(FakeQuantLinear::from_packed(&packed));
                let expected = read(fake.forward(tokens(m, &device)));
                let actual = read(Linear::Packed(packed).forward(tokens(m, &device)));
                let what = format!("{name} W{w_bits} A{x_bits:?} of {m} tokens");
                assert_matches(&what, &actual, &expected, 1e-5);
            }
        }
    }
}

#[test]
fn eight_bits_are_close_to_full_precision_and_fewer_are_not() {
    for (name, device) in devices() {
        let (w, bias) = (values(N * K, 0.3), values(N, 0.9));
        let full = Linear::Full(FullLinear::new(&w, Some(bias), K, usize::MAX, &device));
        let expected = read(full.forward(tokens(9, &device)));
        let error = |bits| {
            let packed = Linear::Packed(packed(bits, Some(bits), usize::MAX, &device));
            common::max_error(&read(packed.forward(tokens(9, &device))), &expected)
        };
        let (eight, three) = (error(Bits::B8), error(Bits::B3));
        assert!(eight < 0.05 && three > 2.0 * eight, "{name}: {eight} and {three}");
    }
}

#[test]
fn a_split_layer_equals_the_whole() {
    for (name, device) in devices() {
        let (w, bias) = (values(N * K, 0.3), values(N, 0.9));
        let full = |max| {
            let linear = FullLinear::new(&w, Some(bias.clone()), K, max, &device);
            read(Linear::Full(linear).forward(tokens(9, &device)))
        };
        assert_close(name, &full(K * 7), &full(usize::MAX), 1e-5, 1e-4);
        let quantized = |max| {
            let linear = packed(Bits::B4, Some(Bits::B4), max, &device);
            read(Linear::Packed(linear).forward(tokens(9, &device)))
        };
        assert_eq!(quantized(K * 7), quantized(usize::MAX), "{name}");
    }
}

#[test]
fn stored_codes_give_the_layer_that_was_quantized() {
    for (name, device) in devices() {
        let quantized = packed(Bits::B3, Some(Bits::B4), usize::MAX, &device);
        let rows = quantized.parts()[0].0.to_rows();
        let bias = Some(values(N, 0.9));
        let stored = PackedLinear::new(&rows, bias, Some(token_spec(Bits::B4)), 100, &device);
        let run = |linear| read(Linear::Packed(linear).forward(tokens(9, &device)));
        assert_eq!(run(stored), run(quantized), "{name}");
    }
}

/// Columns of a residual and a gate.
fn row(len: usize, step: f32, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values(len, step), [1, len]), device)
}

fn residual(m: usize, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values(m * N, 0.2), [m, N]), device)
}

#[test]
fn tokens_split_over_dispatches_give_the_results_of_the_whole_exactly() {
    for (name, device) in devices() {
        // A rest of 5 tokens: few enough for another kernel, had it been asked alone.
        for (x_bits, m) in [(Some(Bits::B4), 133), (None, 133), (None, 5)] {
            let linear = packed(Bits::B4, x_bits, usize::MAX, &device);
            let input = LinearInput::new(tokens(m, &device));
            let run = |max_ops| read(linear.forward_within(&input, None, max_ops));
            let whole = run(u64::MAX);
            let public = Linear::Packed(linear.clone()).forward(tokens(m, &device));
            assert_eq!(read(public), whole, "{name} A{x_bits:?}");
            assert_eq!(run(1), whole, "{name} A{x_bits:?} of {m} tokens");
            let gate = Some(row(N, 0.4, &device));
            let add = |max_ops| {
                let residual = Residual { value: residual(m, &device), gate: gate.clone() };
                read(linear.forward_within(&input, Some(residual), max_ops))
            };
            assert_eq!(add(1), add(u64::MAX), "{name} A{x_bits:?} of {m} tokens, added");
        }
    }
}

/// The layer in every precision that a model may be loaded in.
fn every_precision(device: &Device) -> Vec<(&'static str, Linear)> {
    let (w, bias) = (values(N * K, 0.3), values(N, 0.9));
    let w4a4 = packed(Bits::B4, Some(Bits::B4), usize::MAX, device);
    vec![
        ("full", Linear::Full(FullLinear::new(&w, Some(bias), K, usize::MAX, device))),
        ("fake", Linear::FakeQuant(FakeQuantLinear::from_packed(&w4a4))),
        ("W4A4", Linear::Packed(w4a4)),
        ("W4A4 in parts", Linear::Packed(packed(Bits::B4, Some(Bits::B4), 17 * K, device))),
        ("W4", Linear::Packed(packed(Bits::B4, None, usize::MAX, device))),
    ]
}

#[test]
fn a_residual_and_a_gate_are_what_separate_steps_give() {
    for (name, device) in devices() {
        for (precision, linear) in every_precision(&device) {
            for m in [3, 33] {
                let (input, gate) = (LinearInput::new(tokens(m, &device)), row(N, 0.4, &device));
                let y = linear.forward(tokens(m, &device));
                let add = |gate| read(linear.forward_add(&input, residual(m, &device), gate));
                let what = format!("{precision} on {name}, {m} tokens");
                let expected = read(residual(m, &device) + y.clone());
                assert_matches(&what, &add(None), &expected, 1e-5);
                let expected = read(residual(m, &device) + y * gate.clone());
                assert_matches(&format!("{what}, gated"), &add(Some(&gate)), &expected, 1e-5);
            }
        }
    }
}

#[test]
fn steps_before_a_layer_are_what_separate_steps_give() {
    for (name, device) in devices() {
        let m = 33;
        let norm = LayerNorm::plain(1e-6);
        let modulation = Modulation { factor: row(K, 0.3, &device), offset: row(K, 0.6, &device) };
        let inputs = |x: Tensor<2>| {
            [
                ("norm", LinearInput::normed(x.clone(), &norm, None), norm.forward(x.clone())),
                (
                    "modulated",
                    LinearInput::normed(x.clone(), &norm, Some(&modulation)),
                    modulation.apply(norm.forward(x.clone())),
                ),
                ("gelu", LinearInput::gelu_tanh(x.clone()), gelu_tanh(x)),
            ]
        };
        for (precision, linear) in every_precision(&device) {
            for (step, input, separate) in inputs(tokens(m, &device)) {
                let what = format!("{step} before {precision} on {name}");
                // A code at a tie may differ: of 4 bits, one moves a result by a percent.
                let is_quantized = precision != "full" && precision != "W4";
                let tolerance = if is_quantized { 0.02 } else { 1e-5 };
                let expected = read(linear.forward(separate));
                let actual = read(linear.forward_input(&input));
                assert_matches(&what, &actual, &expected, tolerance);
                let rms = |x: &[f32]| x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
                let difference: Vec<f32> =
                    actual.iter().zip(&expected).map(|(a, e)| a - e).collect();
                assert!(rms(&difference) < 1e-6 * rms(&expected), "{what}: more than ties");
                assert_eq!(read(linear.forward_input(&input)), actual, "{what}, asked again");
            }
        }
    }
}

#[test]
fn steps_before_a_layer_have_the_gradients_of_separate_steps() {
    for (name, device) in devices() {
        let device = device.autodiff();
        let linear = Linear::Full(FullLinear::from_tensors(residual(K, &device).transpose(), None));
        let modulation = Modulation {
            factor: row(K, 0.3, &device).require_grad(),
            offset: row(K, 0.6, &device).require_grad(),
        };
        let norm = LayerNorm::plain(1e-6);
        let x = tokens(5, &device).require_grad();
        let gradients = |y: Tensor<2>| {
            let gradients = (y * residual(5, &device)).sum().backward();
            [&x, &modulation.factor, &modulation.offset]
                .map(|leaf| read(leaf.grad(&gradients).expect("a gradient")))
        };
        let input = LinearInput::normed(x.clone(), &norm, Some(&modulation));
        let fused = gradients(linear.forward_input(&input));
        let separate = gradients(linear.forward(modulation.apply(norm.forward(x.clone()))));
        assert_eq!(fused, separate, "{name}");
        assert!(fused.iter().flatten().any(|value| *value != 0.0), "{name}");
    }
}
