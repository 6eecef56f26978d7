//! Packed tokens times a packed weight, in integers.

use super::form::{Form, Task};
use super::parallel::{column_blocks, for_each};
use super::row_product::{self, MOST_TOKENS};
use super::rows::Rows;
use super::tile::{PANEL, Quads, Sums, Tile};
use crate::quant::{Bits, CODES_PER_BLOCK, Grid, padded_len};
use std::ops::Range;

/// Most codes of a row that a task expands at a time: of 64 channels they take 128 KiB, which a
/// second-level cache holds beside the tokens.
const SPAN: usize = 2048;
/// Products of codes above which all processors take part.
const PARALLEL_OPS: usize = 1 << 22;
/// Tokens that share a weight once it is expanded.
const TOKENS: usize = 384;
/// Channels of a task.
const CHANNELS: usize = 64;

/// `y = x · wᵀ + bias`, `[tokens, out_features]`: every value is exactly that of the plain twin,
/// [`qmatmul::reference`](crate::kernels::qmatmul::reference).
///
/// # Panics
///
/// If `x` and `w` differ in columns, `x` has several grids a row, or `bias` is not
/// `[out_features]`.
pub fn qmatmul(form: Form, x: Rows<'_>, w: Rows<'_>, bias: &[f32]) -> Vec<f32> {
    assert_eq!(x.in_features(), w.in_features(), "in_features of x and w");
    assert_eq!(x.groups(), 1, "tokens have one grid each");
    assert_eq!(bias.len(), w.count(), "length of bias and out_features");
    let n = w.count();
    let mut y = vec![0.0; x.count() * n];
    if y.is_empty() {
        return y;
    }
    let is_long = y.len() * x.in_features() >= PARALLEL_OPS;
    let tokens = Tokens::new(form, x, w, is_long);
    for_each(is_long, y.chunks_mut(TOKENS * n).collect(), |part, y| {
        for_each(is_long, column_blocks(y, n, CHANNELS), |block, y| {
            let (first_token, first_channel) = (part * TOKENS, block * CHANNELS);
            let bias = &bias[first_channel..n.min(first_channel + CHANNELS)];
            form.run(Block { form, tokens: &tokens, w, bias, first_token, first_channel, y });
        });
    });
    y
}

/// A zero point as the nearest code and the rest.
#[inline(always)]
fn split_zero_point(grid: Grid, bits: Bits) -> (i32, f32) {
    let whole = grid.zero_point.round_ties_even().clamp(0.0, bits.max_code() as f32);
    (whole as i32, grid.zero_point - whole)
}

/// Tokens in tiles, as the instructions read them.
struct Tokens {
    /// Whether the weight is taken row by row: there are only a few tokens.
    by_row: bool,
    /// Tokens of a tile; the last one may have fewer.
    height: usize,
    /// Words of four codes in a row.
    depth: usize,
    /// `[tiles][depth][tokens of the tile]`; if there are only a few tokens, `[tokens][depth]`, the
    /// groups of the weight in the order of [`row_product::in_order_of`].
    quads: Vec<u32>,
    /// `[tokens][groups of the weight]`: sums of the codes.
    sums: Vec<i32>,
    groups: usize,
    grids: Vec<Grid>,
    bits: Bits,
    /// What was subtracted from the codes.
    offset: i32,
}

impl Tokens {
    fn new(form: Form, x: Rows<'_>, w: Rows<'_>, is_long: bool) -> Self {
        let (count, groups) = (x.count(), w.groups());
        let by_row = count <= MOST_TOKENS;
        let height = if by_row { 1 } else { form.tile_size().0 };
        let depth = padded_len(x.in_features()) / 4;
        let offset = if x.bits() == Bits::B8 { form.token_offset() } else { 0 };
        let mut quads = vec![0; count * depth];
        let mut sums = vec![0; count * groups];
        let tiles = quads.chunks_mut(height * depth).zip(sums.chunks_mut(height * groups));
        for_each(is_long, tiles.collect(), |tile, (quads, sums)| {
            let first = tile * height;
            form.run(TokenTile { x, w, first, offset, by_row, quads, sums });
        });
        let grids = (0..count).map(|token| x.grid(token, 0).0).collect();
        Self { by_row, height, depth, quads, sums, groups, grids, bits: x.bits(), offset }
    }

    /// The tiles of `tokens`, whose first one begins a tile, each with its number of tokens;
    /// columns `quads`.
    fn tiles(
        &self,
        tokens: Range<usize>,
        quads: Range<usize>,
    ) -> impl Iterator<Item = (usize, &[u32])> {
        let tiles = self.quads[tokens.start * self.depth..tokens.end * self.depth]
            .chunks(self.height * self.depth);
        tiles.map(move |tile| {
            let count = tile.len() / self.depth;
            (count, &tile[quads.start * count..quads.end * count])
        })
    }
}

/// The columns of a group of `w`, to the end of the last block.
fn group_codes(w: Rows<'_>, group: usize) -> Range<usize> {
    let columns = w.columns(group);
    columns.start..padded_len(columns.end)
}

