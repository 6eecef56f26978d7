// code_units — eight neighbouring codes of a row of tokens or of a weight: a unit.
//
// Rows beyond the last repeat it, so that a tile may stick out.
// Needs: const X_BITS, W_BITS; bindings x_codes, w_codes; params.m, n, k.

#import weight_units

// The codes from bit 0 on; 8 bits fill both words, 6 bits one and a half.
fn x_unit(row: u32, unit: u32) -> vec2<u32> {
    let bit = unit * 8u * X_BITS;
    let at = min(row, params.m - 1u) * ((params.k + 31u) / 32u) * X_BITS + bit / 32u;
    if X_BITS == 8u {
        return vec2<u32>(x_codes[at], x_codes[at + 1u]);
    }
    if X_BITS == 6u { // 48 bits from bit 0 or 16 on
        return unit_of_48(x_codes[at], x_codes[at + 1u], bit % 32u);
    }
    var word = x_codes[at] >> (bit % 32u);
    if bit % 32u + 8u * X_BITS > 32u {
        word |= x_codes[at + 1u] << (32u - bit % 32u);
    }
    return vec2<u32>(word, 0u);
}
