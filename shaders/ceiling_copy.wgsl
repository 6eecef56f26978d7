// ceiling_copy — y = x: the bandwidth that everything else is compared with.
//
//   x  [VECTORS, 4]  u32
//   y  [VECTORS, 4]  u32
//
// An invocation moves 16 bytes, neighbours next to each other.
// Constants: WORKGROUP_SIZE, GRID_WIDTH.
// Dispatch:  ceil(VECTORS / WORKGROUP_SIZE) workgroups, folded.
// Twin:      kernels::ceiling_copy::reference

struct Params {
    vectors: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<u32>>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (workgroup_id.y * GRID_WIDTH + workgroup_id.x) * WORKGROUP_SIZE + lane;
    if i < params.vectors {
        y[i] = x[i];
    }
}
