// norm_rope — y = rope(x / √(mean(x²) + eps) · weight), the mean over all heads of a token.
//
//   x       [M, H·D]  f32   M tokens, H heads of D channels
//   weight  [H·D]     f32
//   cos     [M, D/2]  f32   of the angle of pair j = channels 2j and 2j+1; one value where not ROTATE
//   sin     [M, D/2]  f32
//   y       [M, H·D]  Elem  what attention reads
//
// A workgroup owns a token: it reads x once for the sum of squares and once, from the cache, for
// the result. Separate operations read or write the tokens nine times.
//
// Constants: ROTATE, Elem, WORKGROUP_SIZE, GRID_WIDTH.
// Memory:    8·WORKGROUP_SIZE bytes per workgroup.
// Dispatch:  M workgroups, folded into x then y.
// Twin:      kernels::norm_rope::reference

struct Params {
    tokens: u32,
    heads: u32,
    pairs: u32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read_write> weight: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> cos: array<f32>;
@group(0) @binding(3) var<storage, read_write> sin: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<vec2<Elem>>;
@group(0) @binding(5) var<uniform> params: Params;

#import reduce

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let token = workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    if token >= params.tokens {
        return;
    }
    let width = params.heads * params.pairs;
    var squares = vec2<f32>(0.0);
    for (var i = lane; i < width; i += WORKGROUP_SIZE) {
        let value = x[token * width + i];
        squares += value * value;
    }
    squares = workgroup_sum(squares, lane);
    let mean = (squares.x + squares.y) / f32(2u * width);
    let factor = 1.0 / sqrt(mean + params.eps);
    for (var i = lane; i < width; i += WORKGROUP_SIZE) {
        var value = x[token * width + i] * factor * weight[i];
        let angle = token * params.pairs + i % params.pairs;
        if ROTATE {
            let c = cos[angle];
            let s = sin[angle];
            value = vec2<f32>(value.x * c - value.y * s, value.x * s + value.y * c);
        } else {
            _ = &cos;
            _ = &sin;
        }
        y[token * width + i] = vec2<Elem>(value);
    }
}
