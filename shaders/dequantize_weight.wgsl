// dequantize_weight — Ŵ = scale · (code − zero_point), one element per invocation.
//
//   codes  [N, ceil(K/32)·BITS]  u32   packed codes (shared/codes.wgsl)
//   grid   [N, G, 3]             u32   scale (f32), zero point (f32), code sum (i32), as bits
//   w      [N, K]                f32   result, row-major
//
// G = ceil(K / group_size). The rows may as well be tokens, whose grid has the same layout.
// Constants: BITS, WORKGROUP_SIZE, GRID_WIDTH.
// Dispatch:  ceil(N·K / WORKGROUP_SIZE) workgroups, folded into x then y.
// Twin:      quant::PackedRows::values

#import codes

struct Params {
    n: u32,
    k: u32,
    group_size: u32,
}

@group(0) @binding(0) var<storage, read_write> codes: array<u32>;
@group(0) @binding(1) var<storage, read_write> grid: array<u32>;
@group(0) @binding(2) var<storage, read_write> w: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

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
    let column = i % params.k;
    let row_words = (params.k + 31u) / 32u * BITS;
    let groups = (params.k + params.group_size - 1u) / params.group_size;
    let at = (row * groups + column / params.group_size) * 3u;
    let code = f32(code_at(row * row_words, column));
    w[i] = bitcast<f32>(grid[at]) * (code - bitcast<f32>(grid[at + 1u]));
}
