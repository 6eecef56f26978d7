use crate::attention::Case;
use crate::common::{assert_close, wgpu_device};
use crate::{floats, half_words, run, words};
use qvgen::kernels::Element;
use qvgen::kernels::attention_matrix::AttentionMatrix;
use std::io::Write as _;

/// The kernel for this adapter; that it has none is reported, not hidden.
fn kernel(head_dim: u32, element: Element) -> Option<AttentionMatrix> {
    let kernel = AttentionMatrix::on(&wgpu_device(), head_dim as usize, element);
    if kernel.is_none() {
        let _ = writeln!(std::io::stderr(), "matrix tier missing: {head_dim} channels not run");
    }
    kernel
}

fn on_gpu(kernel: AttentionMatrix, case: &Case, inputs: [&[u32]; 3]) -> [Vec<f32>; 2] {
    let rows = (case.params.queries * case.params.heads) as usize;
    let lens = [case.q.len(), rows];
    let outputs = run(kernel, &inputs, &lens, case.params, kernel.grid(case.params));
    [floats(&outputs[0]).to_vec(), floats(&outputs[1]).to_vec()]
}

/// The shader rounds its inputs: the twin gets them rounded.
fn round(case: &mut Case) -> [Vec<u32>; 3] {
    [&mut case.q, &mut case.k, &mut case.v].map(|x| {
        let (words, rounded) = half_words(x);
        *x = rounded;
        words
    })
}

fn check(element: Element, head_dim: u32, shape: (u32, u32, u32), scale: f32) {
    let Some(kernel) = kernel(head_dim, element) else { return };
    let mut case = Case::new(head_dim, shape, scale);
    let halves = round(&mut case);
    let [o, lse] = match element {
        Element::F16 => on_gpu(kernel, &case, halves.each_ref().map(Vec::as_slice)),
        Element::F32 => on_gpu(kernel, &case, [&case.q, &case.k, &case.v].map(|x| words(x))),
    };
    let [twin_o, twin_lse] = case.twin();
    // Probabilities have 11 bits.
    assert_close(&case.label("o"), &o, &twin_o, 1e-3, 1e-3);
    assert_close(&case.label("lse"), &lse, &twin_lse, 1e-4, 1e-4);
}

#[test]
fn attention_matrix_matches_the_twin_of_the_rounded_inputs() {
    for shape in [(1, 1, 1), (1, 40, 2), (65, 130, 2), (33, 1, 2)] {
        check(Element::F32, 128, shape, 0.15);
    }
    for shape in [(17, 33, 3), (70, 97, 1)] {
        check(Element::F16, 64, shape, 0.2);
    }
}

#[test]
fn attention_matrix_survives_maxima_that_rise_and_scores_of_any_magnitude() {
    let Some(kernel) = kernel(64, Element::F32) else { return };
    for magnitude in [1.0, 40.0] {
        let mut case = Case::new(64, (33, 130, 2), 1.0);
        // Later keys are larger: the reference rises again and again.
        case.k.iter_mut().enumerate().for_each(|(i, k)| *k *= magnitude * (i / 128) as f32 / 16.0);
        round(&mut case);
        let [o, lse] = on_gpu(kernel, &case, [words(&case.q), words(&case.k), words(&case.v)]);
        let [twin_o, twin_lse] = case.twin();
        assert_close(&case.label("lse"), &lse, &twin_lse, 1e-4, 1e-3);
        assert_close(&case.label("o"), &o, &twin_o, 2e-3, 2e-3);
    }
}

#[test]
fn a_query_that_is_no_number_shows_in_its_own_result_only() {
    let Some(kernel) = kernel(64, Element::F32) else { return };
    let mut case = Case::new(64, (70, 97, 2), 0.3);
    round(&mut case);
    case.q[(66 * 2 + 1) * 64 + 3] = f32::NAN;
    let [o, lse] = on_gpu(kernel, &case, [words(&case.q), words(&case.k), words(&case.v)]);
    assert!(o.iter().enumerate().all(|(i, o)| o.is_nan() == (i / 64 == 66 * 2 + 1)));
    assert!(lse.iter().enumerate().all(|(i, lse)| lse.is_nan() == (i == 66 * 2 + 1)));
}
