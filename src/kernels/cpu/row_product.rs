//! Sums of products of a few tokens, one row of the weight after the other.
//!
//! Side by side, 16 rows of a weight cost the time of ten tokens before the first product. Few
//! tokens are multiplied along the row instead: its words become words of four codes by a shift and
//! a mask each, in whatever order that gives, and the tokens' codes are laid out in the same order
//! once. Sums are integers, so that the order does not matter.

use super::form::Form;
use super::rows::Rows;
use crate::quant::{Bits, CODES_PER_BLOCK};
use std::ops::Range;

/// Tokens up to which this is the faster way.
pub(super) const MOST_TOKENS: usize = 4;

/// The order in which the codes of a row come: `parts` passes over its words.
///
/// Byte `b` of word `i` of part `p` holds the code of column
/// `i · word_columns + b · byte_columns + p · part_columns`.
struct Order {
    parts: usize,
    word_columns: usize,
    byte_columns: usize,
    part_columns: usize,
}

impl Order {
    const fn of(bits: Bits) -> Self {
        match bits {
            Bits::B8 => Self { parts: 1, word_columns: 4, byte_columns: 1, part_columns: 0 },
            Bits::B4 => Self { parts: 2, word_columns: 8, byte_columns: 2, part_columns: 1 },
            Bits::B2 => Self { parts: 4, word_columns: 16, byte_columns: 4, part_columns: 1 },
            // Codes cross words: whole blocks, word by word of their codes.
            _ => Self { parts: 8, word_columns: 32, byte_columns: 1, part_columns: 4 },
        }
    }
}

/// `codes` of some blocks of a token in the order of a weight of `bits`, four a word.
pub(super) fn in_order_of(bits: Bits, codes: &[u8]) -> Vec<u32> {
    let order = Order::of(bits);
    let words = codes.len() / order.word_columns;
    let mut ordered = Vec::with_capacity(codes.len() / 4);
    for part in 0..order.parts {
        for word in 0..words {
            let first = word * order.word_columns + part * order.part_columns;
            let bytes = [0, 1, 2, 3].map(|byte| codes[first + byte * order.byte_columns]);
            ordered.push(u32::from_le_bytes(bytes));
        }
    }
    ordered
}

/// `Σ q_x q_w` of the blocks `blocks` of row `row` and each of `tokens`, which hold the same blocks
/// by [`in_order_of`]; `scratch` is overwritten.
#[inline(always)]
pub(super) fn sums(
    form: Form,
    w: Rows<'_>,
    row: usize,
    blocks: Range<usize>,
    tokens: &[&[u32]],
    scratch: &mut Vec<u32>,
    sums: &mut [i32; MOST_TOKENS],
) {
    let words = w.blocks(row, blocks.clone());
    scratch.resize(blocks.len() * (CODES_PER_BLOCK / 4), 0);
    let expanded: &[u32] = match w.bits() {
        Bits::B8 => words,
        Bits::B4 => {
            let (low, high) = scratch.split_at_mut(words.len());
            for ((low, high), word) in low.iter_mut().zip(high).zip(words) {
                *low = word & 0x0F0F_0F0F;
                *high = word >> 4 & 0x0F0F_0F0F;
            }
            scratch
        }
        Bits::B2 => {
            for (part, to) in scratch.chunks_exact_mut(words.len().max(1)).enumerate() {
                for (to, word) in to.iter_mut().zip(words) {
                    *to = word >> (2 * part) & 0x0303_0303;
                }
            }
            scratch
        }
        _ => {
            w.blocks_by_quad(row, blocks, scratch);
            scratch
        }
    };
    for (sum, token) in sums.iter_mut().zip(tokens) {
        *sum = form.dot(token, expanded);
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::RowsBuffer;
    use super::*;
    use crate::quant::{Calibration, Scheme, WeightSpec, quantize_weight, unpack_rows};

    #[test]
    fn sums_of_every_width_and_form_are_exact() {
        let k = 5 * CODES_PER_BLOCK;
        let values: Vec<f32> = (0..2 * k).map(|i| (i as f32 * 0.7).sin()).collect();
        let token: Vec<u8> = (0..k).map(|i| (i * 11 % 128) as u8).collect();
        for bits in Bits::ALL {
            let (scheme, calibration) = (Scheme::AsymmetricReal, Calibration::MinMax);
            let spec = WeightSpec { bits, scheme, group_size: None, calibration };
            let w = quantize_weight(&values, k, spec);
            let codes = unpack_rows(bits, &w.codes, k);
            let w = RowsBuffer::from(w);
            for form in Form::available() {
                for (row, blocks) in [(0, 0..5), (1, 0..5), (1, 1..4), (0, 2..3)] {
                    let columns = blocks.start * CODES_PER_BLOCK..blocks.end * CODES_PER_BLOCK;
                    let ordered = in_order_of(bits, &token[columns.clone()]);
                    let expected: u32 = columns
                        .map(|column| u32::from(token[column]) * codes[row * k + column])
                        .sum();
                    let mut found = [0; MOST_TOKENS];
                    let tokens = [&ordered[..]];
                    sums(form, w.view(), row, blocks, &tokens, &mut Vec::new(), &mut found);
                    assert_eq!(found[0], expected as i32, "{bits} bits, {}", form.name());
                }
            }
        }
    }
}
