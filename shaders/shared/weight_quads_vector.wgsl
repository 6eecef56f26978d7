// weight_quads_vector — four neighbouring values of a row of a float weight at once, for rows of a
// multiple of four values.
//
// Needs: the binding `w`, an array of vectors, and `params` with k.

struct WeightRow {
    start: u32,
}

fn weight_row(n: u32) -> WeightRow {
    return WeightRow(n * (params.k / 4u));
}

fn w_quad(row: WeightRow, quad: u32) -> vec4<f32> {
    return vec4<f32>(w[row.start + quad]);
}
