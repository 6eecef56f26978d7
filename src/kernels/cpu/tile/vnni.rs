//! VNNI: the sum of four products of an unsigned byte (the weight) and a signed one (the token).

use super::avx2::{WORDS, add, load, load_words, sum_of};
use super::{Quads, Sized, Sums, Tile, by_size};
use std::arch::x86_64::*;

/// Tokens and panels of the largest tile of 8 lanes: 12 of 16 registers hold sums.
pub(crate) const SIZE_256: (usize, usize) = (6, 1);
/// Tokens and panels of the largest tile of 16 lanes: 24 of 32 registers hold sums.
pub(crate) const SIZE_512: (usize, usize) = (6, 4);

/// `multiply` with 8 lanes, for both encodings of the instruction.
macro_rules! vnni_256 {
    ($name:ident, $features:literal, $dot:ident) => {
        /// `multiply` by one encoding of the instruction.
        pub(crate) mod $name {
            use super::*;

            /// Adds the products of `tile` to its sums.
            #[target_feature(enable = $features)]
            pub(crate) fn multiply(tile: Tile<'_>) {
                by_size!(tile, block, 1: 1, 2, 3, 4, 5, 6);
            }

            /// `Σ q_x q_w` of two rows of bytes in whole vectors.
            #[target_feature(enable = $features)]
            pub(crate) fn dot(x: &[u32], w: &[u32]) -> i32 {
                let mut totals = [_mm256_setzero_si256(); 4];
                let rows = x.as_chunks::<WORDS>().0.iter().zip(w.as_chunks::<WORDS>().0);
                for (i, (x, w)) in rows.enumerate() {
                    totals[i % 4] = $dot(totals[i % 4], load_words(w), load_words(x));
                }
                let [a, b, c, d] = totals;
                sum_of(_mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d)))
            }

            #[target_feature(enable = $features)]
            fn block<const M: usize, const P: usize>(Sized { x, w, sums }: Sized<'_, M, P>) {
                let mut totals = [[[_mm256_setzero_si256(); 2]; P]; M];
                for (x, w) in x.iter().zip(w) {
                    for panel in 0..P {
                        let w = load(&w[panel]);
                        for token in 0..M {
                            let x = _mm256_set1_epi32(x[token] as i32);
                            for half in 0..2 {
                                let total = &mut totals[token][panel][half];
                                *total = $dot(*total, w[half], x);
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
        }
    };
}

vnni_256!(avx, "avx2,fma,avxvnni", _mm256_dpbusd_avx_epi32);
vnni_256!(avx512_256, "avx2,avx512f,avx512vl,avx512vnni", _mm256_dpbusd_epi32);

/// `multiply` with 16 lanes.
pub(crate) mod avx512 {
    use super::*;

    /// Adds the products of `tile` to its sums.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(crate) fn multiply(tile: Tile<'_>) {
        match tile.panels {
            1 => by_size!(tile, block, 1: 1, 2, 3, 4, 5, 6),
            2 => by_size!(tile, block, 2: 1, 2, 3, 4, 5, 6),
            3 => by_size!(tile, block, 3: 1, 2, 3, 4, 5, 6),
            4 => by_size!(tile, block, 4: 1, 2, 3, 4, 5, 6),
            panels => panic!("a tile of {panels} panels"),
        }
    }

    /// Words of a vector.
    const WORDS_512: usize = 2 * WORDS;

    /// `Σ q_x q_w` of two rows of bytes in whole vectors of 8 words.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(crate) fn dot(x: &[u32], w: &[u32]) -> i32 {
        let mut totals = [_mm512_setzero_si512(); 4];
        let (x, x_rest) = x.as_chunks::<{ 4 * WORDS_512 }>();
        let (w, w_rest) = w.as_chunks::<{ 4 * WORDS_512 }>();
        for (x, w) in x.iter().zip(w) {
            for (i, total) in totals.iter_mut().enumerate() {
                let words = i * WORDS_512..(i + 1) * WORDS_512;
                let (x, w) = (load_some(&x[words.clone()]), load_some(&w[words]));
                *total = _mm512_dpbusd_epi32(*total, w, x);
            }
        }
        for (x, w) in x_rest.chunks(WORDS_512).zip(w_rest.chunks(WORDS_512)) {
            totals[0] = _mm512_dpbusd_epi32(totals[0], load_some(w), load_some(x));
        }
        let [a, b, c, d] = totals;
        _mm512_reduce_add_epi32(_mm512_add_epi32(_mm512_add_epi32(a, b), _mm512_add_epi32(c, d)))
    }

    /// Up to [`WORDS_512`] words, then zeros.
    #[target_feature(enable = "avx512f")]
    #[expect(unsafe_code, reason = "a load of a vector")]
    fn load_some(words: &[u32]) -> __m512i {
        let mask = ((1_u32 << words.len().min(WORDS_512)) - 1) as u16;
        // SAFETY: the mask has as many bits as there are readable words.
        unsafe { _mm512_maskz_loadu_epi32(mask, words.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn block<const M: usize, const P: usize>(Sized { x, w, sums }: Sized<'_, M, P>) {
        let mut totals = [[_mm512_setzero_si512(); P]; M];
        for (x, quads) in x.iter().zip(w) {
            let mut w = [_mm512_setzero_si512(); P];
            for panel in 0..P {
                w[panel] = load(&quads[panel]);
            }
            for token in 0..M {
                let x = _mm512_set1_epi32(x[token] as i32);
                for panel in 0..P {
                    let total = &mut totals[token][panel];
                    *total = _mm512_dpbusd_epi32(*total, w[panel], x);
                }
            }
        }
        for (sums, totals) in sums.iter_mut().zip(&totals) {
            for (sums, total) in sums.iter_mut().zip(totals) {
                add(sums, *total);
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    #[expect(unsafe_code, reason = "a load of a vector")]
    fn load(quads: &Quads) -> __m512i {
        // SAFETY: `quads` is 64 readable bytes, aligned to 64.
        unsafe { _mm512_load_si512((&raw const *quads).cast()) }
    }

    /// `sums += total`.
    #[target_feature(enable = "avx512f")]
    #[expect(unsafe_code, reason = "a load and a store of a vector")]
    fn add(sums: &mut Sums, total: __m512i) {
        let to = (&raw mut *sums).cast();
        // SAFETY: `sums` is 64 readable and writable bytes, aligned to 64.
        unsafe { _mm512_store_si512(to, _mm512_add_epi32(_mm512_load_si512(to), total)) }
    }
}
