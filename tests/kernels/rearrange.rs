use crate::common::devices;
use crate::{matrix, run, values, words};
use burn::tensor::{Tensor, TensorData};
use qvgen::kernels::rearrange::{Params, Rearrange, concatenate, in_a_row, reference};

#[test]
fn rearrange_matches_its_twin() {
    // Row-major, transposed, a column of a matrix, six axes in another order, one repeated.
    let cases = [
        Params::new(&[7, 45], &[45, 1], &[45, 1], 0),
        Params::new(&[45, 7], &[1, 45], &[7, 1], 0),
        Params::new(&[9, 1], &[5, 1], &[3, 1], 2),
        Params::new(&[2, 3, 2, 5, 2, 3], &[1, 60, 2, 12, 6, 4], &[180, 60, 30, 6, 3, 1], 0),
        Params::new(&[4, 6], &[0, 1], &[6, 1], 0),
    ];
    for params in cases {
        let x = values(400, 3);
        let mut expected = vec![0xDEAD_BEEF; 400];
        reference(words(&x), &mut expected, params);
        let actual = run(Rearrange, &[words(&x)], &[400], params, params.grid());
        assert_eq!(actual[0], expected, "{params:?}");
    }
}

#[test]
fn views_come_in_a_row_on_all_devices() {
    for (name, device) in devices() {
        let x: Vec<f32> = values(2 * 3 * 4 * 5, 7);
        let x = Tensor::<4>::from_data(TensorData::new(x, [2, 3, 4, 5]), &device);
        for view in [
            x.clone().permute([3, 1, 0, 2]),
            x.clone().narrow(2, 1, 2),
            x.clone().narrow(1, 2, 1).permute([1, 0, 3, 2]),
            x.clone().slice([0..2, 0..1]).expand([2, 3, 4, 5]),
        ] {
            let expected = view.clone().into_data();
            let found = in_a_row(view);
            assert_eq!(found.dims().to_vec(), expected.shape().to_vec(), "{name}");
            found.into_data().assert_eq(&expected, true);
        }
    }
}

#[test]
fn parts_are_joined_along_every_axis_on_all_devices() {
    for (name, device) in devices() {
        let part = |rows: usize, columns: usize, seed| {
            matrix(&values(rows * columns, seed), columns, &device)
        };
        let columns = concatenate(vec![part(3, 4, 1), part(3, 1, 2), part(3, 6, 3)], 1);
        let expected = Tensor::cat(vec![part(3, 4, 1), part(3, 1, 2), part(3, 6, 3)], 1);
        columns.into_data().assert_eq(&expected.into_data(), true);
        let rows = concatenate(vec![part(5, 2, 4).transpose(), part(2, 5, 5)], 0);
        let expected = Tensor::cat(vec![part(5, 2, 4).transpose(), part(2, 5, 5)], 0);
        rows.into_data().assert_eq(&expected.into_data(), true);
        let alone = concatenate(vec![part(2, 2, 6)], 0);
        assert_eq!(alone.dims(), [2, 2], "{name}");
    }
}

#[test]
#[should_panic(expected = "sizes beside axis 1")]
fn parts_of_different_height_are_refused() {
    let [(_, device), _] = devices();
    concatenate(vec![matrix(&[1.0, 2.0], 1, &device), matrix(&[1.0], 1, &device)], 1);
}
