// weight_quads_scalar — four neighbouring values of a row of a float weight at once, for rows of any
// length: behind the end, the last value again.
//
// Needs: the binding `w`, an array of scalars, and quads_scalar.

struct WeightRow {
    start: u32,
}

fn weight_row(n: u32) -> WeightRow {
    return WeightRow(n * params.k);
}

fn w_quad(row: WeightRow, quad: u32) -> vec4<f32> {
    let k = vec4<u32>(row.start) + quad_places(quad);
    return vec4<f32>(f32(w[k.x]), f32(w[k.y]), f32(w[k.z]), f32(w[k.w]));
}
