//! Work for one processor or for all.

use rayon::prelude::*;

/// Calls `f` with each of `items` and its number, on all processors if the work `is_long` enough to
/// wake them, which takes some ten microseconds.
pub(super) fn for_each<T: Send>(is_long: bool, items: Vec<T>, f: impl Fn(usize, T) + Sync) {
    if is_long {
        items.into_par_iter().enumerate().for_each(|(index, item)| f(index, item));
    } else {
        items.into_iter().enumerate().for_each(|(index, item)| f(index, item));
    }
}

/// The rows of `matrix`, `width` values each, cut into blocks of up to `columns` values: for each
/// block its part of every row, so that each may be written by another thread.
pub(super) fn column_blocks<T>(
    matrix: &mut [T],
    width: usize,
    columns: usize,
) -> Vec<Vec<&mut [T]>> {
    let rows = matrix.len() / width;
    let mut blocks: Vec<Vec<&mut [T]>> = Vec::new();
    blocks.resize_with(width.div_ceil(columns), || Vec::with_capacity(rows));
    for row in matrix.chunks_mut(width) {
        for (block, part) in blocks.iter_mut().zip(row.chunks_mut(columns)) {
            block.push(part);
        }
    }
    blocks
}
