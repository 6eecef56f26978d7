// rows_vector — four neighbouring values of `factor` and `offset` at once; see quads_vector.

fn factor_quad(quad: u32) -> vec4<f32> {
    return factor[quad];
}

fn offset_quad(quad: u32) -> vec4<f32> {
    return offset[quad];
}
