// weight_units — eight neighbouring codes of a weight's row: a unit.
//
// Rows beyond the last repeat it.
// Needs: const W_BITS; binding w_codes; params.n, k.

// Units of a row; the last ones may be padding, which is zero.
fn units_per_row() -> u32 {
    return (params.k + 31u) / 32u * 4u;
}

fn unit_of_48(first: u32, second: u32, shift: u32) -> vec2<u32> {
    if shift == 0u {
        return vec2<u32>(first, second & 65535u);
    }
    return vec2<u32>((first >> 16u) | (second << 16u), second >> 16u);
}

// The codes from bit 0 on; 8 bits fill both words, 6 bits one and a half.
fn w_unit(row: u32, unit: u32) -> vec2<u32> {
    let bit = unit * 8u * W_BITS;
    let at = min(row, params.n - 1u) * ((params.k + 31u) / 32u) * W_BITS + bit / 32u;
    if W_BITS == 8u {
        return vec2<u32>(w_codes[at], w_codes[at + 1u]);
    }
    if W_BITS == 6u { // 48 bits from bit 0 or 16 on
        return unit_of_48(w_codes[at], w_codes[at + 1u], bit % 32u);
    }
    var word = w_codes[at] >> (bit % 32u);
    if bit % 32u + 8u * W_BITS > 32u {
        word |= w_codes[at + 1u] << (32u - bit % 32u);
    }
    return vec2<u32>(word, 0u);
}

// Code `i` of a unit; `i` and `bits` are constants after unrolling.
fn code_of_unit(unit: vec2<u32>, i: u32, bits: u32) -> u32 {
    var word = select(unit.x, unit.y, bits * i >= 32u) >> (bits * i % 32u);
    if bits * i % 32u + bits > 32u { // straddles; only at 6 bits
        word |= unit.y << (32u - bits * i % 32u);
    }
    return word & ((1u << bits) - 1u);
}
