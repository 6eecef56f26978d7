// ceiling_arithmetic — nothing but multiply-adds in registers: the rate that products are compared
// with.
//
//   seed  [1]       u32   added to every start value
//   y     [COUNT]   u32   sum of an invocation's values, as an integer that wraps around
//
// What is advanced STEPS times comes by import: vectors of the device's ordinary arithmetic, or
// matrices of its matrix units. Factor, term and steps come at run time, so that nothing is
// folded, and all values stay small integers: the result is exact, whatever is rounded in between.
// Constants: advanced by import, with what it needs.
// Dispatch:  COUNT / WORKGROUP_SIZE workgroups, folded.
// Twin:      kernels::ceiling_arithmetic::reference

#import advanced

struct Params {
    count: u32,
    steps: u32,
    factor: i32,
    term: i32,
}

@group(0) @binding(0) var<storage, read_write> seed: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let total = advanced(lane);
    let i = (workgroup_id.y * GRID_WIDTH + workgroup_id.x) * WORKGROUP_SIZE + lane;
    if i < params.count {
        y[i] = bitcast<u32>(total);
    }
}
