// codes — b-bit codes as a little-endian bit stream: 32 codes fill exactly BITS words.
//
// A code of 3 or 6 bits may straddle two words. Needs: const BITS, a binding named `codes`.

const CODE_MASK: u32 = (1u << BITS) - 1u;

// Code `i` of the row that starts at word `row_word`.
fn code_at(row_word: u32, i: u32) -> u32 {
    let bit = i * BITS;
    let word = row_word + bit / 32u;
    let shift = bit % 32u;
    var bits = codes[word] >> shift;
    if shift + BITS > 32u { // straddles; then shift > 0, so the left shift stays below 32
        bits |= codes[word + 1u] << (32u - shift);
    }
    return bits & CODE_MASK;
}
