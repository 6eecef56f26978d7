//! Packed rows on a device, in the layout every quantized kernel shares.

use crate::quant::{Bits, CODES_PER_BLOCK, Grid, PackedRows, words_per_row};
use burn::tensor::{Device, Int, Tensor, TensorData};

/// Words of one grid on the device: scale (f32), zero point (f32), code sum (i32), as bits.
pub const GRID_WORDS: usize = 3;

/// [`PackedRows`] on a device: a weight `[out_features, in_features]` or tokens.
#[derive(Clone, Debug)]
pub struct PackedTensor {
    /// Width of a code.
    pub bits: Bits,
    /// Values per row.
    pub in_features: usize,
    /// Values of a row that share a grid; `in_features` for one grid per row.
    pub group_size: usize,
    /// `[rows, words_per_row]` code words, bit-cast to i32.
    pub codes: Tensor<2, Int>,
    /// `[rows, groups · 3]`, see [`GRID_WORDS`].
    pub grid: Tensor<2, Int>,
}

impl PackedTensor {
    /// Uploads `rows`.
    pub fn from_rows(rows: &PackedRows, device: &Device) -> Self {
        let count = rows.rows();
        let codes: Vec<i32> = bytemuck::cast_slice(&rows.codes).to_vec();
        let code_shape = [count, words_per_row(rows.bits, rows.in_features)];
        let grid: Vec<i32> = bytemuck::cast_vec(grid_words(rows));
        let grid_shape = [count, rows.groups() * GRID_WORDS];
        Self {
            bits: rows.bits,
            in_features: rows.in_features,
            group_size: rows.group_size,
            codes: Tensor::from_data(TensorData::new(codes, code_shape), device),
            grid: Tensor::from_data(TensorData::new(grid, grid_shape), device),
        }
    }

    /// Downloads the rows.
    ///
    /// # Panics
    ///
    /// If the device fails.
    pub fn to_rows(&self) -> PackedRows {
        let read = |tensor: &Tensor<2, Int>| -> Vec<u32> {
            let data = tensor.clone().into_data();
            bytemuck::cast_vec(data.try_to_vec::<i32>().expect("packed words are i32"))
        };
        rows_from_words(
            self.bits,
            self.in_features,
            self.group_size,
            read(&self.codes),
            &read(&self.grid),
        )
    }

    /// Asserts that the tensors have the shapes that the fields say: kernels have no bounds checks.
    ///
    /// # Panics
    ///
    /// If they have not, a group is empty, or groups do not begin at a block of codes.
    pub(crate) fn assert_consistent(&self) {
        assert!(self.group_size > 0, "group size 0 of {} in_features", self.in_features);
        let rows = self.rows();
        let words = words_per_row(self.bits, self.in_features);
        assert_eq!(self.codes.dims(), [rows, words], "shape of packed codes");
        assert_eq!(self.grid.dims(), [rows, self.groups() * GRID_WORDS], "shape of grids");
        assert!(
            self.groups() == 1 || self.group_size.is_multiple_of(CODES_PER_BLOCK),
            "group size {} is no multiple of {CODES_PER_BLOCK}",
            self.group_size
        );
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.codes.dims()[0]
    }

    /// Grids per row.
    pub fn groups(&self) -> usize {
        self.in_features.div_ceil(self.group_size)
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        4 * (self.codes.dims().iter().product::<usize>()
            + self.grid.dims().iter().product::<usize>())
    }
}

/// The device layout of the grids of `rows`.
pub(crate) fn grid_words(rows: &PackedRows) -> Vec<u32> {
    rows.grids
        .iter()
        .zip(&rows.code_sums)
        .flat_map(|(grid, sum)| [grid.scale.to_bits(), grid.zero_point.to_bits(), *sum as u32])
        .collect()
}

/// Rows from the device layout.
pub(crate) fn rows_from_words(
    bits: Bits,
    in_features: usize,
    group_size: usize,
    codes: Vec<u32>,
    grid: &[u32],
) -> PackedRows {
    let grids = grid.chunks_exact(GRID_WORDS).map(|words| Grid {
        scale: f32::from_bits(words[0]),
        zero_point: f32::from_bits(words[1]),
    });
    PackedRows {
        bits,
        in_features,
        group_size,
        codes,
        grids: grids.collect(),
        code_sums: grid.chunks_exact(GRID_WORDS).map(|words| words[2] as i32).collect(),
    }
}
