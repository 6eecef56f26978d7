// reduce — sums and extremes over a workgroup in workgroup memory.
//
// All invocations must call, in uniform control flow; all get the result. `reduce_scratch` may be
// reused at once: each function ends with a barrier. A few invocations reduce the others' values,
// then everyone reduces theirs: three barriers, where a tree over 64 invocations has fourteen.
// Needs: const WORKGROUP_SIZE (a power of two, at least 8).

// About the root of the size, so that both halves are equally long.
const REDUCE_PARTS: u32 = select(16u, 8u, WORKGROUP_SIZE <= 64u);

var<workgroup> reduce_scratch: array<vec2<f32>, WORKGROUP_SIZE>;

// (smallest of value.x, largest of value.y)
fn workgroup_range(value: vec2<f32>, lane: u32) -> vec2<f32> {
    reduce_scratch[lane] = value;
    workgroupBarrier();
    if lane < REDUCE_PARTS { // nobody else reads what this writes: `i` differs by REDUCE_PARTS
        var part = value;
        for (var i = lane + REDUCE_PARTS; i < WORKGROUP_SIZE; i += REDUCE_PARTS) {
            part = wider(part, reduce_scratch[i]);
        }
        reduce_scratch[lane] = part;
    }
    workgroupBarrier();
    var result = reduce_scratch[0];
    for (var i = 1u; i < REDUCE_PARTS; i++) {
        result = wider(result, reduce_scratch[i]);
    }
    workgroupBarrier();
    return result;
}

fn wider(a: vec2<f32>, b: vec2<f32>) -> vec2<f32> {
    return vec2<f32>(min(a.x, b.x), max(a.y, b.y));
}

fn workgroup_sum(value: vec2<f32>, lane: u32) -> vec2<f32> {
    reduce_scratch[lane] = value;
    workgroupBarrier();
    if lane < REDUCE_PARTS {
        var part = value;
        for (var i = lane + REDUCE_PARTS; i < WORKGROUP_SIZE; i += REDUCE_PARTS) {
            part += reduce_scratch[i];
        }
        reduce_scratch[lane] = part;
    }
    workgroupBarrier();
    var result = reduce_scratch[0];
    for (var i = 1u; i < REDUCE_PARTS; i++) {
        result += reduce_scratch[i];
    }
    workgroupBarrier();
    return result;
}
