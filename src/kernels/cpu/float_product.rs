//! Float tokens times a packed weight, and the values of packed rows.

use super::form::{Form, LANES, Task};
use super::parallel::{column_blocks, for_each};
use super::rows::Rows;
use super::tile::{PANEL, Quads};
use crate::kernels::vectorized::tile;
use crate::quant::CODES_PER_BLOCK;
use std::ops::Range;

/// Columns whose values a task holds at a time: of 64 channels they take 128 KiB.
const SPAN: usize = 512;
/// Products above which all processors take part.
const PARALLEL_OPS: usize = 1 << 20;
/// Values to expand above which they do.
const PARALLEL_LEN: usize = 1 << 16;
/// Tokens that share a weight once it is expanded.
const TOKENS: usize = 384;
/// Channels of a task.
const CHANNELS: usize = 64;

const _: () = assert!(PANEL == LANES, "a panel of codes becomes a panel of values");

/// `y = x · ŵᵀ + bias`, `[tokens, out_features]`, of tokens `[tokens, in_features]`.
///
/// # Panics
///
/// If `x` is no whole number of rows, or `bias` is not `[out_features]`.
pub fn qmatmul_float(form: Form, x: &[f32], w: Rows<'_>, bias: &[f32]) -> Vec<f32> {
    form.run(Product { form, x, w, bias })
}

struct Product<'a> {
    form: Form,
    x: &'a [f32],
    w: Rows<'a>,
    bias: &'a [f32],
}

impl Task for Product<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<const FMA: bool, const ROWS: usize>(self) -> Vec<f32> {
        let Self { form, x, w, bias } = self;
        let (n, k) = (w.count(), w.in_features());
        assert!(x.len().is_multiple_of(k), "{} values are no rows of {k}", x.len());
        assert_eq!(bias.len(), n, "length of bias and out_features");
        let mut y = vec![0.0; x.len() / k * n];
        if y.is_empty() {
            return y;
        }
        let is_long = y.len() * k >= PARALLEL_OPS;
        let parts = y.chunks_mut(TOKENS * n).zip(x.chunks(TOKENS * k));
        for_each(is_long, parts.collect(), |_, (y, x)| {
            let mut tiles = vec![[0.0; ROWS]; (x.len() / k).div_ceil(ROWS) * k];
            let by_tile = tiles.chunks_mut(k).zip(x.chunks(ROWS * k));
            for_each(is_long, by_tile.collect(), |_, (tile, x)| {
                for (lane, row) in x.chunks(k).enumerate() {
                    tile.iter_mut().zip(row).for_each(|(to, x)| to[lane] = *x);
                }
            });
            for_each(is_long, column_blocks(y, n, CHANNELS), |block, y| {
                let first = block * CHANNELS;
                let bias = &bias[first..n.min(first + CHANNELS)];
                form.run(Block::<ROWS> { form, tiles: &tiles, w, first, bias, y });
            });
        });
        y
    }
}

/// Some tokens times some channels.
struct Block<'a, const L: usize> {
    form: Form,
    /// `[tokens / L][in_features][L]`
    tiles: &'a [[f32; L]],
    w: Rows<'a>,
    /// First channel.
    first: usize,
    /// Of the channels.
    bias: &'a [f32],
    /// `[tokens][channels]`
    y: Vec<&'a mut [f32]>,
}

impl<const L: usize> Task for Block<'_, L> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool, const ROWS: usize>(mut self) {
        let k = self.w.in_features();
        let mut quads = vec![Quads([0; PANEL]); SPAN / 4];
        let mut values = vec![[0.0; LANES]; SPAN];
        for (panel, bias) in self.bias.chunks(PANEL).enumerate() {
            let channels = panel * PANEL..panel * PANEL + bias.len();
            for start in (0..k).step_by(SPAN) {
                let columns = start..k.min(start + SPAN);
                let values = &mut values[..columns.len()];
                let first = self.first + channels.start;
                expand(self.form, self.w, first, columns.clone(), &mut quads, values);
                for (x, y) in self.tiles.chunks(k).zip(self.y.chunks_mut(L)) {
                    let sums = tile::<FMA, L, LANES>(&x[columns.clone()], values);
                    for (y, sums) in y.iter_mut().zip(&sums) {
                        y[channels.clone()].iter_mut().zip(sums).for_each(|(y, sum)| *y += sum);
                    }
                }
            }
            for y in &mut self.y {
                y[channels.clone()].iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
            }
        }
    }
}

