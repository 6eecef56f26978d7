//! Gradients through the convolution and its layer, on all devices.

use crate::common::{assert_close, assert_matches, devices};
use crate::conv3d::{Case, all_params, same};
use crate::{conv3d_backward_input, conv3d_backward_weight, values};
use burn::tensor::{Device, Tensor, TensorData};
use qvgen::kernels::conv3d::{Conv3d, Params, conv3d, pack_weight, reference};
use qvgen::kernels::conv3d_backward_input::{Conv3dBackwardInput, reference as input_reference};
use qvgen::kernels::conv3d_backward_weight::{Conv3dBackwardWeight, reference as weight_reference};
use qvgen::nn::{Conv3d as Layer, ConvShape};

fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

fn read<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("f32 values")
}

/// The inputs of a call, tracked.
struct Inputs {
    x: Tensor<4>,
    history: Tensor<4>,
    w: Tensor<1>,
    bias: Tensor<1>,
}

impl Inputs {
    fn new(kernel: Conv3d, case: &Case, device: &Device) -> Self {
        let p = case.params;
        let shape = |frames: u32| [p.in_channels, frames, p.in_height, p.in_width];
        let history_shape = if p.history_frames > 0 { shape(p.history_frames) } else { [1; 4] };
        let [x_shape, history_shape] =
            [shape(p.in_frames), history_shape].map(|shape| shape.map(|size| size as usize));
        let w = pack_weight(kernel, &case.weight, p.in_channels as usize);
        let history = &case.history[..history_shape.iter().product()];
        Self {
            x: tensor(&case.x, x_shape, device).require_grad(),
            history: tensor(history, history_shape, device).require_grad(),
            w: tensor(&w, [w.len()], device).require_grad(),
            bias: tensor(&case.bias, [case.bias.len()], device).require_grad(),
        }
    }

    fn forward(&self, kernel: Conv3d, params: Params) -> Tensor<4> {
        let [x, history] = [&self.x, &self.history].map(Tensor::clone);
        conv3d(kernel, x, history, self.w.clone(), self.bias.clone(), None, params)
    }
}

/// The result and the gradients of x, history, packed weight and bias for the gradient `dy`.
fn run(kernel: Conv3d, case: &Case, dy: &[f32], device: &Device) -> [Vec<f32>; 5] {
    let device = device.clone().autodiff();
    let inputs = Inputs::new(kernel, case, &device);
    let y = inputs.forward(kernel, case.params);
    let dy = tensor(dy, y.dims(), &device);
    let gradients = (y.clone() * dy).sum().backward();
    [
        read(y),
        read(inputs.x.grad(&gradients).expect("x is tracked")),
        read(inputs.history.grad(&gradients).expect("the history is tracked")),
        read(inputs.w.grad(&gradients).expect("the weight is tracked")),
        read(inputs.bias.grad(&gradients).expect("the bias is tracked")),
    ]
}

#[test]
fn gradients_are_those_of_the_definition_on_all_devices() {
    for (name, device) in devices() {
        for kernel in Conv3d::all() {
            for params in all_params(kernel.window) {
                let case = Case::new(kernel, params);
                let dy = values(case.out_len(), 5);
                let [_, dx, d_history, dw, d_bias] = run(kernel, &case, &dy, &device);
                let [defined_x, mut defined_history] =
                    conv3d_backward_input::definition(kernel, &case, &dy);
                if params.history_frames == 0 {
                    defined_history = vec![0.0]; // bound, but not read
                }
                let [defined_w, defined_bias] =
                    conv3d_backward_weight::definition(kernel, &case, &dy);
                let defined_w = pack_weight(kernel, &defined_w, params.in_channels as usize);
                let what = |of: &str| format!("{of} on {name}: {kernel:?} {params:?}");
                assert_close(&what("x"), &dx, &defined_x, 1e-4, 1e-4);
                assert_close(&what("history"), &d_history, &defined_history, 1e-4, 1e-4);
                assert_close(&what("weight"), &dw, &defined_w, 1e-4, 1e-4);
                assert_close(&what("bias"), &d_bias, &defined_bias, 1e-4, 1e-4);
            }
        }
    }
}

