use crate::common::devices;
use crate::run;
use qvgen::kernels::self_test::{EXPECTED, Params, SelfTest, first_failure, self_test};

#[test]
fn self_test_matches_its_twin() {
    let params = Params { half: 0.5 };
    let result = run(SelfTest, &[&[EXPECTED[0].0]], &[EXPECTED.len()], params, [1, 1, 1]);
    assert_eq!(first_failure(&result[0]), None);
}

#[test]
fn self_test_passes_on_all_devices() {
    for (name, device) in devices() {
        assert_eq!(self_test(&device), Ok(()), "{name}");
    }
}

#[test]
fn self_test_notices_a_loop_that_ends_early() {
    let params = Params { half: 0.5 };
    let result = run(SelfTest, &[&[65_535]], &[EXPECTED.len()], params, [1, 1, 1]);
    assert!(first_failure(&result[0]).unwrap().contains("loop ended"), "{result:?}");
}
