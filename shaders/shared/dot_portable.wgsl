// dot_portable — dot product of four unsigned bytes for adapters without an instruction for it.

fn dot_bytes(x: u32, w: u32) -> u32 {
    return (x & 255u) * (w & 255u)
        + ((x >> 8u) & 255u) * ((w >> 8u) & 255u)
        + ((x >> 16u) & 255u) * ((w >> 16u) & 255u)
        + (x >> 24u) * (w >> 24u);
}
