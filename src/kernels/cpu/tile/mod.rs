//! Tiles of integer sums that stay in registers while the codes of their rows pass by.
//!
//! One file per kind of instruction; all compute the same integers.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod portable;
#[cfg(target_arch = "x86_64")]
pub(super) mod vnni;

use bytemuck::{Pod, Zeroable};

/// Channels side by side in a panel of a weight.
pub(super) const PANEL: usize = 16;

/// Four consecutive codes of each channel of a panel: a cache line, aligned as such because a
/// vector that crosses two lines is loaded as two.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Quads(pub(super) [u32; PANEL]);

/// A sum for each channel of a panel.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Sums(pub(super) [i32; PANEL]);

/// Some tokens times some panels of channels.
pub(super) struct Tile<'a> {
    /// Number of tokens.
    pub(super) tokens: usize,
    /// Number of panels.
    pub(super) panels: usize,
    /// `[depth / 4][tokens]`, four codes each: signed where [`Form::token_offset`] is not zero.
    ///
    /// [`Form::token_offset`]: super::Form::token_offset
    pub(super) x: &'a [u32],
    /// `[depth / 4][panels]`.
    pub(super) w: &'a [Quads],
    /// `[tokens][panels]`, added to.
    pub(super) sums: &'a mut [Sums],
}

impl<'a> Tile<'a> {
    /// The tile as arrays of one size.
    ///
    /// # Panics
    ///
    /// If the size is another.
    #[inline(always)]
    fn sized<const M: usize, const P: usize>(self) -> Sized<'a, M, P> {
        assert!(self.tokens == M && self.panels == P, "size of a tile");
        let (x, w) = (self.x.as_chunks::<M>().0, self.w.as_chunks::<P>().0);
        assert_eq!(x.len(), w.len(), "depth of a tile");
        let sums = self.sums.as_chunks_mut::<P>().0;
        Sized { x, w, sums: sums.first_chunk_mut::<M>().expect("sums of a tile") }
    }
}

/// A [`Tile`] of `M` tokens and `P` panels.
struct Sized<'a, const M: usize, const P: usize> {
    x: &'a [[u32; M]],
    w: &'a [[Quads; P]],
    sums: &'a mut [[Sums; P]; M],
}

/// Calls `$block::<M, P>` for the size of `$tile`, which is one of those listed.
macro_rules! by_size {
    ($tile:expr, $block:ident, $panels:literal: $($tokens:literal),+) => {
        match $tile.tokens {
            $($tokens => $block::<$tokens, $panels>($tile.sized()),)+
            tokens => panic!("a tile of {tokens} tokens"),
        }
    };
}
use by_size;
