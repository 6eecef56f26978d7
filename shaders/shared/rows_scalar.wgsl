// rows_scalar — four neighbouring values of `factor` and `offset` at once; see quads_scalar.

fn factor_quad(quad: u32) -> vec4<f32> {
    let k = quad_places(quad);
    return vec4<f32>(factor[k.x], factor[k.y], factor[k.z], factor[k.w]);
}

fn offset_quad(quad: u32) -> vec4<f32> {
    let k = quad_places(quad);
    return vec4<f32>(offset[k.x], offset[k.y], offset[k.z], offset[k.w]);
}
