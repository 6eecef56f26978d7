// log_quantize — codes of logarithms, and what they stand for: level round(−steps · log2(|x| / absmax)).
//
//   x      [len]          f32
//   table  [2·LEVELS]     f32   thresholds, then magnitudes of the levels (quant::LogSpec::table)
//   codes  [ceil(len/4)]  u32   a byte each: 0 for zero, else level + 1; the sign in bit SIGN
//   y      [len]          f32   what is no finite number stays as it is, with code 0
//
// In base 2 the level is the exponent of |x| / absmax, rounded up from 1.5 times a power of two: half
// a mantissa is added to the bits. Otherwise it is found among the thresholds. There is no division
// and no logarithm, so that every device has the same codes.
// An invocation takes four neighbouring values.
// Constants: LEVELS (2^(b−1) − 1), SIGN (b − 1), BASE_TWO, WORKGROUP_SIZE, GRID_WIDTH.
// Dispatch:  ceil(len / (4·WORKGROUP_SIZE)) workgroups, folded into x then y.
// Twin:      kernels::log_quantize::reference

struct Params {
    len: u32,
    inverse_absmax: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> table: array<f32>;
@group(0) @binding(2) var<storage, read_write> codes: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

const LEAST_NORMAL: f32 = 1.1754944e-38; // below it devices may flush to zero
const HALF_MANTISSA: u32 = 0x00400000u;

fn level_of(magnitude: f32) -> u32 {
    if BASE_TWO {
        let u = magnitude * params.inverse_absmax;
        if u < LEAST_NORMAL {
            return LEVELS;
        }
        let exponent = i32((bitcast<u32>(u) + HALF_MANTISSA) >> 23u) - 127;
        return u32(max(-exponent, 0));
    }
    var first = 0u;
    var end = LEVELS;
    while first < end {
        let middle = (first + end) / 2u;
        if table[middle] > magnitude {
            first = middle + 1u;
        } else {
            end = middle;
        }
    }
    return first;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let word = (workgroup_id.y * GRID_WIDTH + workgroup_id.x) * WORKGROUP_SIZE + lane;
    let end = min(4u * word + 4u, params.len);
    var packed = 0u;
    for (var i = 4u * word; i < end; i++) {
        var value = x[i];
        // By its bits, since a compiler may assume that there is no NaN.
        if (bitcast<u32>(value) & 0x7F800000u) != 0x7F800000u {
            let level = level_of(abs(value));
            let sign = select(0u, 1u, value < 0.0);
            let is_zero = level >= LEVELS;
            packed |= select((sign << SIGN) | (level + 1u), 0u, is_zero) << (8u * (i % 4u));
            let magnitude = table[LEVELS + min(level, LEVELS - 1u)];
            value = select(select(magnitude, -magnitude, sign == 1u), 0.0, is_zero);
        }
        y[i] = value;
    }
    if 4u * word < params.len {
        codes[word] = packed;
    }
}
