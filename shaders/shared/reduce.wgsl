// reduce — sums and extremes over a workgroup by a tree in workgroup memory.
//
// All invocations must call, in uniform control flow; all get the result. `reduce_scratch` may be
// reused at once: each function ends with a barrier. Needs: const WORKGROUP_SIZE (a power of two).

var<workgroup> reduce_scratch: array<vec2<f32>, WORKGROUP_SIZE>;

// (smallest of value.x, largest of value.y)
fn workgroup_range(value: vec2<f32>, lane: u32) -> vec2<f32> {
    reduce_scratch[lane] = value;
    workgroupBarrier();
    for (var half = WORKGROUP_SIZE / 2u; half > 0u; half /= 2u) {
        if lane < half {
            let other = reduce_scratch[lane + half];
            let mine = reduce_scratch[lane];
            reduce_scratch[lane] = vec2<f32>(min(mine.x, other.x), max(mine.y, other.y));
        }
        workgroupBarrier();
    }
    let result = reduce_scratch[0];
    workgroupBarrier();
    return result;
}

fn workgroup_sum(value: vec2<f32>, lane: u32) -> vec2<f32> {
    reduce_scratch[lane] = value;
    workgroupBarrier();
    for (var half = WORKGROUP_SIZE / 2u; half > 0u; half /= 2u) {
        if lane < half {
            reduce_scratch[lane] += reduce_scratch[lane + half];
        }
        workgroupBarrier();
    }
    let result = reduce_scratch[0];
    workgroupBarrier();
    return result;
}
