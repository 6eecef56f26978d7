//! Stored numbers as f32.

use super::Dtype;
use half::{bf16, f16};

/// Types that [`extend_f32`] reads, for messages.
pub(super) const FLOATS: &str = "F32, F16, BF16 or F64";

/// Bytes of a tensor, or why there can be no such tensor.
pub(super) fn byte_len(dtype: Dtype, shape: &[usize]) -> Result<u64, &'static str> {
    const TOO_LARGE: &str = "has a size that overflows";
    let elements = shape.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim as u64));
    let bits = elements.and_then(|n| n.checked_mul(dtype.bitsize() as u64)).ok_or(TOO_LARGE)?;
    if bits.is_multiple_of(8) { Ok(bits / 8) } else { Err("does not end at a whole byte") }
}

/// Bytes of one element if [`extend_f32`] reads the type.
pub(super) fn float_bytes(dtype: Dtype) -> Option<u64> {
    match dtype {
        Dtype::F16 | Dtype::BF16 => Some(2),
        Dtype::F32 => Some(4),
        Dtype::F64 => Some(8),
        _ => None,
    }
}

/// Appends little-endian `bytes` of a float type to `values`.
///
/// # Panics
///
/// If [`float_bytes`] knows no such type.
pub(super) fn extend_f32(values: &mut Vec<f32>, dtype: Dtype, bytes: &[u8]) {
    match dtype {
        Dtype::F16 => extend(values, bytes, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => extend(values, bytes, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::F32 => extend(values, bytes, f32::from_le_bytes),
        Dtype::F64 => extend(values, bytes, |b| f64::from_le_bytes(b) as f32),
        other => panic!("extend_f32: {other} is no float type"),
    }
}

fn extend<const N: usize>(values: &mut Vec<f32>, bytes: &[u8], f: impl Fn([u8; N]) -> f32) {
    let (elements, rest) = bytes.as_chunks::<N>();
    assert!(rest.is_empty(), "extend_f32: {} bytes are no whole number of elements", bytes.len());
    values.extend(elements.iter().map(|&element| f(element)));
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn every_float_type_gives_the_same_exact_values() {
        let expected = [0.0_f32, -1.5, 0.25, 1024.0];
        let mut values = Vec::new();
        for value in expected {
            extend_f32(&mut values, Dtype::F16, &f16::from_f32(value).to_le_bytes());
            extend_f32(&mut values, Dtype::BF16, &bf16::from_f32(value).to_le_bytes());
            extend_f32(&mut values, Dtype::F32, &value.to_le_bytes());
            extend_f32(&mut values, Dtype::F64, &f64::from(value).to_le_bytes());
        }
        for (chunk, value) in values.chunks(4).zip(expected) {
            assert_eq!(chunk, [value; 4]);
        }
    }
}
