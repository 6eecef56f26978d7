use crate::common::assert_close;
use crate::conv3d::{Case, all_params, for_each_product, rounded, same};
use crate::{floats, run, values, words};
use qvgen::kernels::Kernel;
use qvgen::kernels::conv3d::{Conv3d, pack_weight};
use qvgen::kernels::conv3d_backward_weight::{Conv3dBackwardWeight, reference};
use qvgen::kernels::{GRID_WIDTH, linear_grid};

/// The gradients of the weight, as checkpoints store it, and of the bias, in f64.
pub(crate) fn definition(kernel: Conv3d, case: &Case, dy: &[f32]) -> [Vec<f32>; 2] {
    let mut dw = vec![0.0; case.weight.len()];
    for_each_product(kernel, case.params, |product| {
        let input = product.input.map_or_else(|past| case.history[past], |i| case.x[i]);
        dw[product.weight] += f64::from(input) * f64::from(dy[product.output]);
    });
    let channel_len = dy.len() / case.bias.len();
    let sum = |dy: &[f32]| dy.iter().map(|&dy| f64::from(dy)).sum();
    let d_bias: Vec<f64> = dy.chunks(channel_len).map(sum).collect();
    [rounded(&dw), rounded(&d_bias)]
}

#[test]
fn conv3d_backward_weight_matches_its_twin_and_the_definition() {
    for kernel in Conv3dBackwardWeight::all() {
        let conv = kernel.conv;
        for params in all_params(conv.window) {
            let case = Case::new(conv, params);
            let dy = values(case.out_len(), 5);
            let (dw, d_bias) = reference(kernel, &case.x, &case.history, &dy, params);
            let what = format!("{kernel:?} {params:?}");
            let [defined, defined_bias] = definition(conv, &case, &dy);
            let defined = pack_weight(conv, &defined, params.in_channels as usize);
            assert_close(&what, &dw, &defined, 1e-4, 1e-4);
            assert_close(&what, &d_bias, &defined_bias, 1e-4, 1e-4);
            // A folded grid has workgroups in excess: they must do nothing.
            let [x, y, z] = kernel.grid(&params);
            let inputs = [words(&case.x), words(&case.history), words(&dy)];
            let lens = [dw.len(), d_bias.len()];
            let actual = run(kernel, &inputs, &lens, params, [x + 7, y, z]);
            assert_close(&what, floats(&actual[0]), &dw, 1e-4, 1e-4);
            assert_close(&what, floats(&actual[1]), &d_bias, 1e-4, 1e-4);
        }
    }
}

#[test]
fn conv3d_backward_weight_reaches_the_last_channel() {
    let out_channels = 4 * (GRID_WIDTH + 3);
    let kernel = Conv3dBackwardWeight { conv: Conv3d { window: [1, 1, 1], out_block: 4 } };
    let params = same([1, 1, 1], [1, 1, 1, 1], out_channels, 0);
    assert_eq!(kernel.grid(&params), linear_grid(out_channels as usize / 4));
    let dy = values(out_channels as usize, 1);
    let inputs = [words(&[3.0]), words(&[0.0]), words(&dy)];
    let lens = [dy.len(), dy.len()];
    let actual = run(kernel, &inputs, &lens, params, kernel.grid(&params));
    let expected: Vec<f32> = dy.iter().map(|dy| 3.0 * dy).collect();
    assert_close("dw", floats(&actual[0]), &expected, 1e-6, 1e-6);
    assert_close("d_bias", floats(&actual[1]), &dy, 1e-6, 1e-6);
}
