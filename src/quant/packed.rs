//! Quantized matrices: packed codes with one grid per row or group.

use super::{Bits, Calibration, Grid, Scheme, calibrate, pack_rows, unpack_rows, words_per_row};
use rayon::prelude::*;

/// How a weight is quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightSpec {
    /// Width of a code.
    pub bits: Bits,
    /// Range to grid.
    pub scheme: Scheme,
    /// Elements of a row that share a grid; `None` for one grid per output channel.
    pub group_size: Option<usize>,
    /// How the range is found.
    pub calibration: Calibration,
}

/// How activations are quantized: one grid per token, found from the live values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenSpec {
    /// Width of a code.
    pub bits: Bits,
    /// Range to grid; every scheme but [`Scheme::AsymmetricReal`].
    pub scheme: Scheme,
    /// Where the range comes from.
    pub range: TokenRange,
}

/// Range of an activation before it becomes a grid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TokenRange {
    /// Per token: the extremes times these factors.
    Dynamic {
        /// Factor of the maximum.
        clip_upper: f32,
        /// Factor of the minimum.
        clip_lower: f32,
    },
    /// Per tensor: the same for every token.
    Static {
        /// Lower end.
        min: f32,
        /// Upper end.
        max: f32,
    },
}

impl TokenRange {
    /// The whole range of each token.
    pub const FULL: Self = Self::Dynamic { clip_upper: 1.0, clip_lower: 1.0 };
}

/// Rows of packed codes: a weight `[out_features, in_features]` or tokens `[tokens, in_features]`.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedRows {
    /// Width of a code.
    pub bits: Bits,
    /// Values per row.
    pub in_features: usize,
    /// Values of a row that share a grid; `in_features` for one grid per row.
    pub group_size: usize,
    /// `[rows, words_per_row]`, see [`pack_rows`].
    pub codes: Vec<u32>,
    /// `[rows, groups]`.
    pub grids: Vec<Grid>,
    /// `[rows, groups]`: sum of the codes, for the zero-point correction of an integer product.
    pub code_sums: Vec<i32>,
}

impl PackedRows {
    /// The codes of `values`, rows of `in_features`, on one given grid per row.
    ///
    /// # Panics
    ///
    /// If there is not one grid per row.
    pub fn of_grids(
        values: &[f32],
        in_features: usize,
        bits: Bits,
        scheme: Scheme,
        grids: &[Grid],
    ) -> Self {
        assert_eq!(values.len(), grids.len() * in_features, "values of {} rows", grids.len());
        let grid_of = |row: usize, _: &[f32]| grids[row];
        quantize_rows(values, in_features, in_features, bits, scheme, grid_of)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.grids.len() / self.groups()
    }

    /// Grids per row.
    pub fn groups(&self) -> usize {
        self.in_features.div_ceil(self.group_size)
    }

    /// The values the codes stand for, row-major `[rows, in_features]`.
    pub fn values(&self) -> Vec<f32> {
        let groups = self.groups();
        unpack_rows(self.bits, &self.codes, self.in_features)
            .into_iter()
            .enumerate()
            .map(|(i, code)| {
                let (row, column) = (i / self.in_features, i % self.in_features);
                self.grids[row * groups + column / self.group_size].value(code)
            })
            .collect()
    }

    /// Whether `code_sums` adds up `codes`: a wrong one would shift every result unnoticed.
    pub fn code_sums_are_right(&self) -> bool {
        let words = words_per_row(self.bits, self.in_features);
        let groups = self.groups();
        self.codes.par_chunks(words).zip(self.code_sums.par_chunks(groups)).all(|(row, sums)| {
            let codes = unpack_rows(self.bits, row, self.in_features);
            let groups = codes.chunks(self.group_size).zip(sums);
            groups.into_iter().all(|(codes, &sum)| codes.iter().sum::<u32>() == sum as u32)
        })
    }

    /// Some of the rows.
    ///
    /// # Panics
    ///
    /// If `range` exceeds the rows.
    #[must_use]
    pub fn slice(&self, range: std::ops::Range<usize>) -> Self {
        let (words, groups) = (words_per_row(self.bits, self.in_features), self.groups());
        let per_group = range.start * groups..range.end * groups;
        Self {
            codes: self.codes[range.start * words..range.end * words].to_vec(),
            grids: self.grids[per_group.clone()].to_vec(),
            code_sums: self.code_sums[per_group].to_vec(),
            ..*self
        }
    }

    /// Bytes of codes and grids.
    pub fn bytes(&self) -> usize {
        self.codes.len() * 4 + self.grids.len() * 12
    }

    /// Bits per value, grids included: the only fair axis to compare errors along.
    pub fn bits_per_value(&self) -> f64 {
        self.bytes() as f64 * 8.0 / (self.rows() * self.in_features) as f64
    }
}

