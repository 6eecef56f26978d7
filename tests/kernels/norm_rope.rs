use crate::common::{assert_close, devices};
use crate::{floats, matrix, run, runs, values, words};
use burn::tensor::{DType, Tensor};
use qvgen::kernels::norm_rope::{NormRope, Params, norm_rope, reference};
use qvgen::kernels::{Element, Kernel, linear_grid};

/// `(tokens, heads, pairs)`: one pair, odd counts, more pairs than invocations.
const SHAPES: [(u32, u32, u32); 4] = [(1, 1, 1), (5, 3, 3), (3, 2, 81), (33, 12, 5)];

fn halves(words: &[u32], len: usize) -> Vec<f32> {
    let halves: &[half::f16] = bytemuck::cast_slice(words);
    halves[..len].iter().map(|half| half.to_f32()).collect()
}

fn on_gpu(kernel: NormRope, params: Params, inputs: [&[f32]; 4]) -> Vec<f32> {
    let len = inputs[0].len();
    let inputs = inputs.map(words);
    let grid = linear_grid(params.tokens as usize);
    let out = if kernel.element == Element::F32 { len } else { len / 2 };
    let outputs = run(kernel, &inputs, &[out], params, grid);
    match kernel.element {
        Element::F32 => floats(&outputs[0]).to_vec(),
        Element::F16 => halves(&outputs[0], len),
    }
}

#[test]
fn norm_rope_matches_its_twin() {
    for (kernel, (tokens, heads, pairs)) in
        NormRope::all().into_iter().flat_map(|kernel| SHAPES.map(|shape| (kernel, shape)))
    {
        if !runs(kernel) {
            continue;
        }
        let params = Params { tokens, heads, pairs, eps: 1e-2 };
        let (width, angles) = (2 * heads * pairs, tokens * pairs);
        let x = values((tokens * width) as usize, 1);
        let [weight, cos, sin] =
            [(width, 2), (angles, 3), (angles, 4)].map(|(len, seed)| values(len as usize, seed));
        let actual = on_gpu(kernel, params, [&x, &weight, &cos, &sin]);
        let expected = reference(kernel, &x, &weight, [&cos, &sin], params);
        let tolerance = if kernel.element == Element::F32 { 1e-5 } else { 1e-3 };
        assert_close(&format!("{kernel:?} {params:?}"), &actual, &expected, tolerance, tolerance);
    }
}

#[test]
fn norm_rope_equals_the_operations_that_it_replaces_on_all_devices() {
    let (tokens, heads, pairs) = (9, 3, 4);
    let width = 2 * heads * pairs;
    for (name, device) in devices() {
        let x = matrix(&values((tokens + 2) * width, 1), width, &device).narrow(0, 1, tokens);
        let weight = matrix(&values(width, 2), width, &device);
        let [cos, sin] = [3, 4].map(|seed| matrix(&values(tokens * pairs, seed), pairs, &device));
        let mean = (x.clone() * x.clone()).mean_dim(1);
        let normed = x.clone() / (mean + 1e-3).sqrt() * weight.clone();
        let rotated = qvgen::kernels::rope::rope(normed.clone(), cos.clone(), sin.clone());
        let read = |x: Tensor<2>| x.cast(DType::F32).into_data().try_to_vec::<f32>().unwrap();
        let rotation = Some([cos, sin]);
        let fused =
            |rotation, element| read(norm_rope(x.clone(), weight.clone(), 1e-3, rotation, element));
        assert_close(name, &fused(None, Element::F32), &read(normed), 1e-5, 1e-5);
        let rotated = read(rotated);
        assert_close(name, &fused(rotation.clone(), Element::F32), &rotated, 1e-5, 1e-5);
        if device.supports_dtype(DType::F16) {
            assert_close(name, &fused(rotation, Element::F16), &rotated, 1e-3, 1e-3);
        }
    }
}

#[test]
fn a_token_of_zeros_stays_zero_and_one_that_is_no_number_shows() {
    let params = Params { tokens: 3, heads: 1, pairs: 3, eps: 1e-6 };
    let mut x = values(18, 1);
    x[..6].fill(0.0);
    x[15] = f32::NAN;
    let (weight, angles) = (values(6, 2), values(9, 3));
    let kernel = NormRope::new(true, Element::F32, 6);
    let y = on_gpu(kernel, params, [&x, &weight, &angles, &angles]);
    assert_eq!(y[..6], [0.0; 6]);
    assert!(y[6..12].iter().all(|y| y.is_finite()) && y[12..].iter().all(|y| y.is_nan()), "{y:?}");
}
