//! One layer in all its precisions.

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use common::{assert_close, assert_matches, devices};
use qvgen::nn::{FakeQuantLinear, FullLinear, Linear, PackedLinear};
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

#[test]
fn tokens_split_over_dispatches_give_the_results_of_the_whole_exactly() {
    for (name, device) in devices() {
        // A rest of 5 tokens: few enough for another kernel, had it been asked alone.
        for (x_bits, m) in [(Some(Bits::B4), 133), (None, 133), (None, 5)] {
            let linear = packed(Bits::B4, x_bits, usize::MAX, &device);
            let run = |max_ops| read(linear.forward_within(tokens(m, &device), max_ops));
            let whole = run(u64::MAX);
            let public = Linear::Packed(linear.clone()).forward(tokens(m, &device));
            assert_eq!(read(public), whole, "{name} A{x_bits:?}");
            assert_eq!(run(1), whole, "{name} A{x_bits:?} of {m} tokens");
        }
    }
}
