use crate::attention::{Case, exact};
use crate::common::{assert_close, devices, max_error};
use crate::{matrix, values};
use burn::tensor::{DType, Device, Tensor};
use qvgen::kernels::attention::{Attention, Params};
use qvgen::kernels::attention_int8::{attention_int8, reference};
use qvgen::nn::{AttentionPrecision, KeysValues, MultiHeadAttention};

fn read(x: Tensor<2>) -> Vec<f32> {
    x.into_data().try_to_vec().expect("f32 values")
}

fn column_means(x: &[f32], width: usize) -> Vec<f32> {
    let rows = x.len() / width;
    (0..width).map(|c| x.iter().skip(c).step_by(width).sum::<f32>() / rows as f32).collect()
}

fn on(device: &Device, case: &Case, dtype: DType) -> [Vec<f32>; 2] {
    let width = (case.params.heads * case.kernel.head_dim) as usize;
    let tensor = |x: &[f32]| matrix(x, width, device).cast(dtype);
    let heads = case.params.heads as usize;
    let (q, k, v) = (tensor(&case.q), tensor(&case.k), tensor(&case.v));
    let (o, lse) = attention_int8(q, k, v, heads, case.params.scale);
    [read(o), read(lse)]
}

/// Values of about a normal distribution; in keys, some channels lie far from zero in every token.
fn outliers(head_dim: u32, queries: u32, keys: u32) -> Case {
    let mut case = Case::new(head_dim, (queries, keys, 2), 1.0 / (head_dim as f32).sqrt());
    let width = 2 * head_dim as usize;
    let normal = |len: usize, seed: u32| -> Vec<f32> {
        let parts: Vec<Vec<f32>> = (0..4).map(|i| values(len, seed + i)).collect();
        (0..len).map(|i| parts.iter().map(|part| part[i]).sum::<f32>() * 0.87).collect()
    };
    case.q = normal(case.q.len(), 10);
    case.k = normal(case.k.len(), 20);
    case.v = normal(case.v.len(), 30);
    for (i, k) in case.k.iter_mut().enumerate() {
        if i % width % 16 == 5 {
            *k += 20.0;
        }
    }
    case
}

#[test]
fn attention_int8_matches_its_twin_on_all_devices() {
    for (head_dim, shape) in [(16, (1, 1, 1)), (16, (70, 97, 2)), (128, (65, 66, 1))] {
        let case = Case::new(head_dim, shape, 2.0 / (head_dim as f32).sqrt());
        let Case { kernel, q, k, v, params } = &case;
        let mean = column_means(k, (params.heads * head_dim) as usize);
        let (o, lse) = reference(*kernel, [q, k, v], &mean, *params);
        for (name, device) in devices() {
            let [actual_o, actual_lse] = on(&device, &case, DType::F32);
            // A code at a tie may round either way.
            assert_close(&case.label(name), &actual_o, &o, 1e-3, 1e-3);
            assert_close(&case.label(name), &actual_lse, &lse, 1e-3, 1e-3);
        }
    }
}

#[test]
fn attention_int8_is_close_to_exact_attention_with_keys_that_have_outlier_channels() {
    for head_dim in [64, 128] {
        let case = outliers(head_dim, 96, 200);
        let Case { kernel, q, k, v, params } = &case;
        let [o, lse] = exact(*kernel, q, k, v, *params);
        for (name, device) in devices() {
            let [actual_o, actual_lse] = on(&device, &case, DType::F32);
            let error = max_error(&actual_o, &o);
            assert!(error < 0.1, "{name} {head_dim}: {error}");
            assert_close(&case.label(name), &actual_lse, &lse, 0.0, 0.03);
        }
        // Centering is what makes it so.
        let zeros = vec![0.0; 2 * head_dim as usize];
        let (uncentered, _) = reference(*kernel, [q, k, v], &zeros, *params);
        let mean = column_means(k, zeros.len());
        let (centered, _) = reference(*kernel, [q, k, v], &mean, *params);
        let [with, without] = [&centered, &uncentered].map(|o_int8| max_error(o_int8, &o));
        assert!(without > 4.0 * with, "{head_dim}: {with} with, {without} without");
    }
}

#[test]
fn a_query_that_is_no_number_shows_in_its_own_result_only() {
    let mut case = Case::new(16, (70, 97, 2), 0.3);
    case.q[(66 * 2 + 1) * 16 + 3] = f32::NAN;
    for (name, device) in devices() {
        let [o, lse] = on(&device, &case, DType::F32);
        for (i, o) in o.iter().enumerate() {
            assert_eq!(o.is_nan(), i / 16 == 66 * 2 + 1, "{name}: {i}");
        }
        assert!(lse.iter().enumerate().all(|(i, lse)| lse.is_nan() == (i == 66 * 2 + 1)), "{name}");
    }
}

#[test]
fn heads_that_have_no_integer_form_are_computed_exactly() {
    let case = Case::new(20, (9, 33, 2), 0.2);
    let [o, lse] = case.twin();
    for (name, device) in devices() {
        let [actual_o, actual_lse] = on(&device, &case, DType::F32);
        assert_close(name, &actual_o, &o, 1e-5, 1e-5);
        assert_close(name, &actual_lse, &lse, 1e-5, 1e-5);
    }
}

#[test]
fn the_layer_offers_integer_scores_over_parts_and_trains_exactly() {
    let (heads, head_dim) = (2, 32);
    let case = outliers(head_dim as u32, 40, 60);
    let Params { scale, .. } = case.params;
    let kernel = Attention { head_dim: head_dim as u32 };
    let [expected, _] = exact(kernel, &case.q, &case.k, &case.v, case.params);
    let layer = MultiHeadAttention::new(heads, head_dim).with_precision(AttentionPrecision::Int8);
    for (name, device) in devices() {
        let width = heads * head_dim;
        let tensor = |x: &[f32], device: &Device| matrix(x, width, device);
        let run = |device: &Device| {
            let (k, v) = (tensor(&case.k, device), tensor(&case.v, device));
            let part = |first, len| KeysValues {
                k: k.clone().narrow(0, first, len),
                v: v.clone().narrow(0, first, len),
            };
            read(layer.forward(tensor(&case.q, device), &[part(0, 25), part(25, 35)]))
        };
        let error = max_error(&run(&device), &expected);
        assert!(error > 1e-4 && error < 0.1, "{name}, scale {scale}: {error}");
        let error = max_error(&run(&device.autodiff()), &expected);
        assert!(error < 1e-4, "{name} with autodiff: {error}");
    }
}