#[test]
fn many_blocks_in_parallel_match_the_twins() {
    let kernel = Conv3d::new([3, 3, 3], 16);
    let params = same(kernel.window, [16, 4, 27, 29], 16, 1);
    let case = Case::new(kernel, params);
    let dy = values(case.out_len(), 5);
    let packed = pack_weight(kernel, &case.weight, 16);
    let twin = reference(kernel, &case.x, &case.history, &packed, &case.bias, params);
    let twin_x = input_reference(Conv3dBackwardInput { conv: kernel }, &dy, &packed, params);
    let backward = Conv3dBackwardWeight { conv: kernel };
    let (twin_w, twin_bias) = weight_reference(backward, &case.x, &case.history, &dy, params);
    // Past and present frames of each channel.
    let frame = 27 * 29;
    let frames = |range: std::ops::Range<usize>| -> Vec<f32> {
        let channels = twin_x.chunks(5 * frame);
        channels.flat_map(|c| &c[range.start * frame..range.end * frame]).copied().collect()
    };
    for (name, device) in devices() {
        let actual = run(kernel, &case, &dy, &device);
        let expected = [&twin, &frames(1..5), &frames(0..1), &twin_w, &twin_bias];
        for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
            assert_matches(&format!("{i} on {name}"), actual, expected, 1e-4);
        }
        let again = run(kernel, &case, &dy, &device);
        assert!(actual == again, "{name}: the same inputs gave other gradients");
    }
}

#[test]
fn a_layer_of_tensors_is_the_layer_of_their_values() {
    let upsampled = ConvShape { upsample: true, ..ConvShape::same(3, 18, [1, 3, 3]) };
    for shape in [ConvShape::same(5, 3, [3, 3, 3]), ConvShape::same(2, 16, [3, 1, 1]), upsampled] {
        let (weight, bias) =
            (values(shape.weight_shape().iter().product(), 3), values(shape.out_channels, 4));
        for (name, device) in devices() {
            let flat = tensor(&weight, [weight.len()], &device);
            let of_tensor = Layer::from_tensor(shape, flat, tensor(&bias, [bias.len()], &device));
            let of_values = Layer::new(shape, &weight, bias.clone(), &device);
            let x_shape = [shape.in_channels, 2, 5, 4];
            let x = tensor(&values(x_shape.iter().product(), 1), x_shape, &device);
            let y = read(of_tensor.forward(x.clone(), None));
            assert_eq!(y, read(of_values.forward(x, None)), "{name} {shape:?}");
        }
    }
}

const CHAIN: [ConvShape; 2] = [
    ConvShape {
        in_channels: 2,
        out_channels: 5,
        window: [3, 3, 3],
        stride: [1, 1, 1],
        pad_before: [2, 1, 1],
        pad_after: [1, 1],
        upsample: false,
    },
    ConvShape {
        in_channels: 5,
        out_channels: 3,
        window: [3, 3, 3],
        stride: [1, 2, 2],
        pad_before: [2, 0, 0],
        pad_after: [1, 1],
        upsample: false,
    },
];

/// Four frames through both layers of [`CHAIN`] in chunks of `chunk_frames`; the second chunk finds
/// in its history what the first left.
fn chain(x: Tensor<4>, parameters: &[Tensor<1>; 4], chunk_frames: &[usize]) -> Tensor<4> {
    let [w0, b0, w1, b1] = parameters.each_ref().map(|parameter| parameter.clone());
    let layers = [Layer::from_tensor(CHAIN[0], w0, b0), Layer::from_tensor(CHAIN[1], w1, b1)];
    let mut histories: [Option<Tensor<4>>; 2] = [None, None];
    let (mut start, mut chunks) = (0, Vec::new());
    for &frames in chunk_frames {
        let mut chunk = x.clone().narrow(1, start, frames);
        for (layer, history) in layers.iter().zip(&mut histories) {
            let y = layer.forward(chunk.clone(), history.clone());
            *history = Some(match history.take() {
                Some(before) => Tensor::cat(vec![before, chunk], 1),
                None => chunk,
            });
            chunk = y;
        }
        chunks.push(chunk);
        start += frames;
    }
    Tensor::cat(chunks, 1)
}

