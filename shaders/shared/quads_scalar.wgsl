// quads_scalar — four neighbouring values of a token at once, for rows of any length: behind the
// end, the last value again.
//
// Needs: the binding `x`, an array of scalars, and `params` with k.

fn x_quad(token: u32, quad: u32) -> vec4<f32> {
    let k = vec4<u32>(token * params.k) + quad_places(quad);
    return vec4<f32>(f32(x[k.x]), f32(x[k.y]), f32(x[k.z]), f32(x[k.w]));
}

fn quad_places(quad: u32) -> vec4<u32> {
    return min(vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(params.k - 1u));
}

// Which of the four values the token has.
fn in_row(quad: u32) -> vec4<bool> {
    return vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(params.k);
}
