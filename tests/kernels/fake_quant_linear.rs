use crate::common::{Reference, assert_close, assert_matches, devices, fixture};
use crate::fake_quantize_tokens::tokens;
use crate::fake_quantize_weight::{read, vector};
use crate::{matrix, values};
use burn::tensor::{Device, Tensor};
use qvgen::kernels::{FakeQuantTokens, fake_quant_linear, fake_quantize_tokens};
use qvgen::kernels::{fake_quantize_tokens_backward, fake_quantize_weight};
use qvgen::quant::{Bits, Scheme};

const M: usize = 7;
const N: usize = 9;
const K: usize = 40;
const CLIPS: [f32; 2] = [2.0, 1.5];

const SPEC: FakeQuantTokens =
    FakeQuantTokens { bits: Bits::B4, scheme: Scheme::Asymmetric, clip_ratio: 0.97 };

fn inputs(device: &Device) -> (Tensor<2>, Tensor<2>, Tensor<1>) {
    let x = tokens(M, K, SPEC.bits, SPEC.scheme);
    (matrix(&x, K, device), matrix(&values(N * K, 61), K, device), vector(&CLIPS, device))
}

/// `Σ G ⊙ y`, whose gradient in `y` is `G`.
fn loss(y: Tensor<2>) -> Tensor<1> {
    let grad = matrix(&values(M * N, 62), N, &y.device());
    (y * grad).sum()
}

#[test]
fn fake_quant_linear_is_the_product_with_fake_quantized_tokens() {
    for (name, device) in devices() {
        let (x, weight, clips) = inputs(&device);
        let y = read(fake_quant_linear(x.clone(), weight.clone(), clips.clone(), SPEC));
        let expected = read(fake_quantize_tokens(x, clips, SPEC).matmul(weight.transpose()));
        assert_close(name, &y, &expected, 1e-6, 1e-6);
        let (x, weight, clips) = inputs(&device.clone().autodiff());
        let tracked = fake_quant_linear(x, weight.require_grad(), clips, SPEC);
        assert_close(name, &read(tracked), &y, 0.0, 0.0);
    }
}

#[test]
fn fake_quant_linear_has_the_gradients_of_its_parts() {
    for (name, device) in devices() {
        let (x, weight, clips) = inputs(&device);
        let d_y = matrix(&values(M * N, 62), N, &device);
        let quantized = fake_quantize_tokens(x.clone(), clips.clone(), SPEC);
        let d_weight = read(d_y.clone().transpose().matmul(quantized));
        let expected = fake_quantize_tokens_backward(x, clips, d_y.matmul(weight), SPEC);
        let (d_x, d_clips) = (read(expected.x), read(expected.clips));

        let autodiff = device.clone().autodiff();
        for device in [autodiff.clone(), autodiff.gradient_checkpointing()] {
            let (x, weight, clips) = inputs(&device);
            let [x, weight] = [x, weight].map(Tensor::require_grad);
            let clips = clips.require_grad();
            let y = fake_quant_linear(x.clone(), weight.clone(), clips.clone(), SPEC);
            let grads = loss(y).backward();
            assert_matches(name, &read(weight.grad(&grads).unwrap()), &d_weight, 1e-5);
            assert_matches(name, &read(x.grad(&grads).unwrap()), &d_x, 1e-5);
            assert_matches(name, &read(clips.grad(&grads).unwrap()), &d_clips, 1e-4);
        }
    }
}

#[test]
fn fake_quant_linear_adds_the_gradients_of_layers_that_share_their_input() {
    for (name, device) in devices() {
        let device = device.autodiff();
        let gradient = |weights: &[u32]| {
            let (x, _, clips) = inputs(&device);
            let x = x.require_grad();
            let layers = weights.iter().map(|&seed| {
                let weight = matrix(&values(N * K, seed), K, &device);
                loss(fake_quant_linear(x.clone(), weight, clips.clone(), SPEC))
            });
            let total = layers.reduce(|sum, loss| sum + loss).unwrap();
            read(x.grad(&total.backward()).unwrap())
        };
        let apart = [gradient(&[71]), gradient(&[72]), gradient(&[73])];
        let sum: Vec<f32> = (0..M * K).map(|i| apart.iter().map(|d| d[i]).sum()).collect();
        assert_matches(name, &gradient(&[71, 72, 73]), &sum, 1e-5);
    }
}

