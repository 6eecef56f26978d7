//! Where the tokens of a video are: as rotations of queries and keys, or as a table of sinusoids
//! that is added to the tokens.
//!
//! | model | positions |
//! |---|---|
//! | 2B | table of frame, column and row, each divided by a scale of its axis |
//! | 5B | rotations; the patches are stretched over the grid that it was trained on |
//! | 1.5-5B | rotations by frame, row and column as they are |
//!
//! Tokens of the text have none.

use super::CogVideoXConfig;
use crate::nn::{FrameTokens, Limits, RopeAxis, RopeGrid, Rotation};
use burn::tensor::{Device, Int, Tensor, TensorData};
use std::ops::Range;

/// Base of the table's frequencies.
const THETA: f64 = 10_000.0;

/// The positions of some tokens of a video.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one value per part; tensors are handles")]
pub enum Positions {
    /// Queries and keys are rotated.
    Rotated(Rotation),
    /// A row of a table is added to each token.
    Added(PositionTable),
}

impl Positions {
    /// What is done to queries and keys.
    pub(super) fn rotation(&self) -> Option<&Rotation> {
        match self {
            Self::Rotated(rotation) => Some(rotation),
            Self::Added(_) => None,
        }
    }

    /// The frames of the tokens.
    pub(super) fn frames(&self) -> FrameTokens {
        match self {
            Self::Rotated(rotation) => rotation.frames,
            Self::Added(table) => table.frames,
        }
    }

    /// `tokens` `[tokens, dim]`, plus the table's rows if there is a table.
    pub(super) fn add_to(&self, tokens: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Rotated(_) => tokens,
            Self::Added(table) => tokens + table.rows(),
        }
    }
}

/// Rows `[frame | column | row]` of sinusoids, made when they are needed: the whole table is as
/// large as the tokens.
#[derive(Clone, Debug)]
pub struct PositionTable {
    /// `[len, _]` of each axis.
    axes: [Tensor<2>; 3],
    /// Which row of each, `[tokens]`.
    indices: [Tensor<1, Int>; 3],
    frames: FrameTokens,
}

impl PositionTable {
    fn rows(&self) -> Tensor<2> {
        let rows = self.axes.iter().zip(&self.indices);
        Tensor::cat(rows.map(|(axis, index)| axis.clone().select(0, index.clone())).collect(), 1)
    }
}

/// Most tokens of a part of the video: with the text before them they are a tensor within limits.
pub(super) fn part_tokens(config: &CogVideoXConfig, limits: Limits) -> usize {
    limits.tokens(config.dim()).saturating_sub(config.max_text_seq_length).max(1)
}

/// The positions of the tokens of a `grid` of patch frames, patch rows and patch columns, one per
/// part of the video.
pub fn positions(
    config: &CogVideoXConfig,
    grid: [usize; 3],
    limits: Limits,
    device: &Device,
) -> Vec<Positions> {
    let (tokens, most) = (grid.iter().product(), part_tokens(config, limits));
    let parts = (0..tokens).step_by(most).map(|first| first..(first + most).min(tokens));
    if config.use_rotary_positional_embeddings {
        let grid = rope_grid(config, grid);
        return parts.map(|part| Positions::Rotated(grid.rotation(part, device))).collect();
    }
    let axes = table_axes(config, grid, device);
    parts
        .map(|part| {
            let frames = FrameTokens { first: part.start, per_frame: grid[1] * grid[2] };
            let (axes, indices) = (axes.clone(), table_indices(grid, &part, device));
            Positions::Added(PositionTable { axes, indices, frames })
        })
        .collect()
}

fn rope_grid(config: &CogVideoXConfig, grid: [usize; 3]) -> RopeGrid {
    let head_dim = config.attention_head_dim;
    let (time, spatial) = (head_dim / 4, head_dim / 8 * 3);
    let [frames, rows, columns] = grid;
    let [row_axis, column_axis] = if config.patch_size_t.is_some() {
        [rows, columns].map(|len| RopeAxis::indices(len, spatial))
    } else {
        let base = [config.sample_height, config.sample_width].map(|size| size / config.patch_size);
        let [row_span, column_span] = fitted([rows, columns], base);
        let axis = |span, len| RopeAxis::new(spread(span, len), spatial);
        [axis(row_span, rows), axis(column_span, columns)]
    };
    RopeGrid::new(RopeAxis::indices(frames, time), row_axis, column_axis)
}

