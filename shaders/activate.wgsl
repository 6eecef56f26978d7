// activate — y = act(x), element by element.
//
//   x  [len]  f32
//   y  [len]  f32
//
// An invocation computes four elements, WORKGROUP_SIZE apart.
// Constants: ACTIVATION, WORKGROUP_SIZE, GRID_WIDTH.
// Dispatch:  ceil(len / (4·WORKGROUP_SIZE)) workgroups, folded into x then y.
// Twin:      kernels::activate::reference

#import activation

struct Params {
    len: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = (workgroup_id.y * GRID_WIDTH + workgroup_id.x) * (4u * WORKGROUP_SIZE) + lane;
    let i = vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u) * WORKGROUP_SIZE;
    let at = min(i, vec4<u32>(params.len - 1u));
    let values = activate(vec4<f32>(x[at.x], x[at.y], x[at.z], x[at.w]));
    for (var j = 0u; j < 4u; j++) {
        if i[j] < params.len {
            y[i[j]] = values[j];
        }
    }
}
