//! Packed rows from grids, or from codes, that a method has found.

use crate::quant::{Grid, PackedRows, WeightSpec, pack_rows};
use rayon::prelude::*;

/// One grid for each group of `weight` `[rows, in_features]`, by its number and its values.
pub(super) fn grids_of(
    weight: &[f32],
    in_features: usize,
    group_size: usize,
    grid_of: impl Fn(usize, &[f32]) -> Grid + Sync,
) -> Vec<Grid> {
    let groups = in_features.div_ceil(group_size);
    weight
        .par_chunks_exact(in_features)
        .enumerate()
        .flat_map_iter(|(row, values)| {
            let grid = |(group, values)| grid_of(row * groups + group, values);
            values.chunks(group_size).enumerate().map(grid).collect::<Vec<_>>()
        })
        .collect()
}

/// The nearest codes of `weight` `[rows, in_features]` on `grids` `[rows, groups]`.
pub(super) fn on_grids(
    weight: &[f32],
    in_features: usize,
    group_size: usize,
    spec: WeightSpec,
    grids: Vec<Grid>,
) -> PackedRows {
    let groups = in_features.div_ceil(group_size);
    let codes: Vec<u32> = weight
        .par_iter()
        .enumerate()
        .map(|(i, &value)| {
            let grid = grids[i / in_features * groups + i % in_features / group_size];
            grid.code(spec.scheme, spec.bits, value)
        })
        .collect();
    of_codes(&codes, in_features, group_size, spec, grids)
}

/// Rows of `codes` `[rows, in_features]` on `grids` `[rows, groups]`.
pub(super) fn of_codes(
    codes: &[u32],
    in_features: usize,
    group_size: usize,
    spec: WeightSpec,
    grids: Vec<Grid>,
) -> PackedRows {
    let sums = codes.chunks_exact(in_features).flat_map(|row| row.chunks(group_size));
    PackedRows {
        bits: spec.bits,
        in_features,
        group_size,
        codes: pack_rows(spec.bits, codes, in_features),
        grids,
        code_sums: sums.map(|group| group.iter().map(|&code| code as i32).sum()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::{Bits, Calibration, Scheme, calibrate, quantize_weight};

    #[test]
    fn the_grids_of_a_quantizer_give_its_rows() {
        let (rows, in_features) = (5, 72);
        let w: Vec<f32> = (0..rows * in_features).map(|i| (i as f32 * 12.9898).sin()).collect();
        for group_size in [None, Some(32)] {
            let spec = WeightSpec {
                bits: Bits::B3,
                scheme: Scheme::Asymmetric,
                group_size,
                calibration: Calibration::MinMax,
            };
            let size = group_size.unwrap_or(in_features);
            let grid = |_, w: &[f32]| calibrate(spec.calibration, spec.scheme, spec.bits, w);
            let grids = grids_of(&w, in_features, size, grid);
            let packed = on_grids(&w, in_features, size, spec, grids);
            assert_eq!(packed, quantize_weight(&w, in_features, spec));
            assert!(packed.code_sums_are_right());
        }
    }
}