/// Quantizes `rows` of `in_features` values, each group with the grid that `grid_of` gives for
/// the number of its row and its values.
fn quantize_rows(
    values: &[f32],
    in_features: usize,
    group_size: usize,
    bits: Bits,
    scheme: Scheme,
    grid_of: impl Fn(usize, &[f32]) -> Grid + Sync,
) -> PackedRows {
    assert!(
        in_features > 0 && group_size > 0 && values.len().is_multiple_of(in_features),
        "quantize_rows: {} values are no rows of {in_features}",
        values.len()
    );
    let rows: Vec<(Vec<u32>, Vec<Grid>, Vec<i32>)> = values
        .par_chunks(in_features)
        .enumerate()
        .map(|(index, row)| {
            let mut codes = Vec::with_capacity(in_features);
            let (mut grids, mut sums) = (Vec::new(), Vec::new());
            for group in row.chunks(group_size) {
                let grid = grid_of(index, group);
                let start = codes.len();
                codes.extend(group.iter().map(|&value| grid.code(scheme, bits, value)));
                grids.push(grid);
                sums.push(codes[start..].iter().map(|&code| code as i32).sum());
            }
            (pack_rows(bits, &codes, in_features), grids, sums)
        })
        .collect();
    let mut packed = PackedRows {
        bits,
        in_features,
        group_size,
        codes: Vec::with_capacity(rows.len() * words_per_row(bits, in_features)),
        grids: Vec::new(),
        code_sums: Vec::new(),
    };
    for (codes, grids, sums) in rows {
        packed.codes.extend(codes);
        packed.grids.extend(grids);
        packed.code_sums.extend(sums);
    }
    packed
}

/// Bytes of the codes and grids of a weight `[out_features, in_features]`, its padding not counted: what
/// plans know before there are any codes.
pub fn packed_bytes(bits: u32, group_size: Option<usize>, shape: [usize; 2]) -> u64 {
    let [rows, columns] = shape.map(|len| len as u64);
    let groups = group_size.map_or(1, |size| columns.div_ceil(size.max(1) as u64));
    (rows.saturating_mul(columns) / 8 * u64::from(bits)).saturating_add(rows * groups * 12)
}

/// Quantizes a weight `[out_features, in_features]`.
///
/// # Panics
///
/// If `weight` is no whole number of rows, or the group size is no multiple of 32.
pub fn quantize_weight(weight: &[f32], in_features: usize, spec: WeightSpec) -> PackedRows {
    let group_size = spec.group_size.unwrap_or(in_features).min(in_features);
    assert!(
        group_size == in_features || group_size.is_multiple_of(super::CODES_PER_BLOCK),
        "group size {group_size} is no multiple of {}",
        super::CODES_PER_BLOCK
    );
    quantize_rows(weight, in_features, group_size, spec.bits, spec.scheme, |_, group| {
        calibrate(spec.calibration, spec.scheme, spec.bits, group)
    })
}

/// Quantizes activations `[tokens, in_features]`, one grid per token.
///
/// # Panics
///
/// If `x` is no whole number of rows.
pub fn quantize_tokens(x: &[f32], in_features: usize, spec: TokenSpec) -> PackedRows {
    quantize_rows(x, in_features, in_features, spec.bits, spec.scheme, |_, token| {
        if matches!(spec.range, TokenRange::Dynamic { .. })
            && token.iter().any(|value| !value.is_finite())
        {
            // Not a number in, not a number out: it must show in every product.
            return Grid { scale: f32::NAN, zero_point: 0.0 };
        }
        let (min, max) = match spec.range {
            TokenRange::Static { min, max } => (min, max),
            TokenRange::Dynamic { clip_upper, clip_lower } => {
                let (min, max) = super::range(token);
                (clip_lower * min, clip_upper * max)
            }
        };
        Grid::from_range(spec.scheme, spec.bits, min, max)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_quantizer_reproduces_the_golden_vectors() {
        let x = [
            -1.3, 0.2, 0.75, 2.6, -0.4, 0.0, 1.1, -0.05, //
            0.5, 0.6, 0.9, 1.4, 0.55, 0.7, 0.8, 1.0,
        ];
        let range = TokenRange::Dynamic { clip_upper: 0.9025, clip_lower: 0.9025 };
        let spec = TokenSpec { bits: Bits::B4, scheme: Scheme::AsymmetricClamped, range };
        let packed = quantize_tokens(&x, 8, spec);
        let codes = unpack_rows(Bits::B4, &packed.codes, 8);
        assert_eq!(codes[..8], [0, 6, 8, 15, 3, 5, 10, 5]);
        assert_eq!(codes[8..], [9, 11, 15, 15, 10, 13, 15, 15]);
        assert!((packed.grids[0].scale - 0.234_65).abs() < 1e-6);
        assert_eq!(packed.grids[0].zero_point, 5.0);
        assert_eq!(packed.code_sums, [52, 103]);
    }

    #[test]
    fn containing_zero_cures_the_cut_of_positive_tokens() {
        let token = [0.5, 0.6, 0.9, 1.4];
        let error = |scheme| {
            let spec = TokenSpec { bits: Bits::B4, scheme, range: TokenRange::FULL };
            let values = quantize_tokens(&token, 4, spec).values();
            token.iter().zip(values).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
        };
        assert!(error(Scheme::AsymmetricClamped) > 0.4);
        assert!(error(Scheme::Asymmetric) < 0.1);
    }

    #[test]
    fn groups_are_measured_one_by_one() {
        let mut w = vec![0.01_f32; 64];
        w[40] = 100.0;
        let spec = WeightSpec {
            bits: Bits::B4,
            scheme: Scheme::Asymmetric,
            group_size: Some(32),
            calibration: Calibration::MinMax,
        };
        let packed = quantize_weight(&w, 64, spec);
        assert_eq!((packed.groups(), packed.rows()), (2, 1));
        assert!((packed.values()[0] - 0.01).abs() < 1e-6);
    }
}
