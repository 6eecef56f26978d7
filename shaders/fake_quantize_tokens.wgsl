// fake_quantize_tokens — y = scale · (code − zero_point) per token, with the range of the token
// times learned factors: the values behind the codes of quantize_tokens, bit for bit.
//
//   x        [M, K]  f32
//   factors  [2]     f32   of the largest and of the smallest value
//   y        [M, K]  f32   as bits; NaN for a whole token if a value or a factor is not finite
//
// A workgroup takes one token. Workgroup memory: 8·WORKGROUP_SIZE bytes.
// Constants: BITS, SCHEME (not asymmetric-real), WORKGROUP_SIZE, GRID_WIDTH.
// Dispatch:  M workgroups, folded into x then y.
// Twin:      kernels::fake_quantize_tokens::reference

#import uniform
#import reduce
#import token_extremes

struct Params {
    m: u32,
    k: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> factors: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

const QUIET_NAN: u32 = 0x7FC00000u;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let token = workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    if token >= params.m {
        return;
    }
    let row = token * params.k;
    let extremes = token_extremes(row, params.k, lane);
    let grid = grid_from_range(factors[1] * extremes.x, factors[0] * extremes.y);
    let shows = extremes.y < F32_LARGEST && is_finite(factors[0]) && is_finite(factors[1]);
    for (var k = lane; k < params.k; k += WORKGROUP_SIZE) {
        let value = grid.scale * (code_from_value(x[row + k], grid) - grid.zero_point);
        y[row + k] = select(QUIET_NAN, bitcast<u32>(value), shows);
    }
}
