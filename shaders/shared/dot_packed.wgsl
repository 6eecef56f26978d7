// dot_packed — dot product of four unsigned bytes by the adapter's own instruction.

fn dot_bytes(x: u32, w: u32) -> u32 {
    return dot4U8Packed(x, w);
}
