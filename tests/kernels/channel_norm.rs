use crate::common::{assert_close, devices};
use crate::{floats, run, values, words};
use burn::tensor::{Tensor, TensorData};
use qvgen::kernels::channel_norm::{ChannelNorm, Params, channel_norm, reference};
use qvgen::kernels::{Kernel, linear_grid};

/// `(channels, pixels)`: one value, one ragged workgroup, several workgroups with a tail.
const SHAPES: [(u32, u32); 4] = [(1, 1), (3, 5), (12, 64), (17, 203)];

/// Values whose first pixel is all zeros: its norm is the floor, not a division by zero.
fn input(channels: u32, pixels: u32) -> Vec<f32> {
    let mut x = values((channels * pixels) as usize, 1);
    x.iter_mut().step_by(pixels as usize).for_each(|value| *value = 0.0);
    x
}

#[test]
fn channel_norm_matches_its_twin() {
    for kernel in ChannelNorm::all() {
        for (channels, pixels) in SHAPES {
            let params = Params { channels, pixels };
            let x = input(channels, pixels);
            let gamma = values(channels as usize, 2);
            let actual = run(
                kernel,
                &[words(&x), words(&gamma)],
                &[x.len()],
                params,
                linear_grid(pixels.div_ceil(kernel.workgroup_size()) as usize),
            );
            let expected = reference(kernel, &x, &gamma, params);
            let what = format!("{kernel:?} {params:?}");
            assert_close(&what, floats(&actual[0]), &expected, 1e-5, 1e-6);
        }
    }
}

#[test]
fn channel_norm_gives_each_pixel_the_length_of_the_root_of_its_channels() {
    for (name, device) in devices() {
        let (channels, pixels) = (7, 33);
        let x = Tensor::<2>::from_data(
            TensorData::new(values(channels * pixels, 3), [channels, pixels]),
            &device,
        );
        let y = channel_norm(x, Tensor::ones([channels], &device), false);
        let y = y.into_data().try_to_vec::<f32>().unwrap();
        for pixel in 0..pixels {
            let squares: f32 = y.iter().skip(pixel).step_by(pixels).map(|v| v * v).sum();
            assert_close(&format!("{name}, pixel {pixel}"), &[squares], &[7.0], 1e-5, 0.0);
        }
    }
}

#[test]
fn channel_norm_with_silu_survives_extreme_values() {
    for (name, device) in devices() {
        let x = Tensor::<2>::from_data([[1.0, -1.0]], &device);
        let gamma = Tensor::<1>::from_data([500.0], &device);
        let y = channel_norm(x, gamma, true).into_data().try_to_vec::<f32>().unwrap();
        assert_close(name, &y, &[500.0, 0.0], 1e-6, 1e-6);
    }
}

/// The loss `Σ d_y · y` in f64.
fn loss(kernel: ChannelNorm, x: &[f64], gamma: &[f64], d_y: &[f32]) -> f64 {
    let pixels = x.len() / gamma.len();
    let term = |i: usize| {
        let squares: f64 = x.iter().skip(i % pixels).step_by(pixels).map(|x| x * x).sum();
        let factor = (gamma.len() as f64).sqrt() / squares.sqrt().max(1e-12);
        let v = x[i] * factor * gamma[i / pixels];
        let y = if kernel.silu { v / (1.0 + (-v).exp()) } else { v };
        y * f64::from(d_y[i])
    };
    (0..x.len()).map(term).sum()
}

/// Slopes of the loss in x and gamma.
fn slopes(kernel: ChannelNorm, x: &[f32], gamma: &[f32], d_y: &[f32]) -> [Vec<f32>; 2] {
    let inputs = [x, gamma].map(|x| x.iter().copied().map(f64::from).collect::<Vec<_>>());
    [0, 1].map(|which| {
        let slope = |i: usize| {
            let moved = |step: f64| {
                let mut inputs = inputs.clone();
                inputs[which][i] += step;
                loss(kernel, &inputs[0], &inputs[1], d_y)
            };
            ((moved(1e-5) - moved(-1e-5)) / 2e-5) as f32
        };
        (0..inputs[which].len()).map(slope).collect()
    })
}

#[test]
fn channel_norm_is_differentiable_on_all_devices_in_whatever_requires_it() {
    for kernel in ChannelNorm::all() {
        for (channels, pixels) in [(1, 3), (5, 1), (7, 33)] {
            let (x, gamma) = (values(channels * pixels, 1), values(channels, 2));
            let d_y = values(channels * pixels, 3);
            let expected = slopes(kernel, &x, &gamma, &d_y);
            for (name, device) in devices() {
                let device = device.autodiff();
                for required in [[true, false], [false, true], [true, true]] {
                    let [x, d_y] = [&x, &d_y].map(|x| crate::matrix(x, pixels, &device));
                    let gamma = Tensor::<1>::from_data(&gamma[..], &device);
                    let x = if required[0] { x.require_grad() } else { x };
                    let gamma = if required[1] { gamma.require_grad() } else { gamma };
                    let y = channel_norm(x.clone(), gamma.clone(), kernel.silu);
                    let gradients = (y * d_y).sum().backward();
                    let actual = [
                        x.grad(&gradients).map(|x| x.into_data()),
                        gamma.grad(&gradients).map(|x| x.into_data()),
                    ];
                    for ((actual, expected), required) in
                        actual.into_iter().zip(&expected).zip(required)
                    {
                        assert_eq!(actual.is_some(), required, "{name}");
                        let Some(actual) = actual else { continue };
                        let what = format!("{kernel:?} {channels} × {pixels} on {name}");
                        let actual = actual.try_to_vec::<f32>().unwrap();
                        assert_close(&what, &actual, expected, 1e-4, 2e-5);
                    }
                }
            }
        }
    }
}

#[test]
fn gradients_of_pixels_without_length_and_of_extreme_values_are_finite() {
    for (name, device) in devices() {
        let device = device.autodiff();
        let x = Tensor::<2>::from_data([[0.0, 1.0, -1.0], [0.0, 1e8, 3.0]], &device).require_grad();
        let gamma = Tensor::<1>::from_data([500.0, -500.0], &device).require_grad();
        let gradients = channel_norm(x.clone(), gamma.clone(), true).sum().backward();
        let d_x = x.grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap();
        let d_gamma = gamma.grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap();
        assert!(d_x.iter().chain(&d_gamma).all(|x| x.is_finite()), "{name}: {d_x:?} {d_gamma:?}");
    }
}