/// The values in `columns` of up to [`PANEL`] rows from `first` on, side by side.
#[inline(always)]
fn expand(
    form: Form,
    w: Rows<'_>,
    first: usize,
    columns: Range<usize>,
    quads: &mut [Quads],
    values: &mut [[f32; LANES]],
) {
    let blocks = columns.start / CODES_PER_BLOCK..columns.end.div_ceil(CODES_PER_BLOCK);
    w.panel(form, first, blocks, quads, 1);
    let mut column = columns.start;
    let mut values = values;
    while column < columns.end {
        let group = w.group_of(column);
        let end = w.columns(group).end.min(columns.end);
        let (part, rest) = values.split_at_mut(end - column);
        let (mut scale, mut zero_point) = ([0.0; LANES], [0.0; LANES]);
        for lane in 0..PANEL.min(w.count() - first) {
            let (grid, _) = w.grid(first + lane, group);
            (scale[lane], zero_point[lane]) = (grid.scale, grid.zero_point);
        }
        let quads = &quads[(column - columns.start) / 4..];
        let (fours, last) = part.as_chunks_mut::<4>();
        for (values, quad) in fours.iter_mut().zip(quads) {
            *values = quad_values(quad, &scale, &zero_point);
        }
        if let [.., quad] = &quads[..(end - column).div_ceil(4)] {
            let values = quad_values(quad, &scale, &zero_point);
            last.copy_from_slice(&values[..last.len()]);
        }
        (column, values) = (end, rest);
    }
}

/// The values that four codes of each row stand for.
#[inline(always)]
fn quad_values(quad: &Quads, scale: &[f32; LANES], zero_point: &[f32; LANES]) -> [[f32; LANES]; 4] {
    #[inline(always)]
    fn byte<const BYTE: u32>(
        quad: &Quads,
        scale: &[f32; LANES],
        zero_point: &[f32; LANES],
    ) -> [f32; LANES] {
        let mut values = [0.0; LANES];
        for lane in 0..LANES {
            let code = (quad.0[lane] >> (8 * BYTE) & 0xFF) as i32;
            values[lane] = scale[lane] * (code as f32 - zero_point[lane]);
        }
        values
    }
    [
        byte::<0>(quad, scale, zero_point),
        byte::<1>(quad, scale, zero_point),
        byte::<2>(quad, scale, zero_point),
        byte::<3>(quad, scale, zero_point),
    ]
}

/// The values of packed rows, `[rows, in_features]`: exactly those of
/// [`PackedRows::values`](crate::quant::PackedRows::values).
pub fn dequantize(form: Form, rows: Rows<'_>) -> Vec<f32> {
    let k = rows.in_features();
    let mut values = vec![0.0; rows.count() * k];
    let is_long = values.len() >= PARALLEL_LEN;
    for_each(is_long, values.chunks_mut(k).collect(), |row, values| {
        form.run(Values { rows, row, values });
    });
    values
}

struct Values<'a> {
    rows: Rows<'a>,
    row: usize,
    values: &'a mut [f32],
}

impl Task for Values<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool, const ROWS: usize>(self) {
        let Self { rows, row, values } = self;
        let mut quads = vec![[0; CODES_PER_BLOCK / 4]; values.len().div_ceil(CODES_PER_BLOCK)];
        rows.quads(row, &mut quads);
        let codes = bytemuck::cast_slice::<_, u8>(&quads);
        for group in 0..rows.groups() {
            let columns = rows.columns(group);
            let (grid, _) = rows.grid(row, group);
            for (value, &code) in values[columns.clone()].iter_mut().zip(&codes[columns]) {
                *value = grid.value(u32::from(code));
            }
        }
    }
}
