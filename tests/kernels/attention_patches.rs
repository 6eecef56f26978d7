use crate::attention::{Case, SHAPES, exact};
use crate::common::{assert_close, devices};
use crate::{floats, half_words, run, runs, words};
use burn::tensor::{DType, Tensor};
use qvgen::kernels::attention::{Form, attention, attention_in};
use qvgen::kernels::attention_patches::AttentionPatches;
use qvgen::kernels::{Element, Kernel};

/// An odd count of vectors, and the most.
const HEAD_DIMS: [u32; 2] = [20, 128];

fn kernels(head_dim: u32) -> impl Iterator<Item = AttentionPatches> {
    let element = Element::F32;
    [8, 16].into_iter().map(move |columns| AttentionPatches { head_dim, columns, element })
}

fn patches(kernel: AttentionPatches, case: &Case, inputs: [&[u32]; 3]) -> [Vec<f32>; 2] {
    let rows = (case.params.queries * case.params.heads) as usize;
    let lens = [case.q.len(), rows];
    let outputs = run(kernel, &inputs, &lens, case.params, AttentionPatches::grid(case.params));
    [floats(&outputs[0]).to_vec(), floats(&outputs[1]).to_vec()]
}

fn on_gpu(kernel: AttentionPatches, case: &Case) -> [Vec<f32>; 2] {
    patches(kernel, case, [words(&case.q), words(&case.k), words(&case.v)])
}

#[test]
fn attention_patches_match_the_twin() {
    for head_dim in HEAD_DIMS {
        for shape in SHAPES.into_iter().chain([(64, 64, 1), (70, 97, 1)]) {
            let case = Case::new(head_dim, shape, 1.7 / (head_dim as f32).sqrt());
            let [twin_o, twin_lse] = case.twin();
            for kernel in kernels(head_dim) {
                let [o, lse] = on_gpu(kernel, &case);
                let what = case.label(&format!("{kernel:?}"));
                assert_close(&format!("o of {what}"), &o, &twin_o, 1e-5, 1e-5);
                assert_close(&format!("lse of {what}"), &lse, &twin_lse, 1e-5, 1e-5);
            }
        }
    }
}

#[test]
fn attention_patches_of_half_precision_inputs_match_the_twin_of_the_rounded_ones() {
    for kernel in AttentionPatches::all()
        .into_iter()
        .filter(|k| k.element == Element::F16 && k.head_dim == 20)
    {
        if !runs(kernel) {
            continue;
        }
        let mut case = Case::new(kernel.head_dim, (65, 130, 2), 0.2);
        let [q, k, v] = [&mut case.q, &mut case.k, &mut case.v].map(|x| {
            let (words, rounded) = half_words(x);
            *x = rounded;
            words
        });
        let ([o, lse], [twin_o, twin_lse]) = (patches(kernel, &case, [&q, &k, &v]), case.twin());
        assert_close(&case.label("o"), &o, &twin_o, 1e-5, 1e-5);
        assert_close(&case.label("lse"), &lse, &twin_lse, 1e-5, 1e-5);
    }
}

#[test]
fn attention_patches_survive_scores_of_any_magnitude() {
    for kernel in kernels(20) {
        let mut case = Case::new(kernel.head_dim, (33, 130, 2), 1.0);
        let magnitude = 1e4 / (kernel.head_dim as f32).sqrt();
        case.q.iter_mut().for_each(|q| *q *= magnitude);
        let [o, lse] = on_gpu(kernel, &case);
        let [exact_o, exact_lse] = exact(case.kernel, &case.q, &case.k, &case.v, case.params);
        assert!(exact_lse.iter().any(|lse| lse.abs() > 5e3), "the scores are not large");
        assert_close(&case.label("lse"), &lse, &exact_lse, 1e-5, 1e-2);
        assert_close(&case.label("o"), &o, &exact_o, 1e-2, 1e-2);
    }
}

#[test]
fn attention_patches_of_equal_keys_are_the_mean_of_the_values_however_small_the_scores() {
    for (offset, kernel) in
        [-1e4, 0.0, 1e4].into_iter().flat_map(|o| kernels(20).map(move |k| (o, k)))
    {
        let mut case = Case::new(20, (3, 100, 1), 1.0);
        case.q.fill(0.05);
        case.k.fill(offset);
        let mean: Vec<f32> =
            (0..60).map(|i| case.v.iter().skip(i % 20).step_by(20).sum::<f32>() / 100.0).collect();
        let [o, lse] = on_gpu(kernel, &case);
        assert_close("o", &o, &mean, 1e-5, 1e-6);
        assert_close("lse", &lse, &[offset + 100.0_f32.ln(); 3], 1e-6, 1e-5);
    }
}

#[test]
fn a_value_that_is_no_number_shows_in_the_queries_that_it_concerns_only() {
    for kernel in kernels(20) {
        for place in [0, 1, 2] {
            let mut case = Case::new(20, (70, 97, 2), 0.3);
            let x = [&mut case.q, &mut case.k, &mut case.v];
            // Token 66 or the last key, second head, channel 3.
            let token = [66, 96, 96][place];
            x.into_iter().nth(place).unwrap()[(token * 2 + 1) * 20 + 3] = f32::NAN;
            let [o, lse] = on_gpu(kernel, &case);
            for (i, o) in o.iter().enumerate() {
                let (query, head, channel) = (i / 40, i / 20 % 2, i % 20);
                let expected = head == 1 && [query == 66, true, channel == 3][place];
                assert_eq!(o.is_nan(), expected, "{kernel:?} {place}: {query} {head} {channel}");
            }
            for (i, lse) in lse.iter().enumerate() {
                let expected = i % 2 == 1 && [i / 2 == 66, true, false][place];
                assert_eq!(lse.is_nan(), expected, "{kernel:?} {place}: lse {i}");
            }
        }
    }
}

#[test]
fn every_form_computes_the_same_attention_on_all_devices() {
    let (heads, head_dim) = (2, 20);
    for (name, device) in devices() {
        let tensor = |rows, seed| {
            crate::matrix(&crate::values(rows * heads * head_dim, seed), heads * head_dim, &device)
        };
        let (q, k, v) = (tensor(67, 1), tensor(90, 2), tensor(90, 3));
        let read = |(o, lse): (Tensor<2>, Tensor<2>)| {
            Tensor::cat(vec![o, lse], 1).into_data().try_to_vec::<f32>().unwrap()
        };
        let expected = read(attention(q.clone(), k.clone(), v.clone(), heads, 0.3));
        for form in Form::ALL.into_iter().filter(|form| form.runs(&device, head_dim, Element::F32))
        {
            let result = attention_in(Some(form), q.clone(), k.clone(), v.clone(), heads, 0.3);
            assert_close(&format!("{form:?} on {name}"), &read(result), &expected, 1e-5, 1e-5);
        }
        if device.supports_dtype(DType::F16) {
            let half = |x: &Tensor<2>| x.clone().cast(DType::F16);
            let result = read(attention_in(None, half(&q), half(&k), half(&v), heads, 0.3));
            assert_close(&format!("f16 on {name}"), &result, &expected, 2e-3, 2e-3);
        }
    }
}
