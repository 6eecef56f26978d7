// quads_vector — four neighbouring values of a token at once, for rows of a multiple of four values.
//
// Needs: the binding `x`, an array of vectors, and `params` with k.

fn x_quad(token: u32, quad: u32) -> vec4<f32> {
    return vec4<f32>(x[token * (params.k / 4u) + quad]);
}

// Which of the four values the token has.
fn in_row(quad: u32) -> vec4<bool> {
    return vec4<bool>(true);
}
