use crate::common::{assert_close, devices};
use crate::{floats, matrix, run, runs, values, words};
use burn::tensor::{DType, Tensor};
use qvgen::kernels::head_norm_rope::{HeadNormRope, Params, head_norm_rope, reference};
use qvgen::kernels::rope::rope;
use qvgen::kernels::{Element, GRID_WIDTH, Kernel};

/// `(text tokens, tokens, heads, pairs)`: no text, one pair, odd counts, rows that do not fill a
/// workgroup, more pairs than invocations per head.
const SHAPES: [(u32, u32, u32, u32); 5] =
    [(0, 1, 1, 1), (2, 5, 3, 3), (3, 2, 2, 41), (0, 33, 12, 5), (7, 4, 5, 32)];

fn halves(words: &[u32], len: usize) -> Vec<f32> {
    let halves: &[half::f16] = bytemuck::cast_slice(words);
    halves[..len].iter().map(|half| half.to_f32()).collect()
}

fn on_gpu(kernel: HeadNormRope, params: Params, inputs: [&[f32]; 5]) -> Vec<f32> {
    let len = inputs[0].len() + inputs[1].len();
    let inputs = inputs.map(words);
    let out = if kernel.element == Element::F32 { len } else { len / 2 };
    let outputs = run(kernel, &inputs, &[out], params, kernel.grid(params));
    match kernel.element {
        Element::F32 => floats(&outputs[0]).to_vec(),
        Element::F16 => halves(&outputs[0], len),
    }
}

#[test]
fn head_norm_rope_matches_its_twin() {
    for (kernel, (text_tokens, tokens, heads, pairs)) in
        HeadNormRope::all().into_iter().flat_map(|kernel| SHAPES.map(|shape| (kernel, shape)))
    {
        if !runs(kernel) {
            continue;
        }
        let params = Params { text_tokens, tokens, heads, pairs, eps: 1e-2 };
        let (width, angles) = (2 * heads * pairs, tokens * pairs);
        let lens = [text_tokens * width, tokens * width, 4 * pairs, angles, angles];
        let [text, video, affine, cos, sin] =
            [0, 1, 2, 3, 4].map(|i| values(lens[i] as usize, 1 + i as u32));
        let actual = on_gpu(kernel, params, [&text, &video, &affine, &cos, &sin]);
        let expected = reference(kernel, [&text, &video], &affine, [&cos, &sin], params);
        let tolerance = if kernel.element == Element::F32 { 1e-5 } else { 1e-3 };
        assert_close(&format!("{kernel:?} {params:?}"), &actual, &expected, tolerance, tolerance);
    }
}

#[test]
fn head_norm_rope_reaches_the_last_token_of_a_folded_grid() {
    let kernel = HeadNormRope { rotate: true, element: Element::F32 };
    let (heads, pairs) = (8, 1);
    let params = Params { text_tokens: 2, tokens: GRID_WIDTH + 1, heads, pairs, eps: 1e-2 };
    assert_eq!(kernel.grid(params)[1], 2);
    let (width, angles) = (2 * heads * pairs, params.tokens * pairs);
    let lens = [params.text_tokens * width, params.tokens * width, 4 * pairs, angles, angles];
    let [text, video, affine, cos, sin] =
        [0, 1, 2, 3, 4].map(|i| values(lens[i] as usize, 1 + i as u32));
    let actual = on_gpu(kernel, params, [&text, &video, &affine, &cos, &sin]);
    let expected = reference(kernel, [&text, &video], &affine, [&cos, &sin], params);
    let last = actual.len() - 4 * width as usize;
    assert_close("last tokens", &actual[last..], &expected[last..], 1e-5, 1e-5);
}

#[test]
fn head_norm_rope_equals_the_operations_that_it_replaces_on_all_devices() {
    let (text_tokens, tokens, heads, pairs) = (4, 9, 3, 4);
    let (head_dim, width) = (2 * pairs, 2 * heads * pairs);
    for (name, device) in devices() {
        let text = matrix(&values(text_tokens * width, 5), width, &device);
        let video = matrix(&values((tokens + 2) * width, 1), width, &device).narrow(0, 1, tokens);
        let affine = matrix(&values(2 * head_dim, 2), head_dim, &device);
        let [cos, sin] = [3, 4].map(|seed| matrix(&values(tokens * pairs, seed), pairs, &device));
        let normalize = |x: Tensor<2>| {
            let heads = x.clone().reshape([x.dims()[0] * heads, head_dim]);
            let centered = heads.clone() - heads.mean_dim(1);
            let variance = (centered.clone() * centered.clone()).mean_dim(1);
            let [weight, bias] = [0, 1].map(|row| affine.clone().narrow(0, row, 1));
            (centered / (variance + 1e-3).sqrt() * weight + bias).reshape(x.dims())
        };
        let read = |x: Tensor<2>| x.cast(DType::F32).into_data().try_to_vec::<f32>().unwrap();
        let join = |video: Tensor<2>| read(Tensor::cat(vec![normalize(text.clone()), video], 0));
        let rotation = Some([cos.clone(), sin.clone()]);
        let fused = |text: Option<&Tensor<2>>, rotation, element| {
            read(head_norm_rope(
                text.cloned(),
                video.clone(),
                affine.clone(),
                1e-3,
                rotation,
                element,
            ))
        };
        let (normed, both) = (normalize(video.clone()), Some(&text));
        let alone = fused(None, None, Element::F32);
        assert_close(name, &alone, &read(normed.clone()), 1e-5, 1e-5);
        let joined = fused(both, None, Element::F32);
        assert_close(name, &joined, &join(normed.clone()), 1e-5, 1e-5);
        let rotated = join(rope(normed, cos, sin));
        assert_close(name, &fused(both, rotation.clone(), Element::F32), &rotated, 1e-5, 1e-5);
        if device.supports_dtype(DType::F16) {
            assert_close(name, &fused(both, rotation, Element::F16), &rotated, 2e-3, 2e-3);
        }
    }
}

#[test]
fn a_head_of_one_value_becomes_the_bias_and_one_that_is_no_number_shows() {
    let params = Params { text_tokens: 0, tokens: 1, heads: 3, pairs: 3, eps: 1e-6 };
    let mut x = values(18, 1);
    x[..6].fill(0.75);
    x[15] = f32::NAN;
    let (affine, angles) = (values(12, 2), [0.0; 3]);
    let kernel = HeadNormRope { rotate: false, element: Element::F32 };
    let y = on_gpu(kernel, params, [&[], &x, &affine, &angles, &angles]);
    assert_eq!(y[..6], affine[6..]);
    assert!(y[6..12].iter().all(|y| y.is_finite()) && y[12..].iter().all(|y| y.is_nan()), "{y:?}");
}
