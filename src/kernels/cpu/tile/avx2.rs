//! AVX2: pairs of 16-bit products.
//!
//! `maddubs`, which multiplies bytes, saturates sums of two 8-bit products; bytes widened to 16
//! bits are exact.

use super::{PANEL, Quads, Sized, Sums, Tile, by_size, portable};
use std::arch::x86_64::*;

/// Tokens and panels of the largest tile: 8 of 16 registers hold sums, 4 the widened weight.
pub(crate) const SIZE: (usize, usize) = (4, 1);

/// Adds the products of `tile` to its sums.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn multiply(tile: Tile<'_>) {
    by_size!(tile, block, 1: 1, 2, 3, 4);
}

/// Even and odd bytes as 16-bit numbers.
#[target_feature(enable = "avx2")]
fn halves(bytes: __m256i) -> [__m256i; 2] {
    [_mm256_and_si256(bytes, _mm256_set1_epi16(0xFF)), _mm256_srli_epi16::<8>(bytes)]
}

#[target_feature(enable = "avx2")]
fn block<const M: usize, const P: usize>(Sized { x, w, sums }: Sized<'_, M, P>) {
    let mut totals = [[[_mm256_setzero_si256(); 2]; P]; M];
    for (x, w) in x.iter().zip(w) {
        for panel in 0..P {
            let [w_low, w_high] = load(&w[panel]);
            let [w_low, w_high] = [halves(w_low), halves(w_high)];
            for token in 0..M {
                let [x_even, x_odd] = halves(_mm256_set1_epi32(x[token] as i32));
                let [low, high] = &mut totals[token][panel];
                for (total, [even, odd]) in [(low, w_low), (high, w_high)] {
                    let even = _mm256_madd_epi16(even, x_even);
                    let odd = _mm256_madd_epi16(odd, x_odd);
                    *total = _mm256_add_epi32(*total, _mm256_add_epi32(even, odd));
                }
            }
        }
    }
    for (sums, totals) in sums.iter_mut().zip(&totals) {
        for (sums, total) in sums.iter_mut().zip(totals) {
            add(sums, *total);
        }
    }
}

/// `Σ q_x q_w` of two rows of unsigned bytes in whole vectors.
#[target_feature(enable = "avx2")]
pub(crate) fn dot(x: &[u32], w: &[u32]) -> i32 {
    let mut totals = [_mm256_setzero_si256(); 2];
    for (x, w) in x.as_chunks::<WORDS>().0.iter().zip(w.as_chunks::<WORDS>().0) {
        let (x, w) = (halves(load_words(x)), halves(load_words(w)));
        for half in 0..2 {
            let products = _mm256_madd_epi16(x[half], w[half]);
            totals[half] = _mm256_add_epi32(totals[half], products);
        }
    }
    sum_of(_mm256_add_epi32(totals[0], totals[1]))
}

/// The sum of the lanes.
#[target_feature(enable = "avx2")]
pub(super) fn sum_of(total: __m256i) -> i32 {
    let (low, high) = (_mm256_castsi256_si128(total), _mm256_extracti128_si256::<1>(total));
    let fours = _mm_add_epi32(low, high);
    let pairs = _mm_add_epi32(fours, _mm_shuffle_epi32::<0b01_00_11_10>(fours));
    _mm_cvtsi128_si32(_mm_add_epi32(pairs, _mm_shuffle_epi32::<0b10_11_00_01>(pairs)))
}

/// The two halves of `quads`.
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "loads of vectors")]
pub(super) fn load(quads: &Quads) -> [__m256i; 2] {
    let from = (&raw const *quads).cast::<__m256i>();
    // SAFETY: `quads` is 64 readable bytes, aligned to 64.
    unsafe { [_mm256_load_si256(from), _mm256_load_si256(from.add(1))] }
}

/// `sums += totals`.
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "loads and stores of vectors")]
pub(super) fn add(sums: &mut Sums, totals: [__m256i; 2]) {
    let to = (&raw mut *sums).cast::<__m256i>();
    for (half, total) in totals.into_iter().enumerate() {
        // SAFETY: `sums` is 64 readable and writable bytes, aligned to 64; `half` is 0 or 1.
        unsafe {
            let to = to.add(half);
            _mm256_store_si256(to, _mm256_add_epi32(_mm256_load_si256(to), total));
        }
    }
}

/// Words of a vector.
pub(super) const WORDS: usize = 8;

/// As [`portable::transpose`], of the first `len` words.
#[target_feature(enable = "avx2")]
pub(crate) fn transpose(rows: &[&[u32]; PANEL], len: usize, columns: &mut [Quads], stride: usize) {
    // Squares of 8 × 8 where there are two full squares of rows, words one by one elsewhere.
    let squares = if rows.iter().all(|row| row.len() >= len) { len / WORDS } else { 0 };
    for square in 0..squares {
        for half in 0..PANEL / WORDS {
            let mut words = [_mm256_setzero_si256(); WORDS];
            for (words, row) in words.iter_mut().zip(&rows[half * WORDS..]) {
                *words = load_words(&row.as_chunks::<WORDS>().0[square]);
            }
            let columns = columns[square * WORDS * stride..].iter_mut().step_by(stride);
            for (column, words) in columns.zip(transpose_square(words)) {
                store_words(&mut column.0.as_chunks_mut::<WORDS>().0[half], words);
            }
        }
    }
    portable::transpose(rows, squares * WORDS..len, columns, stride);
}

#[target_feature(enable = "avx2")]
fn transpose_square(rows: [__m256i; WORDS]) -> [__m256i; WORDS] {
    let mut pairs = rows;
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // Columns 0 to 3 and, in the upper half, 4 to 7: of the first four rows, then of the others.
    let mut fours = rows;
    for i in 0..2 {
        fours[4 * i] = _mm256_unpacklo_epi64(pairs[4 * i], pairs[4 * i + 2]);
        fours[4 * i + 1] = _mm256_unpackhi_epi64(pairs[4 * i], pairs[4 * i + 2]);
        fours[4 * i + 2] = _mm256_unpacklo_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
        fours[4 * i + 3] = _mm256_unpackhi_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
    }
    let mut columns = rows;
    for i in 0..4 {
        columns[i] = _mm256_permute2x128_si256::<0x20>(fours[i], fours[i + 4]);
        columns[i + 4] = _mm256_permute2x128_si256::<0x31>(fours[i], fours[i + 4]);
    }
    columns
}

/// A vector of words.
#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "a load of a vector")]
pub(super) fn load_words(words: &[u32; WORDS]) -> __m256i {
    // SAFETY: `words` is 32 readable bytes.
    unsafe { _mm256_loadu_si256((&raw const *words).cast()) }
}

#[target_feature(enable = "avx2")]
#[expect(unsafe_code, reason = "a store of a vector")]
fn store_words(words: &mut [u32; WORDS], vector: __m256i) {
    // SAFETY: `words` is 32 writable bytes.
    unsafe { _mm256_storeu_si256((&raw mut *words).cast(), vector) }
}
