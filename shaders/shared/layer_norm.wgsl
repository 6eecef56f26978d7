// layer_norm — the row of x that a workgroup takes, normalized, times a factor, plus an offset.
//
// To be imported below the bindings, of which it needs `params` with k and eps. Needs: `reduce`,
// x_quad and in_row, factor_quad and offset_quad.

struct Moments {
    mean: f32,
    inverse_deviation: f32,
}

// All invocations must call, in uniform control flow; all get the result. The squares are of
// differences from the mean: a mean far from zero cancels nothing.
fn row_moments(token: u32, lane: u32) -> Moments {
    var sums = vec4<f32>();
    for (var quad = lane; quad < (params.k + 3u) / 4u; quad += WORKGROUP_SIZE) {
        sums += select(vec4<f32>(), x_quad(token, quad), in_row(quad));
    }
    let mean = row_mean(sums, lane);
    var squares = vec4<f32>();
    for (var quad = lane; quad < (params.k + 3u) / 4u; quad += WORKGROUP_SIZE) {
        let difference = x_quad(token, quad) - mean;
        squares += select(vec4<f32>(), difference * difference, in_row(quad));
    }
    return Moments(mean, 1.0 / sqrt(row_mean(squares, lane) + params.eps));
}

fn row_mean(sums: vec4<f32>, lane: u32) -> f32 {
    let sum = sums.x + sums.y + sums.z + sums.w;
    return workgroup_sum(vec2<f32>(sum, 0.0), lane).x / f32(params.k);
}

fn normalized_quad(token: u32, quad: u32, moments: Moments) -> vec4<f32> {
    let normalized = (x_quad(token, quad) - moments.mean) * moments.inverse_deviation;
    return normalized * factor_quad(quad) + offset_quad(quad);
}
