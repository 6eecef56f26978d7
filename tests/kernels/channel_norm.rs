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
