// multiply_add_dot — four dot products of four bytes, each with a sum.

fn multiply_add(value: vec4<u32>, factor: vec4<u32>, term: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(
        dot4U8Packed(value.x, factor.x), dot4U8Packed(value.y, factor.y),
        dot4U8Packed(value.z, factor.z), dot4U8Packed(value.w, factor.w),
    ) + term;
}
