// fake_quantize_tokens_backward — gradients of fake_quantize_tokens by the straight-through
// estimator, and through the scale into the extremes and their factors; the zero point is constant.
//
//   x          [M, K]  f32
//   factors    [2]     f32   of the largest and of the smallest value
//   grad       [M, K]  f32   upstream gradient G
//   d_x        [M, K]  f32   as bits; G where the rounded code lies within the codes, else 0; the
//                            extremes get their share of the range's gradient besides
//   d_factors  [M, 2]  f32   as bits; to be summed over the tokens
//
// d_scale = Σ G · (inside ? round(x/scale) − x/scale : code − zero_point); equal extremes share
// evenly. A token has NaN gradients if a value or a factor is not finite.
// A workgroup takes one token. Workgroup memory: 8·WORKGROUP_SIZE bytes.
// Constants: BITS, SCHEME (not asymmetric-real), WORKGROUP_SIZE, GRID_WIDTH.
// Dispatch:  M workgroups, folded into x then y.
// Twin:      kernels::fake_quantize_tokens_backward::reference

#import uniform
#import reduce
#import token_extremes

struct Params {
    m: u32,
    k: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> factors: array<f32>;
@group(0) @binding(2) var<storage, read_write> grad: array<f32>;
@group(0) @binding(3) var<storage, read_write> d_x: array<u32>;
@group(0) @binding(4) var<storage, read_write> d_factors: array<u32>;
@group(0) @binding(5) var<uniform> params: Params;

const QUIET_NAN: u32 = 0x7FC00000u;

// Derivatives of the scale in (most, least), the ends of the range: zero where the range was
// widened to contain zero, or where the scale is a constant.
fn scale_slopes(least: f32, most: f32) -> vec2<f32> {
    if SCHEME == SYMMETRIC {
        let reach = vec2<f32>(abs(most), abs(least));
        if max(reach.x, reach.y) < MIN_RANGE {
            return vec2<f32>();
        }
        // The larger of the two decides; equal ones share.
        let share = select(vec2<f32>(), vec2<f32>(1.0), reach >= reach.yx);
        let steps = f32(1u << (BITS - 1u)) - 1.0;
        return share / (share.x + share.y) * sign(vec2<f32>(most, least)) / steps;
    }
    if SCHEME == ASYMMETRIC {
        if max(most, 0.0) - min(least, 0.0) < MIN_RANGE {
            return vec2<f32>();
        }
        return vec2<f32>(select(0.0, 1.0, most > 0.0), select(0.0, -1.0, least < 0.0)) / TOP;
    }
    return select(vec2<f32>(), vec2<f32>(1.0, -1.0) / TOP, (most - least) / TOP > MIN_SCALE);
}

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
    let most = factors[0] * extremes.y;
    let least = factors[1] * extremes.x;
    let grid = grid_from_range(least, most);

    var d_scale = 0.0;
    var ties = vec2<f32>(); // values equal to the largest, to the smallest
    for (var k = lane; k < params.k; k += WORKGROUP_SIZE) {
        let value = x[row + k];
        let steps = value / grid.scale;
        let rounded = round(steps) + grid.zero_point;
        let inside = rounded >= LOWEST_CODE && rounded <= TOP;
        let outside_slope = clamp(rounded, LOWEST_CODE, TOP) - grid.zero_point;
        d_scale += grad[row + k] * select(outside_slope, round(steps) - steps, inside);
        ties += select(vec2<f32>(), vec2<f32>(1.0), vec2<f32>(value) == extremes.yx);
    }
    d_scale = workgroup_sum(vec2<f32>(d_scale, 0.0), lane).x;
    ties = workgroup_sum(ties, lane);
    let d_ends = d_scale * scale_slopes(least, most);
    let shares = d_ends * vec2<f32>(factors[0], factors[1]) / ties;

    let shows = extremes.y < F32_LARGEST && is_finite(factors[0]) && is_finite(factors[1]);
    for (var k = lane; k < params.k; k += WORKGROUP_SIZE) {
        let value = x[row + k];
        let rounded = round(value / grid.scale) + grid.zero_point;
        var d = select(0.0, grad[row + k], rounded >= LOWEST_CODE && rounded <= TOP);
        d += select(0.0, shares.x, value == extremes.y);
        d += select(0.0, shares.y, value == extremes.x);
        d_x[row + k] = select(QUIET_NAN, bitcast<u32>(d), shows);
    }
    if lane == 0u {
        let d = d_ends * extremes.yx;
        d_factors[token * 2u] = select(QUIET_NAN, bitcast<u32>(d.x), shows);
        d_factors[token * 2u + 1u] = select(QUIET_NAN, bitcast<u32>(d.y), shows);
    }
}
