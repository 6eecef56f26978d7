// rope — rotates each pair of neighboring channels of every head by the angle of its token.
//
//   x    [M, H·D]  f32   M tokens, H heads of D channels
//   cos  [M, D/2]  f32   of the angle of pair j = channels 2j and 2j+1, the same for all heads
//   sin  [M, D/2]  f32
//   y    [M, H·D]  f32   (a, b) becomes (a·cos − b·sin, a·sin + b·cos)
//
// Constants: WORKGROUP_SIZE, GRID_WIDTH.
// Dispatch:  ceil(M·H·D/2 / WORKGROUP_SIZE) workgroups, folded into x then y; one pair each.
// Twin:      kernels::rope::reference

struct Params {
    tokens: u32,
    heads: u32,
    pairs: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> cos: array<f32>;
@group(0) @binding(2) var<storage, read_write> sin: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (workgroup_id.y * GRID_WIDTH + workgroup_id.x) * WORKGROUP_SIZE + lane;
    if i >= params.tokens * params.heads * params.pairs {
        return;
    }
    let angle = i / (params.heads * params.pairs) * params.pairs + i % params.pairs;
    let a = x[2u * i];
    let b = x[2u * i + 1u];
    y[2u * i] = a * cos[angle] - b * sin[angle];
    y[2u * i + 1u] = a * sin[angle] + b * cos[angle];
}
