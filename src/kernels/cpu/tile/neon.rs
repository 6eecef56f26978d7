//! NEON with dot products: sums of four products of unsigned bytes.

use super::{Quads, Sized, Sums, Tile, by_size};
use std::arch::aarch64::*;
use std::arch::asm;

/// Tokens and panels of the largest tile: 24 of 32 registers hold sums, 4 the weight.
pub(crate) const SIZE: (usize, usize) = (6, 1);

/// Vectors of a panel.
const VECTORS: usize = 4;

/// Adds the products of `tile` to its sums.
#[target_feature(enable = "neon,dotprod")]
pub(crate) fn multiply(tile: Tile<'_>) {
    by_size!(tile, block, 1: 1, 2, 3, 4, 5, 6);
}

#[target_feature(enable = "neon,dotprod")]
fn block<const M: usize, const P: usize>(Sized { x, w, sums }: Sized<'_, M, P>) {
    let mut totals = [[[vdupq_n_u32(0); VECTORS]; P]; M];
    for (x, w) in x.iter().zip(w) {
        for panel in 0..P {
            let w = load(&w[panel]);
            for token in 0..M {
                let x = vdupq_n_u32(x[token]);
                for vector in 0..VECTORS {
                    let total = &mut totals[token][panel][vector];
                    *total = dot(*total, w[vector], x);
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
#[target_feature(enable = "neon,dotprod")]
pub(crate) fn dot_rows(x: &[u32], w: &[u32]) -> i32 {
    let mut totals = [vdupq_n_u32(0); 2];
    let rows = x.as_chunks::<4>().0.iter().zip(w.as_chunks::<4>().0);
    for (i, (x, w)) in rows.enumerate() {
        totals[i % 2] = dot(totals[i % 2], load_words(w), load_words(x));
    }
    vaddvq_u32(vaddq_u32(totals[0], totals[1])) as i32
}

#[target_feature(enable = "neon")]
#[expect(unsafe_code, reason = "a load of a vector")]
fn load_words(words: &[u32; 4]) -> uint32x4_t {
    // SAFETY: `words` is four readable words.
    unsafe { vld1q_u32(words.as_ptr()) }
}

/// `total` plus, in each lane, the four products of the bytes of `a` and `b`.
///
/// The intrinsic, `vdotq_u32`, is not stable in the oldest compiler that is supported.
#[target_feature(enable = "neon,dotprod")]
#[expect(unsafe_code, reason = "an instruction without a stable intrinsic")]
fn dot(mut total: uint32x4_t, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
    // SAFETY: the instruction reads and writes these registers only.
    unsafe {
        asm!(
            "udot {total:v}.4s, {a:v}.16b, {b:v}.16b",
            total = inout(vreg) total, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    total
}

#[target_feature(enable = "neon")]
fn load(quads: &Quads) -> [uint32x4_t; VECTORS] {
    let (quads, _) = quads.0.as_chunks::<4>();
    let mut w = [vdupq_n_u32(0); VECTORS];
    for (w, four) in w.iter_mut().zip(quads) {
        *w = load_words(four);
    }
    w
}

/// `sums += totals`.
#[target_feature(enable = "neon")]
#[expect(unsafe_code, reason = "loads and stores of vectors")]
fn add(sums: &mut Sums, totals: [uint32x4_t; VECTORS]) {
    let (sums, _) = sums.0.as_chunks_mut::<4>();
    for (four, total) in sums.iter_mut().zip(totals) {
        let to = four.as_mut_ptr();
        // SAFETY: `four` is four readable and writable words.
        unsafe { vst1q_s32(to, vaddq_s32(vld1q_s32(to), vreinterpretq_s32_u32(total))) };
    }
}
