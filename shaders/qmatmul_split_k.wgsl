// qmatmul_split_k — y = epilogue(x · wᵀ) of packed tokens and a packed weight where results are few:
// the invocations of a workgroup share the elements of a row, and there is little code to compile.
//
//   x_codes  [M, ceil(K/32)·X_BITS]  u32   packed codes of the tokens
//   x_grid   [M, 3]                  u32   scale (f32), zero point (f32), code sum (i32)
//   w_codes  [N, ceil(K/32)·W_BITS]  u32   packed codes of the weight
//   w_grid   [N, 3]                  u32   scale (f32), zero point (f32), code sum (i32)
//   bias …                                 see shared/epilogue_*.wgsl
//   y        [M, N]                  f32   or, if RAW, the bits of the i32 accumulator
//
// An invocation walks every PARTS-th unit of eight codes of one column and four tokens. PARTS
// neighbours read neighbouring units; their sums are integers, so how K is split changes nothing.
// Workgroup memory: 16·WORKGROUP_SIZE bytes.
// Constants: X_BITS, W_BITS, RAW, PARTS (1, or from 4 on), WORKGROUP_SIZE; dot_bytes and the epilogue
// by import.
// Dispatch:  (ceil(N · PARTS / WORKGROUP_SIZE), ceil(M / 4)) workgroups.
// Twin:      kernels::qmatmul::reference
//
// Floor with few tokens: N·K·W_BITS/8 bytes, each of which is read once per four tokens. On lavapipe
// with one part it takes 1.8 times as long as qmatmul_registers at 4 bits (256 × 8960 × 1536), 3.6
// times at 3 and 2.8 at 8, and little to compile: the pocket model's three epilogues in 0.6 s, where
// qmatmul_registers took 3.9 in another run (examples/first_use). On a GPU it has not been timed.

#import bytes
#import code_units
#import dot
#import zero_points

#import packed_product

const TOKENS: u32 = 4u;

// By invocation: sums of its part, by token.
var<workgroup> part_sums: array<vec4<u32>, WORKGROUP_SIZE>;

fn dot_unit(x: vec2<u32>, w: vec2<u32>) -> u32 {
    let bytes = bytes_of_unit(x, X_BITS);
    return dot_bytes(bytes.x, w.x) + dot_bytes(bytes.y, w.y);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let part = lane % PARTS;
    let column = workgroup_id.x * (WORKGROUP_SIZE / PARTS) + lane / PARTS;
    let first = workgroup_id.y * TOKENS;
    let units = units_per_row();
    var sums = vec4<u32>();
    for (var unit = part; unit < units; unit += PARTS) {
        let w = bytes_of_unit(w_unit(column, unit), W_BITS);
        sums += vec4<u32>(
            dot_unit(x_unit(first, unit), w), dot_unit(x_unit(first + 1u, unit), w),
            dot_unit(x_unit(first + 2u, unit), w), dot_unit(x_unit(first + 3u, unit), w),
        );
    }
    part_sums[lane] = sums;
    if PARTS > 1u {
        workgroupBarrier();
    }
    if column >= params.n {
        return;
    }
    // Each of the parts ends one token; alone, one ends all of them.
    let w = weight_zero(column * 3u, i32(params.k));
    for (var token = part; token < min(TOKENS, params.m - first); token += PARTS) {
        var sum = 0u;
        for (var i = lane - part; i < lane - part + PARTS; i++) {
            sum += part_sums[i][token];
        }
        let row = first + token;
        let x = token_zero(row, bitcast<i32>(x_grid[row * 3u + 2u]), i32(params.k));
        let value = bitcast<f32>(x_grid[row * 3u]) * corrected(i32(sum), x, w);
        y[row * params.n + column] = select(finish(row, column, value), bitcast<f32>(sum), RAW);
    }
}
