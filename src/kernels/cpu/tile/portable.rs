//! Plain loops over arrays, which the compiler turns into whatever vectors the target has.

use super::{PANEL, Quads, Sized, Tile, by_size};
use std::ops::Range;

/// Tokens and panels of the largest tile.
pub(crate) const SIZE: (usize, usize) = (4, 1);

/// Adds the products of `tile` to its sums.
pub(crate) fn multiply(tile: Tile<'_>) {
    by_size!(tile, block, 1: 1, 2, 3, 4);
}

/// Even and odd codes as 16-bit numbers: compilers know sums of two products of such, bytes they
/// would widen one by one.
#[inline(always)]
fn halves<const N: usize>(words: [u32; N]) -> [[[i16; 2]; N]; 2] {
    let pair = |word: u32| [word as u8 as i16, (word >> 16) as u8 as i16];
    [words.map(pair), words.map(|word| pair(word >> 8))]
}

fn block<const M: usize, const P: usize>(Sized { x, w, sums }: Sized<'_, M, P>) {
    let mut totals = [[[0_i32; PANEL]; P]; M];
    for (x, w) in x.iter().zip(w) {
        for panel in 0..P {
            let [w_even, w_odd] = halves(w[panel].0);
            for token in 0..M {
                let [[x_even], [x_odd]] = halves([x[token]]);
                for lane in 0..PANEL {
                    let dot = |[a, b]: [i16; 2], [c, d]: [i16; 2]| {
                        i32::from(a) * i32::from(c) + i32::from(b) * i32::from(d)
                    };
                    let sum = dot(w_even[lane], x_even) + dot(w_odd[lane], x_odd);
                    let total = &mut totals[token][panel][lane];
                    *total = total.wrapping_add(sum);
                }
            }
        }
    }
    for (sums, totals) in sums.as_flattened_mut().iter_mut().zip(totals.as_flattened()) {
        for (sum, total) in sums.0.iter_mut().zip(totals) {
            *sum = sum.wrapping_add(*total);
        }
    }
}

/// `Σ q_x q_w` of two rows of unsigned bytes, four a word.
#[inline(always)]
pub(crate) fn dot(x: &[u32], w: &[u32]) -> i32 {
    let pairs = x.iter().zip(w).map(|(&x, &w)| {
        let ([[x_even], [x_odd]], [[w_even], [w_odd]]) = (halves([x]), halves([w]));
        let dot = |[a, b]: [i16; 2], [c, d]: [i16; 2]| {
            i32::from(a) * i32::from(c) + i32::from(b) * i32::from(d)
        };
        dot(x_even, w_even).wrapping_add(dot(x_odd, w_odd))
    });
    pairs.fold(0, i32::wrapping_add)
}

/// The words `words` of `rows` side by side, into every `stride`-th of `columns` from
/// `words.start · stride` on; where a row is empty, what is there stays.
#[inline(always)]
pub(crate) fn transpose(
    rows: &[&[u32]; PANEL],
    words: Range<usize>,
    columns: &mut [Quads],
    stride: usize,
) {
    if words.is_empty() {
        return;
    }
    for (lane, row) in rows.iter().enumerate().filter(|(_, row)| !row.is_empty()) {
        let columns = columns[words.start * stride..].iter_mut().step_by(stride);
        for (column, &word) in columns.zip(&row[words.clone()]) {
            column.0[lane] = word;
        }
    }
}
