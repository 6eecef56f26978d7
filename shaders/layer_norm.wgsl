// layer_norm — y = (x − mean) / √(variance + eps) · factor + offset per token.
//
//   x               [M, K]  f32
//   factor, offset  [K]     f32   weight and bias, or what a timestep does to a normalized token
//   y               [M, K]  f32
//
// A workgroup takes one token. Workgroup memory: 8·WORKGROUP_SIZE bytes.
// Constants: Elem, quads, rows, WORKGROUP_SIZE, GRID_WIDTH.
// Dispatch:  M workgroups, folded into x then y.
// Twin:      kernels::layer_norm::reference

#import reduce

struct Params {
    m: u32,
    k: u32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<Elem>;
@group(0) @binding(1) var<storage, read_write> factor: array<Elem>;
@group(0) @binding(2) var<storage, read_write> offset: array<Elem>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

#import quads
#import rows
#import layer_norm

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let token = workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    if token >= params.m {
        return;
    }
    let moments = row_moments(token, lane);
    for (var quad = lane; quad < (params.k + 3u) / 4u; quad += WORKGROUP_SIZE) {
        let values = normalized_quad(token, quad, moments);
        for (var i = 0u; i < 4u; i++) {
            if 4u * quad + i < params.k {
                y[token * params.k + 4u * quad + i] = values[i];
            }
        }
    }
}
