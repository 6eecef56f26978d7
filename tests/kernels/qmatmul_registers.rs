use crate::common::wgpu_device;
use crate::qmatmul::assert_exact_at_the_ends;
use qvgen::kernels::qmatmul_form::Form;
use qvgen::kernels::{AdapterFacts, Tier};

#[test]
fn chunks_end_before_a_float_rounds() {
    let passes = AdapterFacts::of(&wgpu_device()).offers(Tier::Subgroups);
    for columns in [2, 4] {
        assert_exact_at_the_ends(Form::Registers { broadcast: false, columns });
        if passes {
            assert_exact_at_the_ends(Form::Registers { broadcast: true, columns });
        }
    }
}
