//! Packed rows where they lie in memory, and their codes as bytes.

use super::form::Form;
use super::tile::{PANEL, Quads};
use crate::kernels::GRID_WORDS;
use crate::quant::{Bits, CODES_PER_BLOCK, Grid, PackedRows, words_per_row};
use std::ops::Range;

/// Words of four codes in a block.
const QUADS_PER_BLOCK: usize = CODES_PER_BLOCK / 4;

/// A packed weight `[rows, in_features]`, or packed tokens, in the layout of
/// [`PackedTensor`](crate::kernels::PackedTensor).
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    bits: Bits,
    in_features: usize,
    group_size: usize,
    codes: &'a [u32],
    grid: &'a [u32],
}

impl<'a> Rows<'a> {
    /// Rows of `codes` and of `grid`, as a device holds them.
    ///
    /// # Panics
    ///
    /// If the lengths do not belong to a whole and equal number of rows, there is no column, or
    /// groups do not begin at a block of codes.
    pub fn new(
        bits: Bits,
        in_features: usize,
        group_size: usize,
        codes: &'a [u32],
        grid: &'a [u32],
    ) -> Self {
        assert!(in_features > 0 && group_size > 0, "{in_features} columns in {group_size}s");
        let rows = Self { bits, in_features, group_size, codes, grid };
        assert!(
            rows.groups() == 1 || group_size.is_multiple_of(CODES_PER_BLOCK),
            "group size {group_size} is no multiple of {CODES_PER_BLOCK}"
        );
        assert_eq!(codes.len(), rows.count() * rows.words(), "words of {} rows", rows.count());
        assert_eq!(grid.len(), rows.count() * rows.groups() * GRID_WORDS, "words of grids");
        rows
    }

    /// Values per row.
    pub(super) const fn in_features(&self) -> usize {
        self.in_features
    }

    /// Width of a code.
    pub(super) const fn bits(&self) -> Bits {
        self.bits
    }

    /// Number of rows.
    pub(super) fn count(&self) -> usize {
        self.grid.len() / (self.groups() * GRID_WORDS)
    }

    /// Grids per row.
    pub(super) const fn groups(&self) -> usize {
        self.in_features.div_ceil(self.group_size)
    }

    /// Columns of each group.
    pub(super) fn columns(&self, group: usize) -> Range<usize> {
        let start = group * self.group_size;
        start..self.in_features.min(start + self.group_size)
    }

    /// The group of a column.
    pub(super) const fn group_of(&self, column: usize) -> usize {
        column / self.group_size
    }

    /// The grid of a group and the sum of its codes.
    pub(super) fn grid(&self, row: usize, group: usize) -> (Grid, i32) {
        let at = (row * self.groups() + group) * GRID_WORDS;
        let [scale, zero_point, sum] = [0, 1, 2].map(|word| self.grid[at + word]);
        let grid = Grid { scale: f32::from_bits(scale), zero_point: f32::from_bits(zero_point) };
        (grid, sum as i32)
    }

    fn words(&self) -> usize {
        words_per_row(self.bits, self.in_features)
    }

    fn row(&self, row: usize) -> &'a [u32] {
        &self.codes[row * self.words()..][..self.words()]
    }

    /// The words of some blocks of a row.
    pub(super) fn blocks(&self, row: usize, blocks: Range<usize>) -> &'a [u32] {
        let words = self.bits.get() as usize;
        &self.row(row)[blocks.start * words..blocks.end * words]
    }

    /// The codes of some blocks of a row in words of four: the first words of all blocks, then the
    /// second ones, and so on.
    #[inline(always)]
    pub(super) fn blocks_by_quad(&self, row: usize, blocks: Range<usize>, quads: &mut [u32]) {
        #[inline(always)]
        fn expand<const B: usize>(words: &[u32], quads: &mut [u32]) {
            let words = words.as_chunks::<B>().0;
            let mut parts = quads.chunks_exact_mut(words.len().max(1));
            let mut next = || parts.next().expect("eight words of codes a block");
            let parts: [&mut [u32]; QUADS_PER_BLOCK] = std::array::from_fn(|_| next());
            for (block, words) in words.iter().enumerate() {
                let quads = spread_block(&words.map(|word| [word]));
                for (part, [quad]) in quads.into_iter().enumerate() {
                    parts[part][block] = quad;
                }
            }
        }
        let words = self.blocks(row, blocks);
        match self.bits {
            Bits::B2 => expand::<2>(words, quads),
            Bits::B3 => expand::<3>(words, quads),
            Bits::B4 => expand::<4>(words, quads),
            Bits::B6 => expand::<6>(words, quads),
            Bits::B8 => expand::<8>(words, quads),
        }
    }

    /// The codes of a row in words of four, the last block filled up with what is stored.
    #[inline(always)]
    pub(super) fn quads(&self, row: usize, quads: &mut [[u32; QUADS_PER_BLOCK]]) {
        #[inline(always)]
        fn expand<const B: usize>(words: &[u32], quads: &mut [[u32; QUADS_PER_BLOCK]]) {
            for (quads, words) in quads.iter_mut().zip(words.as_chunks::<B>().0) {
                let expanded = spread_block(&words.map(|word| [word]));
                *quads = expanded.map(|[quad]| quad);
            }
        }
        let words = self.row(row);
        match self.bits {
            Bits::B2 => expand::<2>(words, quads),
            Bits::B3 => expand::<3>(words, quads),
            Bits::B4 => expand::<4>(words, quads),
            Bits::B6 => expand::<6>(words, quads),
            Bits::B8 => expand::<8>(words, quads),
        }
    }

    /// The blocks `blocks` of up to [`PANEL`] rows from `first` on, into every `stride`-th of
    /// `quads`; missing rows become zeros.
    #[inline(always)]
    pub(super) fn panel(
        &self,
        form: Form,
        first: usize,
        blocks: Range<usize>,
        quads: &mut [Quads],
        stride: usize,
    ) {
        match self.bits {
            Bits::B2 => self.panel_of::<2>(form, first, blocks, quads, stride),
            Bits::B3 => self.panel_of::<3>(form, first, blocks, quads, stride),
            Bits::B4 => self.panel_of::<4>(form, first, blocks, quads, stride),
            Bits::B6 => self.panel_of::<6>(form, first, blocks, quads, stride),
            Bits::B8 => self.panel_of::<8>(form, first, blocks, quads, stride),
        }
    }

    #[inline(always)]
    fn panel_of<const B: usize>(
        &self,
        form: Form,
        first: usize,
        blocks: Range<usize>,
        quads: &mut [Quads],
        stride: usize,
    ) {
        let mut rows: [&[u32]; PANEL] = [&[]; PANEL];
        for (lane, row) in rows.iter_mut().enumerate().take(self.count() - first) {
            *row = &self.row(first + lane)[blocks.start * B..blocks.end * B];
        }
        let len = blocks.len() * B;
        if B == 8 {
            form.transpose(&rows, len, quads, stride);
            return;
        }
        // Words first, side by side, then codes.
        let mut words = vec![Quads([0; PANEL]); len];
        form.transpose(&rows, len, &mut words, 1);
        let words: &[[u32; PANEL]] = bytemuck::cast_slice(&words);
        let mut quads = quads.iter_mut().step_by(stride);
        for words in words.as_chunks::<B>().0 {
            for (spread, quads) in spread_block(words).into_iter().zip(quads.by_ref()) {
                quads.0 = spread;
            }
        }
    }
}

