//! Blocks of 256 elements in groups of 16 or 32, whose scales are quantized themselves.

use super::blocks::half;

/// Elements of a block.
pub(super) const ELEMENTS: usize = 256;

/// The code of `bits` bits that element `i` has in `bytes`, where each 32 bytes hold the elements
/// of one group of 32 in their lowest bits, those of the next group in the following bits, and so
/// on.
fn plane(bytes: &[u8], bits: usize, i: usize) -> u8 {
    let per_byte = 8 / bits;
    let (run, group, lane) = (i / (32 * per_byte), i / 32 % per_byte, i % 32);
    bytes[run * 32 + lane] >> (group * bits) & ((1 << bits) - 1)
}

/// Scale and minimum of group `j` of 32, of 6 bits each: the first four groups have theirs in one
/// piece, the others have four bits here and two above those of the first four.
fn scale_and_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        let low = packed[j + 4];
        (low & 15 | packed[j - 4] >> 6 << 4, low >> 4 | packed[j] >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}

pub(super) fn q2(block: &[u8], values: &mut [f32]) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    let (of_scales, of_mins) = (half(&block[80..]), half(&block[82..]));
    for (i, value) in values.iter_mut().enumerate() {
        let packed = scales[i / 16];
        let (scale, min) = (of_scales * f32::from(packed & 15), of_mins * f32::from(packed >> 4));
        *value = scale * f32::from(plane(codes, 2, i)) - min;
    }
}

pub(super) fn q3(block: &[u8], values: &mut [f32]) {
    let (high, low, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let of_scales = half(&block[108..]);
    for (i, value) in values.iter_mut().enumerate() {
        let j = i / 16;
        let scale = packed[j % 8] >> (j / 8 * 4) & 15 | (packed[8 + j % 4] >> (j / 4 * 2) & 3) << 4;
        let code = plane(low, 2, i) | plane(high, 1, i) << 2;
        *value = of_scales * (f32::from(scale) - 32.0) * (f32::from(code) - 4.0);
    }
}

pub(super) fn q4(block: &[u8], values: &mut [f32]) {
    let (of_scales, of_mins) = (half(block), half(&block[2..]));
    let (packed, codes) = (&block[4..16], &block[16..]);
    for (i, value) in values.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(packed, i / 32);
        *value = of_scales * scale * f32::from(plane(codes, 4, i)) - of_mins * min;
    }
}

pub(super) fn q5(block: &[u8], values: &mut [f32]) {
    let (of_scales, of_mins) = (half(block), half(&block[2..]));
    let (packed, high, codes) = (&block[4..16], &block[16..48], &block[48..]);
    for (i, value) in values.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(packed, i / 32);
        let code = plane(codes, 4, i) | plane(high, 1, i) << 4;
        *value = of_scales * scale * f32::from(code) - of_mins * min;
    }
}

pub(super) fn q6(block: &[u8], values: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let of_scales = half(&block[208..]);
    for (i, value) in values.iter_mut().enumerate() {
        // 64 bytes hold the low four bits of 128 elements: 64 in the low halves, 64 in the high.
        let (run, at) = (i / 128, i % 128);
        let nibble = low[run * 64 + at % 64] >> (at / 64 * 4) & 15;
        let code = nibble | plane(high, 2, i) << 4;
        let scale = of_scales * f32::from(scales[i / 16].cast_signed());
        *value = scale * (f32::from(code) - 32.0);
    }
}

pub(super) fn q8(block: &[u8], values: &mut [f32]) {
    let scale = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    for (value, &code) in values.iter_mut().zip(&block[4..4 + ELEMENTS]) {
        *value = scale * f32::from(code.cast_signed());
    }
}
