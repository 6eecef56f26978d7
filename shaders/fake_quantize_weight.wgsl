// fake_quantize_weight — y = scale · (code − zero_point), the codes of a weight never stored.
//
//   w           [N, K]  f32
//   scale       [N]     f32   not 0
//   zero_point  [N]     f32   real-valued; where SCHEME is symmetric it is 2^(BITS−1) instead
//   y           [N, K]  f32   result; NaN where w is
//
// Constants: BITS, SCHEME (symmetric or asymmetric-real), WORKGROUP_SIZE, GRID_WIDTH.
// Dispatch:  ceil(N·K / WORKGROUP_SIZE) workgroups, folded into x then y.
// Twin:      kernels::fake_quantize_weight::reference

#import uniform

struct Params {
    n: u32,
    k: u32,
}

@group(0) @binding(0) var<storage, read_write> w: array<f32>;
@group(0) @binding(1) var<storage, read_write> scale: array<f32>;
@group(0) @binding(2) var<storage, read_write> zero_point: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

const MIDDLE_CODE: f32 = f32(1u << (BITS - 1u));

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (workgroup_id.y * GRID_WIDTH + workgroup_id.x) * WORKGROUP_SIZE + lane;
    if i >= params.n * params.k {
        return;
    }
    let row = i / params.k;
    let zero = select(zero_point[row], MIDDLE_CODE, SCHEME == SYMMETRIC);
    let grid = Grid(scale[row], zero);
    let value = w[i];
    let code = code_from_value(value, grid);
    // By its bits, since a compiler may assume that there is no NaN, and `clamp` may swallow it.
    let is_nan = (bitcast<u32>(value) & 0x7FFFFFFFu) > 0x7F800000u;
    y[i] = select(grid.scale * (code - grid.zero_point), value, is_nan);
}
