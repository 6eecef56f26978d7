use crate::common::wgpu_device;
use crate::qmatmul::assert_exact_at_the_ends;
use crate::runs;
use qvgen::kernels::AdapterFacts;
use qvgen::kernels::qmatmul_form::{Form, Product};
use qvgen::kernels::qmatmul_matrix::QMatmulMatrix;
use qvgen::quant::Bits;

#[test]
fn chunks_end_before_a_float_rounds() {
    let facts = AdapterFacts::of(&wgpu_device());
    let (size, subgroup) = (facts.matrix_size, facts.subgroup_sizes[0]);
    let product = Product::plain(Bits::B8, Bits::B8);
    if runs(QMatmulMatrix { product, size, subgroup }) {
        assert_exact_at_the_ends(Form::Matrix { size, subgroup });
    }
}
