//! Code widths and the one packing rule: 32 codes fill exactly `bits` little-endian words.

use std::fmt;

/// Codes that fill a whole number of words at every width; rows are padded to a multiple of it.
pub const CODES_PER_BLOCK: usize = 32;

/// Width of one stored code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bits {
    /// Two bits: codes 0..=3, sixteen per word.
    B2,
    /// Three bits: codes 0..=7, some straddle two words.
    B3,
    /// Four bits: codes 0..=15, eight per word.
    B4,
    /// Six bits: codes 0..=63, some straddle two words.
    B6,
    /// Eight bits: codes 0..=255, four per word.
    B8,
}

impl Bits {
    /// Every supported width; tests and the benchmark iterate over it.
    pub const ALL: [Self; 5] = [Self::B2, Self::B3, Self::B4, Self::B6, Self::B8];
    /// The widths that activations may have: two bits have no use there.
    pub const OF_TOKENS: [Self; 4] = [Self::B3, Self::B4, Self::B6, Self::B8];

    /// The width as a number.
    pub const fn get(self) -> u32 {
        match self {
            Self::B2 => 2,
            Self::B3 => 3,
            Self::B4 => 4,
            Self::B6 => 6,
            Self::B8 => 8,
        }
    }

    /// The width with this many bits, if it is supported.
    pub fn from_u32(bits: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|width| width.get() == bits)
    }

    /// Largest code, `2^b − 1`.
    pub const fn max_code(self) -> u32 {
        (1 << self.get()) - 1
    }
}

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

/// `in_features` rounded up to a whole number of blocks.
pub const fn padded_len(in_features: usize) -> usize {
    in_features.div_ceil(CODES_PER_BLOCK) * CODES_PER_BLOCK
}

/// Words that hold one row of `in_features` codes.
pub const fn words_per_row(bits: Bits, in_features: usize) -> usize {
    in_features.div_ceil(CODES_PER_BLOCK) * bits.get() as usize
}

/// Packs rows of `in_features` codes; every row starts at a word and is padded with zero codes.
///
/// A zero code adds nothing to an integer product, so padding never changes a result.
///
/// # Panics
///
/// If `codes` is not a whole number of rows.
pub fn pack_rows(bits: Bits, codes: &[u32], in_features: usize) -> Vec<u32> {
    assert!(
        in_features > 0 && codes.len().is_multiple_of(in_features),
        "pack_rows: {} codes are no whole number of rows of {in_features}",
        codes.len()
    );
    let (b, row_words) = (bits.get() as usize, words_per_row(bits, in_features));
    let mut words = vec![0_u32; codes.len() / in_features * row_words];
    for (row, words) in codes.chunks_exact(in_features).zip(words.chunks_exact_mut(row_words)) {
        for (i, &code) in row.iter().enumerate() {
            debug_assert!(code <= bits.max_code(), "pack_rows: code {code} does not fit {b} bits");
            let (word, shift) = (i * b / 32, i * b % 32);
            words[word] |= code << shift;
            if shift + b > 32 {
                words[word + 1] |= code >> (32 - shift);
            }
        }
    }
    words
}

/// Inverse of [`pack_rows`].
///
/// # Panics
///
/// If `words` is not a whole number of rows.
pub fn unpack_rows(bits: Bits, words: &[u32], in_features: usize) -> Vec<u32> {
    let (b, row_words) = (bits.get() as usize, words_per_row(bits, in_features));
    assert!(
        row_words > 0 && words.len().is_multiple_of(row_words),
        "unpack_rows: {} words are no whole number of rows of {row_words}",
        words.len()
    );
    let mut codes = Vec::with_capacity(words.len() / row_words * in_features);
    for row in words.chunks_exact(row_words) {
        codes.extend((0..in_features).map(|i| {
            let (word, shift) = (i * b / 32, i * b % 32);
            let mut code = row[word] >> shift;
            if shift + b > 32 {
                code |= row[word + 1] << (32 - shift);
            }
            code & bits.max_code()
        }));
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpack_inverts_pack_for_every_width_and_ragged_rows() {
        for bits in Bits::ALL {
            for in_features in [1_usize, 24, 32, 33, 72] {
                let codes: Vec<u32> = (0..3 * u32::try_from(in_features).unwrap())
                    .map(|i| (i * 5 + i / 7) & bits.max_code())
                    .collect();
                let words = pack_rows(bits, &codes, in_features);
                assert_eq!(words.len(), 3 * words_per_row(bits, in_features));
                assert_eq!(unpack_rows(bits, &words, in_features), codes);
            }
        }
    }

    #[test]
    fn three_bit_codes_straddle_words() {
        // Codes 0,1,…,7 repeated. Code 10 (value 2 = 0b010) has its low two bits in word 0.
        let codes: Vec<u32> = (0..32).map(|i| i % 8).collect();
        let words = pack_rows(Bits::B3, &codes, 32);
        assert_eq!(words[0], 0o1_076_543_210 | (0b10 << 30));
        assert_eq!(words[1] & 1, 0);
    }

    #[test]
    fn six_bit_codes_straddle_words() {
        let codes: Vec<u32> = (0..32).collect();
        let words = pack_rows(Bits::B6, &codes, 32);
        assert_eq!(words.len(), 6);
        // Code 5 = 0b000101 begins at bit 30: two bits in word 0, four in word 1.
        assert_eq!(words[0] >> 30, 0b01);
        assert_eq!(words[1] & 0b1111, 0b0001);
        assert_eq!(words[5] >> 26, 31);
    }

    #[test]
    fn a_row_takes_exactly_its_bits_when_it_fills_blocks() {
        for bits in Bits::ALL {
            assert_eq!(words_per_row(bits, 1536) * 32, 1536 * bits.get() as usize);
        }
    }
}
