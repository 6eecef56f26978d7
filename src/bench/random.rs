//! Inputs that are the same in every run and on every machine.

use crate::quant::{Bits, Grid, PackedRows, pack_rows};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rayon::prelude::*;

/// 32 bits that look random, of a position and a seed.
fn hash(i: usize, seed: u32) -> u32 {
    let mut x = (i as u32).wrapping_mul(0x9E37_79B9) ^ seed.wrapping_mul(0x85EB_CA6B);
    x ^= x >> 16;
    x = x.wrapping_mul(0x7FEB_352D);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846C_A68B);
    x ^ (x >> 16)
}

/// Values in `[-scale, scale)`.
pub(super) fn values(len: usize, seed: u32, scale: f32) -> Vec<f32> {
    let value = |i| ((hash(i, seed) >> 8) as f32 / (1 << 23) as f32 - 1.0) * scale;
    (0..len).into_par_iter().map(value).collect()
}

/// A matrix of [`values`] on `device`.
pub(super) fn matrix(shape: [usize; 2], seed: u32, scale: f32, device: &Device) -> Tensor<2> {
    let values = values(shape[0] * shape[1], seed, scale);
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// A weight `[rows, in_features]` of random codes, with a grid per row whose values lie within
/// about `±scale`.
pub(super) fn packed_weight(
    bits: Bits,
    rows: usize,
    in_features: usize,
    seed: u32,
    scale: f32,
) -> PackedRows {
    let middle = bits.max_code() as f32 / 2.0;
    let packed: Vec<(Vec<u32>, i32)> = (0..rows)
        .into_par_iter()
        .map(|row| {
            let code = |i| hash(row * in_features + i, seed) >> 7 & bits.max_code();
            let codes: Vec<u32> = (0..in_features).map(code).collect();
            let sum = codes.iter().sum::<u32>();
            (pack_rows(bits, &codes, in_features), sum.cast_signed())
        })
        .collect();
    let grid = |row: usize| Grid {
        scale: scale / middle * (0.75 + 0.5 * (hash(row, seed) >> 8) as f32 / (1 << 24) as f32),
        zero_point: middle - 0.4 + (row % 7) as f32 * 0.1,
    };
    PackedRows {
        bits,
        in_features,
        group_size: in_features,
        code_sums: packed.iter().map(|(_, sum)| *sum).collect(),
        codes: packed.into_iter().flat_map(|(words, _)| words).collect(),
        grids: (0..rows).map(grid).collect(),
    }
}

/// `count` different numbers below `len`, sorted, the first and the last among them: where
/// kernels have their tails.
pub(super) fn sampled(len: usize, count: usize, seed: u32) -> Vec<usize> {
    let mut chosen: Vec<usize> = (0..count).map(|i| hash(i, seed) as usize % len.max(1)).collect();
    chosen.extend([0, len.saturating_sub(1)]);
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// Indices for a selection on `device`.
pub(super) fn indices(rows: &[usize], device: &Device) -> Tensor<1, Int> {
    let rows: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
    let len = rows.len();
    Tensor::from_data(TensorData::new(rows, [len]), device)
}

/// Some rows of `packed`.
pub(super) fn rows_of(packed: &PackedRows, rows: &[usize]) -> PackedRows {
    let mut chosen =
        PackedRows { codes: Vec::new(), grids: Vec::new(), code_sums: Vec::new(), ..*packed };
    for &row in rows {
        let one = packed.slice(row..row + 1);
        chosen.codes.extend(one.codes);
        chosen.grids.extend(one.grids);
        chosen.code_sums.extend(one.code_sums);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_hold_both_ends_and_stay_within() {
        let rows = sampled(100, 8, 3);
        assert!(rows.len() <= 10 && rows[0] == 0 && rows.last() == Some(&99));
        assert!(rows.is_sorted_by(|a, b| a < b));
        assert_eq!(sampled(1, 8, 3), [0]);
    }

    #[test]
    fn random_weights_carry_the_right_sums() {
        for bits in Bits::ALL {
            let packed = packed_weight(bits, 5, 70, 1, 0.1);
            assert!(packed.code_sums_are_right(), "{bits}");
            assert!(packed.values().iter().all(|value| value.abs() < 0.3), "{bits}");
            let some = rows_of(&packed, &[1, 4]);
            assert_eq!((some.rows(), &some.grids[1]), (2, &packed.grids[4]));
        }
    }

    #[test]
    fn values_cover_their_range_around_zero() {
        let values = values(4000, 7, 2.0);
        let mean = values.iter().sum::<f32>() / 4000.0;
        assert!(mean.abs() < 0.1 && values.iter().all(|v| (-2.0..2.0).contains(v)));
    }
}
