use crate::common::{assert_close, devices};
use crate::{floats, matrix, run, values, words};
use burn::tensor::{Tensor, TensorData};
use qvgen::kernels::group_moments::{
    GroupMoments, Params, combine_moments, group_moments, reference,
};
use qvgen::kernels::{Kernel, linear_grid};

/// `(groups, len, part_len)`: one value, parts of one length, a short last one, one short part.
const SHAPES: [(usize, usize, usize); 4] = [(1, 1, 1), (3, 192, 64), (2, 1000, 333), (5, 70, 100)];

#[test]
fn group_moments_match_their_twin() {
    for kernel in GroupMoments::all() {
        for (groups, len, part_len) in SHAPES {
            let params = Params::new(groups, len, part_len);
            let mut x = values(groups * len * if kernel.combine { 3 } else { 1 }, 1);
            if kernel.combine {
                for moments in x.chunks_mut(3) {
                    moments[0] = (moments[0] * 10.0).abs().ceil() + 1.0;
                    moments[2] = moments[2].abs();
                }
            }
            let lens = [groups * params.parts as usize * 3];
            let grid = linear_grid(groups * params.parts as usize);
            let actual = run(kernel, &[words(&x)], &lens, params, grid);
            let expected = reference(kernel, &x, params);
            assert_close(
                &format!("{kernel:?} {params:?}"),
                floats(&actual[0]),
                &expected,
                1e-5,
                1e-5,
            );
        }
    }
}

/// Mean and sum of squared differences in f64.
fn exact(values: &[f32]) -> [f32; 3] {
    let count = values.len() as f64;
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let squares: f64 = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
    [count, mean, squares].map(|value| value as f32)
}

#[test]
fn moments_of_many_parts_keep_their_precision_far_from_zero() {
    let len = 30_001;
    let mut x = values(2 * len, 5);
    x[..len].iter_mut().for_each(|x| *x += 300.0);
    x[len] = 1e4;
    let expected: Vec<f32> = x.chunks(len).flat_map(exact).collect();
    for (name, device) in devices() {
        // Two tensors, as where a chunk is too large for one.
        let parts = matrix(&x, len, &device).split(len / 2 + 7, 1);
        let parts = parts.into_iter().map(group_moments).collect();
        let moments = combine_moments(Tensor::cat(parts, 1)).into_data();
        assert_close(name, &moments.try_to_vec::<f32>().unwrap(), &expected, 2e-5, 0.0);
    }
}

#[test]
fn moments_of_one_value_have_no_spread() {
    for (name, device) in devices() {
        let x = Tensor::<2>::from_data(TensorData::new(vec![7.5_f32], [1, 1]), &device);
        let moments = combine_moments(group_moments(x)).into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(moments, [1.0, 7.5, 0.0], "{name}");
    }
}
