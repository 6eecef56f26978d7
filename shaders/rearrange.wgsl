// rearrange — y[start + Σ iₐ·to_a] = x[Σ iₐ·from_a]: a view becomes values in a row, or a part of a
// larger tensor.
//
//   x  [any]  u32  4-byte elements; axis a of the view is from_a apart
//   y  [any]  u32  axis a is to_a apart, from element start on
//
// Views have six axes, the last one the fastest; those that a tensor has not are of size 1 in
// front. An invocation copies one element.
//
// Constants: WORKGROUP_SIZE, GRID_WIDTH.
// Dispatch:  ceil(size_0 · … · size_5 / WORKGROUP_SIZE) workgroups, folded into x then y.
// Twin:      kernels::rearrange::reference

struct Params {
    count: u32,
    start: u32,
    size_1: u32,
    size_2: u32,
    size_3: u32,
    size_4: u32,
    size_5: u32,
    from_0: u32,
    from_1: u32,
    from_2: u32,
    from_3: u32,
    from_4: u32,
    from_5: u32,
    to_0: u32,
    to_1: u32,
    to_2: u32,
    to_3: u32,
    to_4: u32,
    to_5: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let workgroup = workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    var rest = workgroup * WORKGROUP_SIZE + lane;
    if rest >= params.count {
        return;
    }
    let i5 = rest % params.size_5;
    rest /= params.size_5;
    let i4 = rest % params.size_4;
    rest /= params.size_4;
    let i3 = rest % params.size_3;
    rest /= params.size_3;
    let i2 = rest % params.size_2;
    rest /= params.size_2;
    let i1 = rest % params.size_1;
    let i0 = rest / params.size_1;
    let source = i0 * params.from_0 + i1 * params.from_1 + i2 * params.from_2
        + i3 * params.from_3 + i4 * params.from_4 + i5 * params.from_5;
    let place = i0 * params.to_0 + i1 * params.to_1 + i2 * params.to_2
        + i3 * params.to_3 + i4 * params.to_4 + i5 * params.to_5;
    y[params.start + place] = x[source];
}
