// fake_quantize_weight_backward — gradients of fake_quantize_weight by the straight-through
// estimator, as LSQ+ has them.
//
//   w           [N, K]  f32
//   scale       [N]     f32   not 0
//   zero_point  [N]     f32   real-valued; where SCHEME is symmetric it is 2^(BITS−1) instead
//   grad        [N, K]  f32   upstream gradient G
//   d_w         [N, K]  f32   G where the rounded code lies within the codes, else 0
//   d_scale     [N]     f32   gradient_scale · Σ G · (inside ? round(u) − u : code − zero_point)
//   d_zero      [N]     f32   gradient_scale · Σ G · (inside ? 0 : −scale); 0 where symmetric
//
// with u = w / scale + zero_point. A workgroup takes one row. Workgroup memory: 8·WORKGROUP_SIZE
// bytes.
// Constants: BITS, SCHEME (symmetric or asymmetric-real), WORKGROUP_SIZE, GRID_WIDTH.
// Dispatch:  N workgroups, folded into x then y.
// Twin:      kernels::fake_quantize_weight_backward::reference

#import uniform
#import reduce

struct Params {
    n: u32,
    k: u32,
    gradient_scale: f32,
}

@group(0) @binding(0) var<storage, read_write> w: array<f32>;
@group(0) @binding(1) var<storage, read_write> scale: array<f32>;
@group(0) @binding(2) var<storage, read_write> zero_point: array<f32>;
@group(0) @binding(3) var<storage, read_write> grad: array<f32>;
@group(0) @binding(4) var<storage, read_write> d_w: array<f32>;
@group(0) @binding(5) var<storage, read_write> d_scale: array<f32>;
@group(0) @binding(6) var<storage, read_write> d_zero: array<f32>;
@group(0) @binding(7) var<uniform> params: Params;

const MIDDLE_CODE: f32 = f32(1u << (BITS - 1u));

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    if row >= params.n {
        return;
    }
    let row_scale = scale[row];
    let zero = select(zero_point[row], MIDDLE_CODE, SCHEME == SYMMETRIC);
    // The zero point is added before rounding only where it is real-valued.
    let before = select(zero, 0.0, SCHEME == SYMMETRIC);
    let after = zero - before;
    var sums = vec2<f32>(); // of the gradients of scale and zero point
    for (var k = lane; k < params.k; k += WORKGROUP_SIZE) {
        let i = row * params.k + k;
        let g = grad[i];
        let position = w[i] / row_scale + before;
        let whole = round(position);
        let rounded = whole + after;
        if rounded >= LOWEST_CODE && rounded <= TOP {
            d_w[i] = g;
            sums.x += g * (whole - position);
        } else {
            d_w[i] = 0.0;
            sums += g * vec2<f32>(clamp(rounded, LOWEST_CODE, TOP) - zero, -row_scale);
        }
    }
    sums = workgroup_sum(sums, lane) * params.gradient_scale;
    if lane == 0u {
        d_scale[row] = sums.x;
        d_zero[row] = select(sums.y, 0.0, SCHEME == SYMMETRIC);
    }
}
