use crate::common::assert_close;
use crate::conv3d::{Case, all_params, for_each_product, rounded, same};
use crate::{floats, run, values, words};
use qvgen::kernels::Kernel;
use qvgen::kernels::conv3d::{Conv3d, Params, pack_weight};
use qvgen::kernels::conv3d_backward_input::{Conv3dBackwardInput, reference};
use qvgen::kernels::{GRID_WIDTH, linear_grid};

/// The gradients of x and of the history, in f64.
pub(crate) fn definition(kernel: Conv3d, case: &Case, dy: &[f32]) -> [Vec<f32>; 2] {
    let [mut dx, mut d_history] = [vec![0.0; case.x.len()], vec![0.0; case.history.len()]];
    for_each_product(kernel, case.params, |product| {
        let part = f64::from(case.weight[product.weight]) * f64::from(dy[product.output]);
        match product.input {
            Ok(i) => dx[i] += part,
            Err(past) => d_history[past] += part,
        }
    });
    [rounded(&dx), rounded(&d_history)]
}

/// History before x, channel by channel, as the kernel writes them.
fn joined(case: &Case, [x, history]: &[Vec<f32>; 2]) -> Vec<f32> {
    let Params { in_channels, in_frames, history_frames, .. } = case.params;
    let frame = x.len() / (in_channels * in_frames) as usize;
    let [present, past] = [in_frames, history_frames].map(|frames| frames as usize * frame);
    (0..in_channels as usize)
        .flat_map(|c| [&history[c * past..][..past], &x[c * present..][..present]].concat())
        .collect()
}

#[test]
fn conv3d_backward_input_matches_its_twin_and_the_definition() {
    for kernel in Conv3dBackwardInput::all() {
        let conv = kernel.conv;
        for params in all_params(conv.window) {
            let case = Case::new(conv, params);
            let dy = values(case.out_len(), 5);
            let packed = pack_weight(conv, &case.weight, params.in_channels as usize);
            let expected = reference(kernel, &dy, &packed, params);
            let what = format!("{kernel:?} {params:?}");
            let defined = joined(&case, &definition(conv, &case, &dy));
            assert_close(&what, &expected, &defined, 1e-4, 1e-4);
            // A folded grid has workgroups in excess: they must do nothing.
            let [x, y, z] = kernel.grid(&params);
            let inputs = [words(&dy), words(&packed)];
            let actual = run(kernel, &inputs, &[expected.len()], params, [x + 7, y, z]);
            assert_close(&what, floats(&actual[0]), &expected, 1e-4, 1e-4);
        }
    }
}

#[test]
fn conv3d_backward_input_reaches_the_last_frame() {
    let frames = GRID_WIDTH + 3;
    let kernel = Conv3dBackwardInput { conv: Conv3d { window: [1, 1, 1], out_block: 4 } };
    let params = same([1, 1, 1], [1, frames, 1, 1], 1, 0);
    assert_eq!(kernel.grid(&params), linear_grid(frames as usize));
    let dy = values(frames as usize, 1);
    let w = pack_weight(kernel.conv, &[3.0], 1);
    let inputs = [words(&dy), words(&w)];
    let actual = run(kernel, &inputs, &[dy.len()], params, kernel.grid(&params));
    let expected: Vec<f32> = dy.iter().map(|dy| 3.0 * dy).collect();
    assert_close("dx", floats(&actual[0]), &expected, 1e-6, 1e-6);
}
