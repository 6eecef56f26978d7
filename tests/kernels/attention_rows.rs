use crate::attention::{Case, SHAPES};
use crate::common::assert_close;
use crate::{floats, half_words, run, runs, words};
use qvgen::kernels::attention_rows::AttentionRows;
use qvgen::kernels::{Element, Kernel};

fn on_gpu(kernel: AttentionRows, case: &Case, inputs: [&[u32]; 3]) -> [Vec<f32>; 2] {
    let rows = (case.params.queries * case.params.heads) as usize;
    let lens = [case.q.len(), rows];
    let outputs = run(kernel, &inputs, &lens, case.params, kernel.grid(case.params));
    [floats(&outputs[0]).to_vec(), floats(&outputs[1]).to_vec()]
}

#[test]
fn attention_rows_match_the_twin() {
    for kernel in AttentionRows::all().into_iter().filter(|kernel| runs(*kernel)) {
        let head_dim = kernel.head_dim;
        for shape in SHAPES.into_iter().chain([(64, 64, 1), (70, 97, 1)]) {
            let mut case = Case::new(head_dim, shape, 1.7 / (head_dim as f32).sqrt());
            let inputs = [&mut case.q, &mut case.k, &mut case.v].map(|x| match kernel.element {
                Element::F32 => words(x).to_vec(),
                Element::F16 => {
                    let (words, rounded) = half_words(x);
                    *x = rounded;
                    words
                }
            });
            let [o, lse] = on_gpu(kernel, &case, inputs.each_ref().map(Vec::as_slice));
            let [twin_o, twin_lse] = case.twin();
            let what = case.label(&format!("{kernel:?}"));
            assert_close(&format!("o of {what}"), &o, &twin_o, 1e-5, 1e-5);
            assert_close(&format!("lse of {what}"), &lse, &twin_lse, 1e-5, 1e-5);
        }
    }
}

#[test]
fn a_key_that_is_no_number_shows_in_its_head_and_nowhere_else() {
    let kernel = AttentionRows { head_dim: 4, element: Element::F32 };
    let mut case = Case::new(4, (5, 7, 2), 0.5);
    let heads = case.params.heads as usize;
    case.k[3 * 4 * heads] = f32::NAN;
    let [o, lse] = on_gpu(kernel, &case, [&case.q, &case.k, &case.v].map(|x| words(x)));
    assert!(o.chunks(4).step_by(heads).all(|head| head.iter().all(|value| value.is_nan())));
    assert!(lse.iter().step_by(heads).all(|value| value.is_nan()));
    assert!(o.chunks(4).skip(1).step_by(heads).flatten().all(|value| value.is_finite()));
    assert!(lse.iter().skip(1).step_by(heads).all(|value| value.is_finite()));
}
