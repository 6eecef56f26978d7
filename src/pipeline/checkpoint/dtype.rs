//! Stored numbers as f32.

use super::Dtype;
use super::gguf::BlockType;
use half::{bf16, f16};
use std::fmt;

/// Types that [`StoredType::extend_f32`] reads, for messages.
pub(super) const FLOATS: &str = "F32, F16, BF16, F64 or blocks of GGUF";

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredType {
    /// One by one, in a type that safetensors files have.
    Plain(Dtype),
    /// In blocks of a row that share their scales, as GGUF files have them.
    Blocks(BlockType),
}

impl From<Dtype> for StoredType {
    fn from(dtype: Dtype) -> Self {
        Self::Plain(dtype)
    }
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(dtype) => dtype.fmt(f),
            Self::Blocks(blocks) => blocks.name().fmt(f),
        }
    }
}

impl StoredType {
    /// The type of the elements, unless they are stored in blocks.
    pub fn plain(self) -> Option<Dtype> {
        match self {
            Self::Plain(dtype) => Some(dtype),
            Self::Blocks(_) => None,
        }
    }

    /// Whether the elements stand for real numbers: what can be read as f32.
    pub fn is_float(self) -> bool {
        self.float_block().is_some()
    }

    /// Elements and bytes of the smallest piece that [`StoredType::extend_f32`] reads, if it reads
    /// the type.
    pub(super) fn float_block(self) -> Option<(u64, u64)> {
        match self {
            Self::Plain(Dtype::F16 | Dtype::BF16) => Some((1, 2)),
            Self::Plain(Dtype::F32) => Some((1, 4)),
            Self::Plain(Dtype::F64) => Some((1, 8)),
            Self::Plain(_) => None,
            Self::Blocks(blocks) => Some((blocks.elements() as u64, blocks.bytes() as u64)),
        }
    }

    /// Bytes of a tensor, or why there can be no such tensor.
    pub(super) fn byte_len(self, shape: &[usize]) -> Result<u64, &'static str> {
        const TOO_LARGE: &str = "has a size that overflows";
        let dtype = match self {
            Self::Plain(dtype) => dtype,
            Self::Blocks(blocks) => {
                let elements = product(shape).ok_or(TOO_LARGE)?;
                let per_row = shape.last().copied().unwrap_or(1);
                if !per_row.is_multiple_of(blocks.elements()) {
                    return Err("has rows that are no whole number of blocks");
                }
                let count = elements / blocks.elements() as u64;
                return count.checked_mul(blocks.bytes() as u64).ok_or(TOO_LARGE);
            }
        };
        let bits = product(shape).and_then(|n| n.checked_mul(dtype.bitsize() as u64));
        let bits = bits.ok_or(TOO_LARGE)?;
        if bits.is_multiple_of(8) { Ok(bits / 8) } else { Err("does not end at a whole byte") }
    }

    /// Elements of a tensor of `bytes`.
    pub(super) fn elements(self, bytes: u64) -> u64 {
        match self {
            // The bits fit: they were computed as u64 when the header was checked.
            Self::Plain(dtype) => bytes * 8 / dtype.bitsize() as u64,
            Self::Blocks(blocks) => bytes / blocks.bytes() as u64 * blocks.elements() as u64,
        }
    }

    /// Appends little-endian `bytes` of a float type to `values`.
    ///
    /// # Panics
    ///
    /// If [`StoredType::float_block`] knows no such type, or `bytes` are no whole number of blocks.
    pub(super) fn extend_f32(self, values: &mut Vec<f32>, bytes: &[u8]) {
        match self {
            Self::Plain(Dtype::F16) => extend(values, bytes, |b| f16::from_le_bytes(b).to_f32()),
            Self::Plain(Dtype::BF16) => extend(values, bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Self::Plain(Dtype::F32) => extend(values, bytes, f32::from_le_bytes),
            Self::Plain(Dtype::F64) => extend(values, bytes, |b| f64::from_le_bytes(b) as f32),
            Self::Plain(other) => panic!("extend_f32: {other} is no float type"),
            Self::Blocks(blocks) => blocks.extend_f32(values, bytes),
        }
    }
}

fn product(shape: &[usize]) -> Option<u64> {
    shape.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim as u64))
}

fn extend<const N: usize>(values: &mut Vec<f32>, bytes: &[u8], f: impl Fn([u8; N]) -> f32) {
    let (elements, rest) = bytes.as_chunks::<N>();
    assert!(rest.is_empty(), "extend_f32: {} bytes are no whole number of elements", bytes.len());
    values.extend(elements.iter().map(|&element| f(element)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byte_len(dtype: Dtype, shape: &[usize]) -> Result<u64, &'static str> {
        StoredType::from(dtype).byte_len(shape)
    }

    #[test]
    fn byte_len_rejects_what_does_not_fit() {
        assert_eq!(byte_len(Dtype::F32, &[2, 3]), Ok(24));
        assert_eq!(byte_len(Dtype::F32, &[]), Ok(4));
        assert_eq!(byte_len(Dtype::BF16, &[0, usize::MAX]), Ok(0));
        assert_eq!(byte_len(Dtype::F4, &[6]), Ok(3));
        assert!(byte_len(Dtype::F4, &[3]).is_err());
        assert!(byte_len(Dtype::U8, &[usize::MAX, 2]).is_err());
        assert!(byte_len(Dtype::F64, &[usize::MAX / 2]).is_err());
    }

    #[test]
    fn blocks_fill_whole_rows() {
        let stored = StoredType::Blocks(BlockType::Q4_0);
        assert_eq!(stored.byte_len(&[3, 64]), Ok(3 * 2 * 18));
        assert_eq!(stored.elements(3 * 2 * 18), 192);
        assert_eq!(stored.byte_len(&[64, 3]), Err("has rows that are no whole number of blocks"));
        assert!(stored.byte_len(&[]).is_err());
        assert!(stored.byte_len(&[usize::MAX, 64]).is_err());
    }

    #[test]
    fn every_float_type_gives_the_same_exact_values() {
        let expected = [0.0_f32, -1.5, 0.25, 1024.0];
        let mut values = Vec::new();
        let mut extend =
            |dtype, bytes: &[u8]| StoredType::Plain(dtype).extend_f32(&mut values, bytes);
        for value in expected {
            extend(Dtype::F16, &f16::from_f32(value).to_le_bytes());
            extend(Dtype::BF16, &bf16::from_f32(value).to_le_bytes());
            extend(Dtype::F32, &value.to_le_bytes());
            extend(Dtype::F64, &f64::from(value).to_le_bytes());
        }
        for (chunk, value) in values.chunks(4).zip(expected) {
            assert_eq!(chunk, [value; 4]);
        }
    }
}
