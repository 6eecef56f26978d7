use crate::common::{assert_close, devices};
use crate::{floats, run, values, words};
use burn::tensor::{Device, Tensor, TensorData};
use qvgen::kernels::Kernel;
use qvgen::kernels::group_moments::{combine_moments, group_moments};
use qvgen::kernels::group_norm::{ChunkPlace, GroupNorm, Params, group_norm, reference};

const EPS: f32 = 1e-3;

/// Shapes of x and of the factor, groups, and the place in the chunk.
struct Case {
    x: [usize; 4],
    factor: [usize; 4],
    groups: usize,
    first_frame: usize,
    frames: usize,
}

const fn case(x: [usize; 4], factor: [usize; 4], groups: usize, at: [usize; 2]) -> Case {
    Case { x, factor, groups, first_frame: at[0], frames: at[1] }
}

/// One value; a factor per channel; even and odd chunks, whole and in runs; planes of several
/// blocks with a tail.
const CASES: [Case; 6] = [
    case([1, 1, 1, 1], [1, 1, 1, 1], 1, [0, 1]),
    case([6, 2, 5, 7], [6, 1, 1, 1], 3, [1, 4]),
    case([4, 4, 6, 10], [4, 2, 3, 5], 2, [0, 4]),
    case([4, 9, 4, 12], [4, 3, 1, 3], 1, [0, 9]),
    case([4, 3, 20, 60], [4, 3, 5, 15], 4, [2, 5]),
    case([2, 2, 33, 33], [2, 2, 33, 33], 2, [0, 2]),
];

impl Case {
    fn params(&self) -> Params {
        let at = ChunkPlace { first_frame: self.first_frame, frames: self.frames };
        Params::new(self.x, self.factor, self.groups, at, EPS)
    }

    /// x, moments, factor and offset.
    fn inputs(&self) -> [Vec<f32>; 4] {
        let [x, factor] = [self.x, self.factor].map(|shape| shape.iter().product());
        let mut moments = values(3 * self.groups, 2);
        for group in moments.chunks_mut(3) {
            group[0] = 100.0;
            group[2] = 100.0 * group[2].abs();
        }
        [values(x, 1), moments, values(factor, 3), values(factor, 4)]
    }
}

#[test]
fn group_norm_matches_its_twin() {
    for kernel in GroupNorm::all() {
        for case in &CASES {
            let (params, [x, moments, factor, offset]) = (case.params(), case.inputs());
            let inputs = [words(&x), words(&moments), words(&factor), words(&offset)];
            let y = run(kernel, &inputs, &[x.len()], params, kernel.grid(&params));
            let expected = reference(kernel, &x, &moments, &factor, &offset, params);
            assert_close(&format!("{kernel:?} {params:?}"), floats(&y[0]), &expected, 1e-5, 1e-5);
        }
    }
}

/// The rule in words: the first of an odd number of frames belongs to the first frame of the
/// factor, and all others are nearest neighbors.
#[test]
fn group_norm_reads_the_nearest_factor() {
    for (frames, factor_frames, expected) in [
        (1, 1, vec![0]),
        (4, 2, vec![0, 0, 1, 1]),
        (8, 2, vec![0, 0, 0, 0, 1, 1, 1, 1]),
        (3, 3, vec![0, 1, 2]),
        (5, 3, vec![0, 1, 1, 2, 2]),
        (9, 3, vec![0, 1, 1, 1, 1, 2, 2, 2, 2]),
    ] {
        for (name, device) in devices() {
            let at = ChunkPlace { first_frame: 0, frames };
            let pixel = |frame: usize, pixel: usize| (10 * frame + pixel) as f32;
            let offset = (0..factor_frames).flat_map(|f| [0, 1].map(|p| pixel(f, p))).collect();
            let offset = tensor(offset, [1, factor_frames, 1, 2], &device);
            let x = Tensor::zeros([1, frames, 2, 4], &device);
            let moments = Tensor::<2>::from_data([[1.0, 0.0, 1.0]], &device);
            let y = group_norm(x, moments, [offset.clone(), offset], at, EPS, false);
            let expected: Vec<f32> = expected
                .iter()
                .flat_map(|&frame| [0, 0, 1, 1, 0, 0, 1, 1].map(|p| pixel(frame, p)))
                .collect();
            assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), expected, "{name} {frames}");
        }
    }
}

fn tensor(values: Vec<f32>, shape: [usize; 4], device: &Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

#[test]
fn groups_have_no_mean_and_unit_variance_afterwards_wherever_they_were() {
    let shape = [6, 3, 20, 30];
    let group_len = 3 * 3 * 20 * 30;
    let mut x = values(2 * group_len, 7);
    x[..group_len].iter_mut().for_each(|x| *x = 500.0 + 0.1 * *x);
    for (name, device) in devices() {
        let x = tensor(x.clone(), shape, &device);
        let moments = combine_moments(group_moments(x.clone().reshape([2, group_len])));
        let one = Tensor::ones([6, 1, 1, 1], &device);
        let at = ChunkPlace { first_frame: 0, frames: 3 };
        let y = group_norm(x, moments, [one.clone(), one.zeros_like()], at, 1e-12, false);
        for group in y.into_data().try_to_vec::<f32>().unwrap().chunks(group_len) {
            let mean = group.iter().sum::<f32>() / group_len as f32;
            let square = group.iter().map(|y| y * y).sum::<f32>() / group_len as f32;
            assert_close(name, &[mean, square], &[0.0, 1.0], 1e-3, 2e-3);
        }
    }
}

#[test]
fn group_norm_with_silu_survives_extreme_values() {
    for (name, device) in devices() {
        let x = tensor(vec![1.0, -1.0], [1, 1, 1, 2], &device);
        let moments = Tensor::<2>::from_data([[2.0, 0.0, 2.0]], &device);
        let factor = Tensor::full([1, 1, 1, 1], 500.0, &device);
        let at = ChunkPlace { first_frame: 0, frames: 1 };
        let y = group_norm(x, moments, [factor.clone(), factor.zeros_like()], at, 1e-12, true);
        let y = y.into_data().try_to_vec::<f32>().unwrap();
        assert_close(name, &y, &[500.0, 0.0], 1e-6, 1e-6);
    }
}
