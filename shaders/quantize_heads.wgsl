// quantize_heads — signed 8-bit codes of every head of every token, for integer scores.
//
//   x      [T, H·HEAD_DIM]    Elem  queries or keys
//   mean   [H·HEAD_DIM]       f32   of the keys over their tokens
//   codes  [T, H·HEAD_DIM/4]  u32   four codes a word, the first lowest
//   grid   [T, H, 2]          f32   scale of the codes; Σ x · mean for queries, 0 for keys
//
// Where CENTER, the codes are of x − mean: all scores of a query then move by one value, which its
// softmax ignores and which the second grid value adds to the log-sum-exp again.
//
// An invocation owns a head of a token. One that holds no number gets the scale NaN.
//
// Constants: Elem, CENTER, HEAD_DIM (a multiple of 4), WORKGROUP_SIZE, GRID_WIDTH.
// Dispatch:  ceil(T·H / WORKGROUP_SIZE) workgroups, folded into x then y.
// Twin:      kernels::quantize_heads::reference

struct Params {
    tokens: u32,
    heads: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<Elem>>;
@group(0) @binding(1) var<storage, read_write> mean: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> codes: array<u32>;
@group(0) @binding(3) var<storage, read_write> grid: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

const VECTORS: u32 = HEAD_DIM / 4u;
const CODE_MAX: f32 = 127.0;

// Not a constant: an expression of constants must not be NaN.
var<private> quiet_nan: u32 = 0x7FC00000u;

fn is_number(value: vec4<f32>) -> bool {
    return all((bitcast<vec4<u32>>(value) & vec4<u32>(0x7F800000u)) != vec4<u32>(0x7F800000u));
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (workgroup_id.y * GRID_WIDTH + workgroup_id.x) * WORKGROUP_SIZE + lane;
    if i >= params.tokens * params.heads {
        return;
    }
    let head = i % params.heads * VECTORS;
    var largest = vec4<f32>(0.0);
    var product = 0.0;
    var numbers = true;
    for (var c = 0u; c < VECTORS; c++) {
        var value = vec4<f32>(x[i * VECTORS + c]);
        if CENTER {
            value -= mean[head + c];
        } else {
            product += dot(value, mean[head + c]);
        }
        numbers = numbers && is_number(value);
        largest = max(largest, abs(value));
    }
    let top = max(max(largest.x, largest.y), max(largest.z, largest.w));
    let inverse = select(0.0, CODE_MAX / top, top > 1e-30 && numbers);
    for (var c = 0u; c < VECTORS; c++) {
        var value = vec4<f32>(x[i * VECTORS + c]);
        if CENTER {
            value -= mean[head + c];
        }
        let scaled = clamp(round(value * inverse), vec4<f32>(-CODE_MAX), vec4<f32>(CODE_MAX));
        let code = vec4<u32>(vec4<i32>(select(vec4<f32>(0.0), scaled, vec4<bool>(numbers)))) & vec4<u32>(0xFFu);
        codes[i * VECTORS + c] = code.x | code.y << 8u | code.z << 16u | code.w << 24u;
    }
    grid[2u * i] = select(bitcast<f32>(quiet_nan), top / CODE_MAX, numbers);
    grid[2u * i + 1u] = product;
}