/// Where rows and columns lie when they are scaled to fit into the middle of the `base` grid.
fn fitted([rows, columns]: [usize; 2], base: [usize; 2]) -> [Range<f64>; 2] {
    let [rows, columns] = [rows as f64, columns as f64];
    let [base_rows, base_columns] = base.map(|size| size as f64);
    // Ties to even, as in Python.
    let sizes = if rows / columns > base_rows / base_columns {
        [base_rows, (base_rows / rows * columns).round_ties_even()]
    } else {
        [(base_columns / columns * rows).round_ties_even(), base_columns]
    };
    let span = |base: f64, size: f64| {
        let start = ((base - size) / 2.0).round_ties_even();
        start..start + size
    };
    [span(base_rows, sizes[0]), span(base_columns, sizes[1])]
}

/// `len` positions, evenly from the start of `span` to `(len − 1) / len` of its end.
fn spread(span: Range<f64>, len: usize) -> impl Iterator<Item = f64> {
    let last = span.end * (len - 1) as f64 / len as f64;
    let step = (last - span.start) / (len - 1).max(1) as f64;
    (0..len).map(move |index| span.start + index as f64 * step)
}

fn table_axes(
    config: &CogVideoXConfig,
    [frames, rows, columns]: [usize; 3],
    device: &Device,
) -> [Tensor<2>; 3] {
    let temporal = config.dim() / 4;
    let spatial = 3 * temporal / 2;
    let axis = |len: usize, scale: f64, dim: usize| {
        let values: Vec<f32> =
            (0..len).flat_map(|i| sinusoids(f64::from(i as f32 / scale as f32), dim)).collect();
        Tensor::from_data(TensorData::new(values, [len, dim]), device)
    };
    let scale = config.spatial_interpolation_scale;
    [
        axis(frames, config.temporal_interpolation_scale, temporal),
        axis(columns, scale, spatial),
        axis(rows, scale, spatial),
    ]
}

/// Sines, then cosines, of `position · 10000^(−2j/dim)`.
fn sinusoids(position: f64, dim: usize) -> impl Iterator<Item = f32> {
    let half = dim / 2;
    let angle = move |j: usize| position / THETA.powf(j as f64 / half as f64);
    let sines = (0..half).map(move |j| angle(j).sin() as f32);
    sines.chain((0..half).map(move |j| angle(j).cos() as f32))
}

/// Frame, column and row of the tokens of a part.
fn table_indices(
    [_, rows, columns]: [usize; 3],
    part: &Range<usize>,
    device: &Device,
) -> [Tensor<1, Int>; 3] {
    let indices = |of: &dyn Fn(usize) -> usize| {
        let values = part.clone().map(|token| i32::try_from(of(token)));
        let values: Vec<i32> =
            values.collect::<Result<_, _>>().expect("a grid has fewer rows than i32::MAX");
        Tensor::from_data(TensorData::new(values, [part.len()]), device)
    };
    [
        indices(&|token| token / (rows * columns)),
        indices(&|token| token % columns),
        indices(&|token| token / columns % rows),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_of_training_keeps_its_indices_and_others_are_fitted_into_its_middle() {
        let base = [30, 45];
        assert_eq!(fitted([30, 45], base), [0.0..30.0, 0.0..45.0]);
        let indices: Vec<f64> = spread(0.0..45.0, 45).collect();
        assert!((0..45).all(|i| (indices[i] - i as f64).abs() < 1e-12));
        // Portrait: as high as the base, 30 / 45 · 30 = 20 columns from the 12th (12.5) on.
        assert_eq!(fitted([45, 30], base), [0.0..30.0, 12.0..32.0]);
        // Wide: 45 / 60 · 20 = 15 rows from the 8th (7.5) on.
        assert_eq!(fitted([20, 60], base), [8.0..23.0, 0.0..45.0]);
        let rows: Vec<f64> = spread(8.0..23.0, 20).collect();
        assert!(rows[0] == 8.0 && (rows[19] - 23.0 * 19.0 / 20.0).abs() < 1e-12);
        assert_eq!(spread(8.0..23.0, 1).collect::<Vec<_>>(), [8.0]);
    }
}
