use crate::qmatmul::assert_exact_at_the_ends;
use qvgen::kernels::AdapterFacts;
use qvgen::kernels::qmatmul::Params;
use qvgen::kernels::qmatmul_form::{Form, Product};
use qvgen::quant::Bits;

#[test]
fn parts_of_a_row_add_up_exactly() {
    for parts in [1, 8] {
        assert_exact_at_the_ends(Form::SplitK { parts });
    }
}

#[test]
fn few_results_take_the_form_that_splits_k() {
    let product = Product::plain(Bits::B4, Bits::B4);
    let params = |m, n| Params { m, n, k: 1536, group_size: 1536 };
    let splits = |facts: &AdapterFacts, params| {
        matches!(Form::preferred(facts, product, params), Form::SplitK { .. })
    };
    let gpu = AdapterFacts::default();
    assert!(splits(&gpu, params(1, 9216)) && !splits(&gpu, params(256, 64)));
    let software = AdapterFacts { is_software: true, ..AdapterFacts::default() };
    assert!(splits(&software, params(16, 64)) && !splits(&software, params(256, 1536)));
}
