// token_extremes — smallest and largest value of the token that a workgroup takes.
//
// All invocations must call, in uniform control flow; all get the result. The largest is
// F32_LARGEST if some value is no finite number. Needs: `reduce`, a binding named `x`.

const F32_LARGEST: f32 = 3.4028234e38;

// By its bits, since a compiler may assume that there is no NaN.
fn is_finite(value: f32) -> bool {
    return (bitcast<u32>(value) & 0x7F800000u) != 0x7F800000u;
}

fn token_extremes(row: u32, in_features: u32, lane: u32) -> vec2<f32> {
    var extremes = vec2<f32>(F32_LARGEST, -F32_LARGEST);
    for (var k = lane; k < in_features; k += WORKGROUP_SIZE) {
        let value = x[row + k];
        extremes = vec2<f32>(min(extremes.x, value), max(extremes.y, value));
        if !is_finite(value) {
            extremes.y = F32_LARGEST;
        }
    }
    return workgroup_range(extremes, lane);
}
