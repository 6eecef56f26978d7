//! Which vector instructions this processor has, chosen when the program runs.

use super::tile;

/// A set of vector instructions that this processor has.
///
/// There is no way to make one that the processor lacks: this is what the calls of functions
/// compiled for those instructions rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Form(Isa);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Isa {
    /// What the target guarantees.
    Portable,
    /// AVX2 and FMA: 16-bit products.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX2, FMA and AVX-VNNI: sums of four 8-bit products, 8 lanes.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX-512 with VNNI, 8 lanes: the instructions of the above, in their other encoding.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni256,
    /// AVX-512 with VNNI, 16 lanes.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// NEON with dot products: sums of four 8-bit products, 4 lanes.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
}

/// Columns of a tile of f32 sums: the fastest of those that compilers keep in registers.
pub(super) const LANES: usize = 16;

/// A computation that is compiled once for each set of instructions.
///
/// `run` and what it calls must be `#[inline(always)]`: code that stays a function of its own is
/// compiled for what the target guarantees.
pub(super) trait Task {
    /// What it computes.
    type Output;

    /// Computes it. `FMA`: a multiplication and an addition are one instruction. `ROWS`: rows of
    /// [`LANES`] f32 sums that the registers hold beside their factors.
    fn run<const FMA: bool, const ROWS: usize>(self) -> Self::Output;
}

impl Form {
    /// The forms that this processor has, the slowest first.
    pub fn available() -> Vec<Self> {
        let mut forms = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            forms.push(Isa::Avx2);
            if is_x86_feature_detected!("avxvnni") {
                forms.push(Isa::AvxVnni);
            }
            let has_avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            if has_avx512 {
                forms.extend([Isa::Avx512Vnni256, Isa::Avx512Vnni]);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            forms.push(Isa::NeonDot);
        }
        forms.into_iter().map(Self).collect()
    }

    /// The fastest of them.
    pub fn best() -> Self {
        static BEST: std::sync::OnceLock<Form> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| *Self::available().last().unwrap_or(&Self(Isa::Portable)))
    }

    /// Short name, for tables.
    pub const fn name(self) -> &'static str {
        match self.0 {
            Isa::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni256 => "avx512-vnni-256",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => "avx512-vnni",
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => "neon-dotprod",
        }
    }

    /// Tokens and panels of channels of the largest tile of integer sums that the registers hold.
    pub(super) const fn tile_size(self) -> (usize, usize) {
        match self.0 {
            Isa::Portable => tile::portable::SIZE,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => tile::avx2::SIZE,
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni | Isa::Avx512Vnni256 => tile::vnni::SIZE_256,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => tile::vnni::SIZE_512,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => tile::neon::SIZE,
        }
    }

    /// What is subtracted from 8-bit codes of tokens, which the instruction takes as signed.
    pub(super) const fn token_offset(self) -> i32 {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni | Isa::Avx512Vnni256 | Isa::Avx512Vnni => 128,
            _ => 0,
        }
    }

    /// Adds the products of `tile` to its sums.
    ///
    /// # Panics
    ///
    /// If the tile is larger than [`Form::tile_size`].
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "instructions of this form"))]
    #[cfg_attr(target_arch = "aarch64", expect(unsafe_code, reason = "instructions of this form"))]
    pub(super) fn multiply(self, tile: tile::Tile<'_>) {
        match self.0 {
            Isa::Portable => tile::portable::multiply(tile),
            // SAFETY: of all four, `available` has seen the features that the function enables.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { tile::avx2::multiply(tile) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => unsafe { tile::vnni::avx::multiply(tile) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni256 => unsafe { tile::vnni::avx512_256::multiply(tile) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => unsafe { tile::vnni::avx512::multiply(tile) },
            // SAFETY: `available` has seen the feature that the function enables.
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => unsafe { tile::neon::multiply(tile) },
        }
    }

    /// `Σ q_x q_w` of two rows of bytes, four a word; those of `x` are signed where
    /// [`Form::token_offset`] is not zero. Rows are whole blocks of eight words.
    #[inline]
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "instructions of this form"))]
    #[cfg_attr(target_arch = "aarch64", expect(unsafe_code, reason = "instructions of this form"))]
    pub(super) fn dot(self, x: &[u32], w: &[u32]) -> i32 {
        match self.0 {
            Isa::Portable => tile::portable::dot(x, w),
            // SAFETY: of all four, `available` has seen the features that the function enables.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { tile::avx2::dot(x, w) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => unsafe { tile::vnni::avx::dot(x, w) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni256 => unsafe { tile::vnni::avx512_256::dot(x, w) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => unsafe { tile::vnni::avx512::dot(x, w) },
            // SAFETY: `available` has seen the feature that the function enables.
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => unsafe { tile::neon::dot_rows(x, w) },
        }
    }

    /// The first `len` words of `rows` side by side, into every `stride`-th of `columns`; where a
    /// row is empty, what is there stays.
    #[inline(always)]
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "instructions of this form"))]
    pub(super) fn transpose(
        self,
        rows: &[&[u32]; tile::PANEL],
        len: usize,
        columns: &mut [tile::Quads],
        stride: usize,
    ) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Isa::Portable => tile::portable::transpose(rows, 0..len, columns, stride),
            // SAFETY: `available` has seen the features that the function enables.
            #[cfg(target_arch = "x86_64")]
            _ => unsafe { tile::avx2::transpose(rows, len, columns, stride) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => tile::portable::transpose(rows, 0..len, columns, stride),
        }
    }

    /// Carries out `task` with these instructions.
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "instructions of this form"))]
    pub(super) fn run<T: Task>(self, task: T) -> T::Output {
        #[cfg(target_arch = "x86_64")]
        {
            #[target_feature(enable = "avx2,fma")]
            fn with_avx2<T: Task>(task: T) -> T::Output {
                task.run::<true, 6>()
            }
            match self.0 {
                Isa::Portable => task.run::<false, 2>(),
                // Also with AVX-512: the compiler's code for it gathers where this one shuffles, up
                // to three times slower, and its sums of f32 are no faster.
                // SAFETY: `available` has seen the features that the function enables.
                _ => unsafe { with_avx2(task) },
            }
        }
        #[cfg(target_arch = "aarch64")]
        return task.run::<true, 6>();
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        return task.run::<false, 2>();
    }
}
