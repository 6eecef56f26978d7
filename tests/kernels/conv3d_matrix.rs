use crate::common::wgpu_device;
use crate::conv3d::check_form;
use crate::runs;
use qvgen::kernels::conv3d::Conv3d;
use qvgen::kernels::conv3d_matrix::Conv3dMatrix;
use qvgen::kernels::{AdapterFacts, Element, Kernel};

#[test]
fn conv3d_matrix_matches_its_twin_and_the_definition() {
    let facts = AdapterFacts::of(&wgpu_device());
    let (size, subgroup) = (facts.matrix_size, facts.subgroup_sizes[0]);
    // Tiles of all heights of one window are enough: compiling takes longer than running.
    let compared = |kernel: &Conv3dMatrix| {
        (kernel.size, kernel.subgroup) == (size, subgroup)
            && (kernel.rows == 1 || kernel.conv.window == [3, 3, 3])
    };
    for kernel in Conv3dMatrix::all().into_iter().filter(compared).filter(|&kernel| runs(kernel)) {
        let form = (kernel.conv, Element::F16);
        check_form(kernel, form, |_| true, |params| kernel.grid(params));
    }
}

#[test]
fn conv3d_matrix_wastes_few_channels() {
    let facts = AdapterFacts {
        has_f16: true,
        subgroup_sizes: [32, 32],
        matrix_size: 16,
        workgroup_memory_bytes: 32 << 10,
        ..AdapterFacts::default()
    };
    let rows = |facts: &AdapterFacts, channels: &[u32]| -> Vec<Option<u32>> {
        let conv = Conv3d::new([3, 3, 3], 96);
        let kernel = |&channels| Conv3dMatrix::on(facts, conv, channels).map(|kernel| kernel.rows);
        channels.iter().map(kernel).collect()
    };
    let expected = [1, 1, 3, 4, 3, 4, 4, 4, 4].map(Some);
    assert_eq!(rows(&facts, &[3, 32, 96, 128, 192, 256, 384, 512, 1152]), expected);
    let small = AdapterFacts { workgroup_memory_bytes: 16 << 10, ..facts };
    assert_eq!(rows(&small, &[96]), [None]);
}
