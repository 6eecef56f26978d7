use crate::common::devices;
use crate::{run, values, words};
use burn::tensor::{Tensor, TensorData};
use qvgen::kernels::ceiling_copy::{CeilingCopy, Params, ceiling_copy, reference};

#[test]
fn ceiling_copy_matches_its_twin() {
    for vectors in [1, 255, 257, 1000] {
        let x = values(4 * vectors, 5);
        let params = Params { vectors: vectors as u32 };
        let y = run(CeilingCopy, &[words(&x)], &[4 * vectors], params, CeilingCopy::grid(vectors));
        assert_eq!(y[0], reference(words(&x)), "{vectors}");
    }
}

#[test]
fn ceiling_copy_copies_on_all_devices() {
    let x: Vec<i32> = (0..1204).map(|i| i * 77 - 9).collect();
    for (name, device) in devices() {
        let data = TensorData::new(x.clone(), [x.len()]);
        let y = ceiling_copy(Tensor::from_data(data, &device)).into_data();
        assert_eq!(y.try_to_vec::<i32>().unwrap(), x, "{name}");
    }
}