/// Expands the codes of some tokens and adds them up.
struct TokenTile<'a> {
    x: Rows<'a>,
    w: Rows<'a>,
    first: usize,
    offset: i32,
    by_row: bool,
    quads: &'a mut [u32],
    sums: &'a mut [i32],
}

impl Task for TokenTile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool, const ROWS: usize>(self) {
        let Self { x, w, first, offset, by_row, quads, sums } = self;
        let groups = w.groups();
        let count = sums.len() / groups;
        let mut row = vec![[0; CODES_PER_BLOCK / 4]; padded_len(x.in_features()) / CODES_PER_BLOCK];
        for token in 0..count {
            x.quads(first + token, &mut row);
            let codes = bytemuck::cast_slice_mut::<_, u8>(&mut row);
            // Zeros beyond the columns, so that what the weight holds there does not count.
            codes[x.in_features()..].fill(0);
            for (group, sum) in sums[token * groups..][..groups].iter_mut().enumerate() {
                *sum = codes[w.columns(group)].iter().map(|&code| i32::from(code)).sum();
            }
            if offset != 0 {
                let codes = &mut codes[..x.in_features()];
                codes.iter_mut().for_each(|code| *code = code.wrapping_sub(offset as u8));
            }
            if by_row {
                let mut quads = &mut quads[..];
                for group in 0..groups {
                    let ordered = row_product::in_order_of(w.bits(), &codes[group_codes(w, group)]);
                    let (to, rest) = quads.split_at_mut(ordered.len());
                    to.copy_from_slice(&ordered);
                    quads = rest;
                }
                continue;
            }
            let words = row.as_flattened();
            for (to, &word) in quads[token..].iter_mut().step_by(count).zip(words) {
                *to = word;
            }
        }
    }
}

/// Some tokens times some channels.
struct Block<'a> {
    form: Form,
    tokens: &'a Tokens,
    w: Rows<'a>,
    /// Of the channels.
    bias: &'a [f32],
    first_token: usize,
    first_channel: usize,
    /// `[tokens][channels]`.
    y: Vec<&'a mut [f32]>,
}

impl Task for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool, const ROWS: usize>(mut self) {
        let panels = self.bias.len().div_ceil(PANEL);
        let mut sums: Vec<Sums> = Vec::new();
        let mut quads: Vec<Quads> = Vec::new();
        let mut scratch = Vec::new();
        for group in 0..self.w.groups() {
            let columns = self.w.columns(group);
            sums.clear();
            sums.resize(self.y.len() * panels, bytemuck::Zeroable::zeroed());
            if self.tokens.by_row {
                self.multiply_rows(group, panels, &mut scratch, &mut sums);
                self.finish(group, &sums);
                continue;
            }
            for start in columns.clone().step_by(SPAN) {
                let end = columns.end.min(start + SPAN);
                let blocks = start / CODES_PER_BLOCK..end.div_ceil(CODES_PER_BLOCK);
                self.multiply(blocks, panels, &mut quads, &mut sums);
            }
            self.finish(group, &sums);
        }
    }
}