fn chain_parameters(device: &Device) -> [Tensor<1>; 4] {
    let tracked = |len: usize, seed: u32| tensor(&values(len, seed), [len], device).require_grad();
    let [weight0, weight1] = CHAIN.map(|shape| shape.weight_shape().iter().product());
    let [bias0, bias1] = CHAIN.map(|shape| shape.out_channels);
    [tracked(weight0, 11), tracked(bias0, 12), tracked(weight1, 13), tracked(bias1, 14)]
}

#[test]
fn gradients_flow_back_through_the_histories_of_chained_layers() {
    for (name, device) in devices() {
        let device = device.autodiff();
        let x = tensor(&values(2 * 4 * 6 * 8, 1), [2, 4, 6, 8], &device).require_grad();
        let loss_of = |parameters: &[Tensor<1>; 4], chunks: &[usize]| {
            let y = chain(x.clone(), parameters, chunks);
            let dy = tensor(&values(3 * 4 * 3 * 4, 7), [3, 4, 3, 4], &device);
            (y * dy).sum()
        };
        let parameters = chain_parameters(&device);
        let gradients_of = |chunks: &[usize]| -> Vec<Vec<f32>> {
            let gradients = loss_of(&parameters, chunks).backward();
            let of = |p: &Tensor<1>| read(p.grad(&gradients).expect("a parameter is tracked"));
            let mut all: Vec<_> = parameters.iter().map(of).collect();
            all.push(read(x.grad(&gradients).expect("x is tracked")));
            all
        };
        let whole = gradients_of(&[4]);
        for chunks in [&[1, 3][..], &[2, 2], &[1, 1, 1, 1]] {
            for (i, (part, whole)) in gradients_of(chunks).iter().zip(&whole).enumerate() {
                assert_close(&format!("{i} in {chunks:?} on {name}"), part, whole, 1e-4, 1e-4);
            }
        }
        // The loss is linear in each parameter: the difference quotient has no error but rounding.
        for (i, gradient) in whole[..4].iter().enumerate() {
            let direction = values(gradient.len(), 20 + i as u32);
            let step = tensor(&direction, [direction.len()], &device);
            let moved = |sign: f32| {
                let mut parameters = parameters.clone();
                parameters[i] = parameters[i].clone() + step.clone() * sign;
                read(loss_of(&parameters, &[1, 3]))[0]
            };
            let quotient = (moved(1.0) - moved(-1.0)) / 2.0;
            let slope: f32 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
            assert_close(&format!("{i} on {name}"), &[slope], &[quotient], 1e-3, 1e-2);
        }
    }
}

#[test]
fn what_is_not_tracked_gets_no_gradient_and_costs_none() {
    let kernel = Conv3d::new([1, 3, 3], 6);
    let params = same(kernel.window, [4, 2, 5, 6], 6, 0);
    let case = Case::new(kernel, params);
    for (name, device) in devices() {
        let device = device.autodiff();
        let mut inputs = Inputs::new(kernel, &case, &device);
        inputs.x = inputs.x.set_require_grad(false);
        inputs.history = inputs.history.set_require_grad(false);
        let gradients = inputs.forward(kernel, params).sum().backward();
        assert!(inputs.x.grad(&gradients).is_none(), "{name}");
        assert!(inputs.history.grad(&gradients).is_none(), "{name}");
        let d_bias = read(inputs.bias.grad(&gradients).expect("the bias is tracked"));
        assert_close(name, &d_bias, &[60.0; 6], 1e-5, 0.0);
    }
}
