use crate::conv3d::check_form;
use qvgen::kernels::Kernel;
use qvgen::kernels::conv3d::Conv3d;
use qvgen::kernels::conv3d_tile::Conv3dTile;

#[test]
fn conv3d_tile_matches_its_twin_and_the_definition() {
    // Wide tiles of one window are enough: compiling takes longer than running.
    let compared = |kernel: &Conv3dTile| kernel.out_vectors == 1 || kernel.conv.window == [3, 3, 3];
    for kernel in Conv3dTile::all().into_iter().filter(compared) {
        check_form(kernel, kernel.conv, |_| true, |params| kernel.grid(params));
    }
}

#[test]
fn conv3d_tile_wastes_few_channels() {
    let widths = |channels: &[u32]| -> Vec<u32> {
        let conv = Conv3d::new([3, 3, 3], 96);
        channels.iter().map(|&channels| Conv3dTile::new(conv, channels).out_vectors).collect()
    };
    assert_eq!(widths(&[3, 32, 33, 64, 96, 128, 192, 384, 1152]), [1, 1, 2, 2, 3, 2, 3, 3, 3]);
}
