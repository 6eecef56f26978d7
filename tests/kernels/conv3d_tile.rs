use crate::conv3d::check_form;
use crate::runs;
use qvgen::kernels::conv3d::Conv3d;
use qvgen::kernels::conv3d_tile::Conv3dTile;
use qvgen::kernels::{Element, Kernel};

#[test]
fn conv3d_tile_matches_its_twin_and_the_definition() {
    // Wide tiles of one window are enough, and one of halves: compiling takes longer than running.
    let compared = |kernel: &Conv3dTile| match kernel.element {
        Element::F32 => kernel.out_vectors == 1 || kernel.conv.window == [3, 3, 3],
        Element::F16 => kernel.out_vectors == 2 && kernel.conv.window == [3, 3, 3],
    };
    for kernel in Conv3dTile::all().into_iter().filter(compared).filter(|&kernel| runs(kernel)) {
        let form = (kernel.conv, kernel.element);
        check_form(kernel, form, |_| true, |params| kernel.grid(params));
    }
}

#[test]
fn conv3d_tile_wastes_few_channels() {
    let widths = |channels: &[u32]| -> Vec<u32> {
        let conv = Conv3d::new([3, 3, 3], 96);
        channels
            .iter()
            .map(|&channels| Conv3dTile::new(conv, channels, Element::F32).out_vectors)
            .collect()
    };
    assert_eq!(widths(&[3, 32, 33, 64, 96, 128, 192, 384, 1152]), [1, 1, 2, 2, 3, 2, 3, 3, 3]);
}
