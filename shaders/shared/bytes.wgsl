// bytes — four neighbouring codes of 2, 3, 4 or 8 bits spread to the four bytes of a word.
//
// `bits` is always a constant, so one branch survives.

// Bits of a code group of four that may straddle two words: only at 3 bits, where 12 bits start
// at a multiple of 4 that exceeds 20.
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
    return group;
}
