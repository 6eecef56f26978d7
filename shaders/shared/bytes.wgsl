// bytes — four neighbouring codes of 2, 3, 4, 6 or 8 bits spread to the four bytes of a word.
//
// `bits` is always a constant, so one branch survives.

// Whether a group of four codes straddles two words: at 3 bits, where 12 bits start at a multiple of
// 4 that may exceed 20, and at 6, where 24 bits start at a multiple of 8 that may exceed 8.
fn straddles(shift: u32, bits: u32) -> bool {
    return shift + 4u * bits > 32u;
}

fn spread_to_bytes(group: u32, bits: u32) -> u32 {
    if bits == 2u {
        return (group & 3u) | ((group & 12u) << 6u) | ((group & 48u) << 12u)
            | ((group & 192u) << 18u);
    }
    if bits == 3u {
        return (group & 7u) | ((group & 56u) << 5u) | ((group & 448u) << 10u)
            | ((group & 3584u) << 15u);
    }
    if bits == 4u {
        return (group & 15u) | ((group & 240u) << 4u) | ((group & 3840u) << 8u)
            | ((group & 61440u) << 12u);
    }
    if bits == 6u {
        return (group & 63u) | ((group & 4032u) << 2u) | ((group & 258048u) << 4u)
            | ((group & 16515072u) << 6u);
    }
    return group;
}

// Eight neighbouring codes, from bit 0 on, as bytes.
fn bytes_of_unit(unit: vec2<u32>, bits: u32) -> vec2<u32> {
    if bits == 8u {
        return unit;
    }
    if bits == 6u {
        let second = (unit.x >> 24u) | (unit.y << 8u);
        return vec2<u32>(spread_to_bytes(unit.x, bits), spread_to_bytes(second, bits));
    }
    return vec2<u32>(spread_to_bytes(unit.x, bits), spread_to_bytes(unit.x >> (4u * bits), bits));
}