/// The codes of a block in words of four, side by side for several rows.
#[inline(always)]
fn spread_block<const B: usize, const LANES: usize>(
    words: &[[u32; LANES]; B],
) -> [[u32; LANES]; QUADS_PER_BLOCK] {
    // Not a loop: the compiler would gather along it instead of taking rows side by side.
    [
        spread_quad::<B, LANES, 0>(words),
        spread_quad::<B, LANES, 1>(words),
        spread_quad::<B, LANES, 2>(words),
        spread_quad::<B, LANES, 3>(words),
        spread_quad::<B, LANES, 4>(words),
        spread_quad::<B, LANES, 5>(words),
        spread_quad::<B, LANES, 6>(words),
        spread_quad::<B, LANES, 7>(words),
    ]
}

/// The codes `4 · INDEX..4 · INDEX + 4` of a block.
#[inline(always)]
fn spread_quad<const B: usize, const LANES: usize, const INDEX: usize>(
    words: &[[u32; LANES]; B],
) -> [u32; LANES] {
    let (word, shift) = (INDEX * 4 * B / 32, INDEX * 4 * B % 32);
    let mut quads = [0; LANES];
    for (lane, quad) in quads.iter_mut().enumerate() {
        let mut codes = words[word][lane] >> shift;
        if shift + 4 * B > 32 {
            codes |= words[word + 1][lane] << (32 - shift);
        }
        *quad = spread::<B>(codes);
    }
    quads
}

/// The lowest four codes of `B` bits in a byte each.
#[inline(always)]
const fn spread<const B: usize>(codes: u32) -> u32 {
    if B == 8 {
        return codes;
    }
    if B == 6 {
        // Wider than the gaps: what moves and what stays would overlap.
        let pairs = (codes & 0xFFF) | (codes & 0xFF_F000) << 4;
        return (pairs & 0x003F_003F) | (pairs & 0x0FC0_0FC0) << 2;
    }
    let codes = codes & ((1 << (4 * B % 32)) - 1);
    let pairs = (codes | codes << (16 - 2 * B)) & (((1 << (2 * B)) - 1) * 0x1_0001);
    (pairs | pairs << (8 - B)) & (((1 << B) - 1) * 0x0101_0101)
}

/// [`PackedRows`] in the layout of a device.
#[derive(Clone, Debug)]
pub struct RowsBuffer {
    rows: PackedRows,
    grid: Vec<u32>,
}

impl From<PackedRows> for RowsBuffer {
    fn from(rows: PackedRows) -> Self {
        let grid = crate::kernels::packed_tensor::grid_words(&rows);
        Self { rows, grid }
    }
}

impl RowsBuffer {
    /// The rows.
    pub fn view(&self) -> Rows<'_> {
        let PackedRows { bits, in_features, group_size, codes, .. } = &self.rows;
        Rows::new(*bits, *in_features, *group_size, codes, &self.grid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::pack_rows;

    #[test]
    fn quads_hold_the_codes_in_order() {
        for bits in Bits::ALL {
            let codes: Vec<u32> = (0..64).map(|i| (i * 7 + i / 5) & bits.max_code()).collect();
            let words = pack_rows(bits, &codes, 64);
            let grid = [0; GRID_WORDS];
            let mut quads = [[0; QUADS_PER_BLOCK]; 2];
            Rows::new(bits, 64, 64, &words, &grid).quads(0, &mut quads);
            let expanded: Vec<u32> = quads
                .as_flattened()
                .iter()
                .flat_map(|quad| quad.to_le_bytes().map(u32::from))
                .collect();
            assert_eq!(expanded, codes, "{bits}");
        }
    }
}
