//! Quantized blocks of a row as f32.

use super::k_blocks;
use half::f16;

/// Elements of a block whose name ends in a number.
const SMALL: usize = 32;

/// Types of ggml whose elements share scales in blocks; the names are ggml's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table of `BlockType::layout` says what each is")]
#[expect(non_camel_case_types, reason = "these are the names in files and on model pages")]
pub enum BlockType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    Q8_K,
}

impl BlockType {
    /// Every type.
    pub const ALL: [Self; 11] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
        Self::Q8_K,
    ];

    /// Name, number in files, elements and bytes of a block.
    const fn layout(self) -> (&'static str, u32, usize, usize) {
        match self {
            // scale (f16), 4-bit codes about 8
            Self::Q4_0 => ("Q4_0", 2, SMALL, 2 + 16),
            // scale, minimum, 4-bit codes
            Self::Q4_1 => ("Q4_1", 3, SMALL, 2 + 2 + 16),
            // scale, fifth bits, low four bits, about 16
            Self::Q5_0 => ("Q5_0", 6, SMALL, 2 + 4 + 16),
            // scale, minimum, fifth bits, low four bits
            Self::Q5_1 => ("Q5_1", 7, SMALL, 2 + 2 + 4 + 16),
            // scale, signed bytes
            Self::Q8_0 => ("Q8_0", 8, SMALL, 2 + 32),
            // 16 scales and minima of 4 bits, 2-bit codes, two scales of these
            Self::Q2_K => ("Q2_K", 10, k_blocks::ELEMENTS, 16 + 64 + 2 + 2),
            // third bits, low two bits, 16 scales of 6 bits, their scale
            Self::Q3_K => ("Q3_K", 11, k_blocks::ELEMENTS, 32 + 64 + 12 + 2),
            // two scales, 8 scales and minima of 6 bits, 4-bit codes
            Self::Q4_K => ("Q4_K", 12, k_blocks::ELEMENTS, 2 + 2 + 12 + 128),
            // two scales, 8 scales and minima of 6 bits, fifth bits, low four bits
            Self::Q5_K => ("Q5_K", 13, k_blocks::ELEMENTS, 2 + 2 + 12 + 32 + 128),
            // low four bits, high two bits, 16 scales of 8 bits, their scale
            Self::Q6_K => ("Q6_K", 14, k_blocks::ELEMENTS, 128 + 64 + 16 + 2),
            // scale (f32), signed bytes, 16 sums that nothing but a product needs
            Self::Q8_K => ("Q8_K", 15, k_blocks::ELEMENTS, 4 + 256 + 32),
        }
    }

    /// Name in ggml.
    pub const fn name(self) -> &'static str {
        self.layout().0
    }

    /// Elements of a block.
    pub const fn elements(self) -> usize {
        self.layout().2
    }

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        self.layout().3
    }

    /// The type of that number in files.
    pub(super) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|blocks| blocks.layout().1 == number)
    }

    /// Appends the elements of the blocks `bytes` to `values`.
    ///
    /// # Panics
    ///
    /// If `bytes` are no whole number of blocks.
    pub(in super::super) fn extend_f32(self, values: &mut Vec<f32>, bytes: &[u8]) {
        assert!(
            bytes.len().is_multiple_of(self.bytes()),
            "{} bytes are no whole number of blocks of {}",
            bytes.len(),
            self.name()
        );
        let decode: fn(&[u8], &mut [f32]) = match self {
            Self::Q4_0 => q4_0,
            Self::Q4_1 => q4_1,
            Self::Q5_0 => q5_0,
            Self::Q5_1 => q5_1,
            Self::Q8_0 => q8_0,
            Self::Q2_K => k_blocks::q2,
            Self::Q3_K => k_blocks::q3,
            Self::Q4_K => k_blocks::q4,
            Self::Q5_K => k_blocks::q5,
            Self::Q6_K => k_blocks::q6,
            Self::Q8_K => k_blocks::q8,
        };
        let blocks = bytes.chunks_exact(self.bytes());
        let start = values.len();
        values.resize(start + blocks.len() * self.elements(), 0.0);
        let rows = values[start..].chunks_exact_mut(self.elements());
        blocks.zip(rows).for_each(|(block, values)| decode(block, values));
    }
}

/// The half-precision number at the start of `bytes`.
pub(super) fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// Code `i` of a block: the low halves of all bytes come first, then the high ones.
fn nibble(codes: &[u8], i: usize) -> u8 {
    let half = SMALL / 2;
    if i < half { codes[i] & 15 } else { codes[i - half] >> 4 }
}

/// Bit `i` of a little-endian word, as the fifth bit of a code.
fn fifth(word: &[u8], i: usize) -> u8 {
    (word[i / 8] >> (i % 8) & 1) << 4
}

fn q4_0(block: &[u8], values: &mut [f32]) {
    let (scale, codes) = (half(block), &block[2..]);
    for (i, value) in values.iter_mut().enumerate() {
        *value = scale * (f32::from(nibble(codes, i)) - 8.0);
    }
}

fn q4_1(block: &[u8], values: &mut [f32]) {
    let (scale, min, codes) = (half(block), half(&block[2..]), &block[4..]);
    for (i, value) in values.iter_mut().enumerate() {
        *value = scale * f32::from(nibble(codes, i)) + min;
    }
}

fn q5_0(block: &[u8], values: &mut [f32]) {
    let (scale, high, codes) = (half(block), &block[2..6], &block[6..]);
    for (i, value) in values.iter_mut().enumerate() {
        *value = scale * (f32::from(nibble(codes, i) | fifth(high, i)) - 16.0);
    }
}

fn q5_1(block: &[u8], values: &mut [f32]) {
    let (scale, min, high, codes) = (half(block), half(&block[2..]), &block[4..8], &block[8..]);
    for (i, value) in values.iter_mut().enumerate() {
        *value = scale * f32::from(nibble(codes, i) | fifth(high, i)) + min;
    }
}

fn q8_0(block: &[u8], values: &mut [f32]) {
    let scale = half(block);
    for (value, &code) in values.iter_mut().zip(&block[2..]) {
        *value = scale * f32::from(code.cast_signed());
    }
}