impl Block<'_> {
    /// Adds the products of the codes in `blocks` to `sums`, `[tokens][panels]` within a tile's
    /// tokens and its group of panels.
    #[inline(always)]
    fn multiply(
        &self,
        blocks: Range<usize>,
        panels: usize,
        quads: &mut Vec<Quads>,
        sums: &mut [Sums],
    ) {
        let width = self.form.tile_size().1;
        let depth = blocks.len() * (CODES_PER_BLOCK / 4);
        let columns = blocks.start * (CODES_PER_BLOCK / 4)..blocks.end * (CODES_PER_BLOCK / 4);
        let tokens = self.first_token..self.first_token + self.y.len();
        quads.resize(depth * width, bytemuck::Zeroable::zeroed());
        let mut sums = sums;
        for start in (0..panels).step_by(width) {
            let width = width.min(panels - start);
            let quads = &mut quads[..depth * width];
            for panel in 0..width {
                let first = self.first_channel + (start + panel) * PANEL;
                self.w.panel(self.form, first, blocks.clone(), &mut quads[panel..], width);
            }
            let (part, rest) = sums.split_at_mut(self.y.len() * width);
            sums = rest;
            let mut part = part;
            for (count, x) in self.tokens.tiles(tokens.clone(), columns.clone()) {
                let (sums, rest) = part.split_at_mut(count * width);
                part = rest;
                self.form.multiply(Tile { tokens: count, panels: width, x, w: quads, sums });
            }
        }
    }

    /// The products of a group, row by row of the weight, into `sums`, which are laid out as
    /// [`Self::multiply`] does it.
    #[inline(always)]
    fn multiply_rows(
        &self,
        group: usize,
        panels: usize,
        scratch: &mut Vec<u32>,
        sums: &mut [Sums],
    ) {
        let codes = group_codes(self.w, group);
        let blocks = codes.start / CODES_PER_BLOCK..codes.end / CODES_PER_BLOCK;
        let quads = codes.start / 4..codes.end / 4;
        let count = self.y.len();
        let mut tokens: [&[u32]; MOST_TOKENS] = [&[]; MOST_TOKENS];
        for (token, x) in tokens.iter_mut().zip(self.tokens.quads.chunks(self.tokens.depth)) {
            *token = &x[quads.clone()];
        }
        let width = self.form.tile_size().1;
        for channel in 0..self.bias.len() {
            let row = self.first_channel + channel;
            let mut found = [0; MOST_TOKENS];
            let tokens = &tokens[..count];
            let blocks = blocks.clone();
            row_product::sums(self.form, self.w, row, blocks, tokens, scratch, &mut found);
            let (panel, lane) = (channel / PANEL, channel % PANEL);
            let start = panel / width * width;
            let width = width.min(panels - start);
            for (token, sum) in found[..count].iter().enumerate() {
                sums[count * start + token * width + panel - start].0[lane] = *sum;
            }
        }
    }

    /// Adds a group's part to `y`, from the sums of its products; the last one's completes it.
    #[inline(always)]
    fn finish(&mut self, group: usize, sums: &[Sums]) {
        let Self { tokens, w, y, .. } = self;
        let panels = self.bias.len().div_ceil(PANEL);
        let width = self.form.tile_size().1;
        let count = w.columns(group).len() as i32;
        let rows = y.len();
        for panel in 0..panels {
            let grids = PanelGrids::new(*w, self.first_channel + panel * PANEL, group);
            let mut bias = [0.0; PANEL];
            let channels = (self.bias.len() - panel * PANEL).min(PANEL);
            bias[..channels].copy_from_slice(&self.bias[panel * PANEL..][..channels]);
            // Sums lie as `multiply` left them.
            let start = panel / width * width;
            let width = width.min(panels - start);
            let sums = sums[rows * start + panel - start..].iter().step_by(width);
            for ((row, y), sums) in y.iter_mut().enumerate().zip(sums) {
                let token = self.first_token + row;
                let grid = tokens.grids[token];
                let (whole, rest) = split_zero_point(grid, tokens.bits);
                let sum = tokens.sums[token * tokens.groups + group];
                let centered = sum.wrapping_sub(count.wrapping_mul(whole));
                let mut total = grids.corrected(&sums.0, whole - tokens.offset, rest, centered);
                let y = &mut y[panel * PANEL..][..channels];
                if group > 0 {
                    total.iter_mut().zip(&*y).for_each(|(total, y)| *total += *y);
                }
                if group + 1 == w.groups() {
                    for (total, bias) in total.iter_mut().zip(bias) {
                        *total = grid.scale * *total + bias;
                    }
                }
                y.copy_from_slice(&total[..channels]);
            }
        }
    }
}

/// What the correction of a product needs to know of the channels of a panel, for one group.
struct PanelGrids {
    scale: [f32; PANEL],
    whole: [i32; PANEL],
    rest: [f32; PANEL],
    sum: [i32; PANEL],
    /// `Σ (q_w − z_w)`.
    centered: [f32; PANEL],
}

impl PanelGrids {
    /// Of the panel that begins with channel `first`; zeros where there are no more channels.
    fn new(w: Rows<'_>, first: usize, group: usize) -> Self {
        let [scale, rest, centered] = [[0.0; PANEL]; 3];
        let mut grids = Self { scale, rest, centered, whole: [0; PANEL], sum: [0; PANEL] };
        let count = w.columns(group).len() as i32;
        for lane in 0..PANEL.min(w.count() - first) {
            let (grid, sum) = w.grid(first + lane, group);
            let (whole, rest) = split_zero_point(grid, w.bits());
            let centered = sum.wrapping_sub(count.wrapping_mul(whole)) as f32;
            grids.scale[lane] = grid.scale;
            grids.whole[lane] = whole;
            grids.rest[lane] = rest;
            grids.sum[lane] = sum;
            grids.centered[lane] = centered - count as f32 * rest;
        }
        grids
    }

    /// `s_w Σ (q_x − z_x)(q_w − z_w)` from `sums` `Σ (q_x − o) q_w`, where the token's zero point
    /// is `o + shift + rest` and `centered` is `Σ (q_x − o − shift)`.
    ///
    /// Integers wrap: the product that remains is within range.
    #[inline(always)]
    fn corrected(&self, sums: &[i32; PANEL], shift: i32, rest: f32, centered: i32) -> [f32; PANEL] {
        let mut total = [0.0; PANEL];
        for lane in 0..PANEL {
            let product = sums[lane]
                .wrapping_sub(shift.wrapping_mul(self.sum[lane]))
                .wrapping_sub(self.whole[lane].wrapping_mul(centered));
            let by_rests = self.rest[lane] * centered as f32;
            let product = product as f32 - by_rests - rest * self.centered[lane];
            total[lane] = self.scale[lane] * product;
        }
        total
    }
}