#[test]
fn fake_quant_linear_serves_any_one_tracked_input() {
    for (name, device) in devices() {
        let device = device.autodiff();
        let (x, weight, clips) = inputs(&device);
        let x = x.require_grad();
        let grads = loss(fake_quant_linear(x.clone(), weight, clips, SPEC)).backward();
        assert_eq!(x.grad(&grads).expect(name).dims(), [M, K]);

        let (x, weight, clips) = inputs(&device);
        let weight = weight.require_grad();
        let grads = loss(fake_quant_linear(x.clone(), weight.clone(), clips, SPEC)).backward();
        assert_eq!(weight.grad(&grads).expect(name).dims(), [N, K]);
        assert!(x.grad(&grads).is_none(), "{name}");

        let (x, weight, clips) = inputs(&device);
        let clips = clips.require_grad();
        let grads = loss(fake_quant_linear(x, weight, clips.clone(), SPEC)).backward();
        assert_eq!(clips.grad(&grads).expect(name).dims(), [2]);
    }
}

/// The fixture's weight is quantized to 4 bits about zero, its tokens to 8 bits with their whole
/// range, and the range has no gradient there.
#[test]
fn fake_quant_linear_reproduces_the_reference_layer_on_all_devices() {
    let reference = Reference::open(&fixture("quant"));
    let get = |what: &str| reference.f32(&format!("ste.linear.{what}"));
    let [out_features, in_features] = reference.shape("ste.linear.w")[..] else { panic!("w") };
    let spec = FakeQuantTokens::new(Bits::B8);
    for (name, device) in devices() {
        let weight = fake_quantize_weight(
            matrix(&get("w"), in_features, &device),
            vector(&get("sw"), &device),
            vector(&vec![8.0; out_features], &device),
            Bits::B4,
            Scheme::Symmetric,
        );
        let device = device.autodiff();
        let x = matrix(&get("x"), in_features, &device).require_grad();
        let weight = Tensor::from_inner(weight).require_grad();
        // Clips of 1 to the last bit.
        let clips = vector(&[40.0; 2], &device);
        let y = fake_quant_linear(x.clone(), weight.clone(), clips, spec);
        assert_matches(name, &read(y.clone()), &get("y"), 1e-5);

        let grads = (y * matrix(&get("grad_y"), out_features, &device)).sum().backward();
        // The fixture's gradient is of the weight before its fake quantization, zero where cut.
        let (d_weight, expected) = (read(weight.grad(&grads).unwrap()), get("grad_w"));
        let kept = (0..expected.len()).filter(|&i| expected[i] != 0.0);
        let (d, e): (Vec<f32>, Vec<f32>) = kept.map(|i| (d_weight[i], expected[i])).unzip();
        assert!(d.len() * 2 > d_weight.len(), "{} kept", d.len());
        assert_matches(name, &d, &e, 1e-5);

        let (d_x, expected, values) = (read(x.grad(&grads).unwrap()), get("grad_x"), get("x"));
        for (row, token) in values.chunks(in_features).enumerate() {
            let (min, max) = qvgen::quant::range(token);
            let inner = (0..in_features).filter(|&i| token[i] != min && token[i] != max);
            let (d, e): (Vec<f32>, Vec<f32>) =
                inner.map(|i| row * in_features + i).map(|i| (d_x[i], expected[i])).unzip();
            assert_close(&format!("{name} token {row}"), &d, &e, 1e-5, 1e-5);
        }
    }
}

#[test]
fn fake_quant_linear_shows_values_that_are_not_finite() {
    for (name, device) in devices() {
        let (x, weight, clips) = inputs(&device);
        let mut values = read(x);
        values[K + 3] = f32::NAN;
        let y = read(fake_quant_linear(matrix(&values, K, &device), weight, clips, SPEC));
        assert!(y[N..2 * N].iter().all(|value| value.is_nan()), "{name}: {y:?}");
        assert!(y[..N].iter().chain(&y[2 * N..]).all(|value| value.is_finite()), "{name}: {y:?}");
    }
}

#[test]
#[should_panic(expected = "in_features of weight and x")]
fn fake_quant_linear_rejects_a_weight_of_another_width() {
    let device = Device::flex();
    let (x, _, clips) = inputs(&device);
    fake_quant_linear(x, matrix(&values(6, 1), 3, &device), clips, SPEC);
}
