// qmatmul_split_k — y = epilogue(x · wᵀ) of packed tokens and a packed weight where results are few:
// the invocations of a workgroup share the elements of a row, and there is little code to compile.
//
//   x_codes  [M, ceil(K/32)·X_BITS]  u32   packed codes of the tokens
//   x_grid   [M, 3]                  u32   scale (f32), zero point (f32), code sum (i32)
//   w_codes  [N, ceil(K/32)·W_BITS]  u32   packed codes of the weight
//   w_grid   [N, G, 3]               u32   scale (f32), zero point (f32), code sum (i32)
//   bias …                                 see shared/epilogue_*.wgsl
//   y        [M, N]                  f32   or, if RAW, the bits of the i32 accumulator
//
// An invocation walks every PARTS-th unit of eight codes of one column and four tokens. PARTS
// neighbours read neighbouring units; their sums are integers, so how K is split changes nothing.
// If GROUPED, it walks every PARTS-th group, for a group's integers must meet before its scale.
// Workgroup memory: 16·WORKGROUP_SIZE bytes.
// Constants: X_BITS, W_BITS, GROUPED, RAW, PARTS (1, or from 4 on), WORKGROUP_SIZE; dot_bytes and the
// epilogue by import.
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

const ONES: u32 = 0x01010101u;

// By invocation: what its part adds up to, by token; integers, or floats if GROUPED.
var<workgroup> part_sums: array<vec4<u32>, WORKGROUP_SIZE>;

fn dot_unit(x: vec2<u32>, w: vec2<u32>) -> u32 {
    let bytes = bytes_of_unit(x, X_BITS);
    return dot_bytes(bytes.x, w.x) + dot_bytes(bytes.y, w.y);
}

// Sums of the codes' products of four tokens from `first` on.
fn part_of_units(first: u32, column: u32, part: u32) -> vec4<u32> {
    var sums = vec4<u32>();
    for (var unit = part; unit < units_per_row(); unit += PARTS) {
        let w = bytes_of_unit(w_unit(column, unit), W_BITS);
        sums += vec4<u32>(
            dot_unit(x_unit(first, unit), w), dot_unit(x_unit(first + 1u, unit), w),
            dot_unit(x_unit(first + 2u, unit), w), dot_unit(x_unit(first + 3u, unit), w),
        );
    }
    return sums;
}

// What groups stand for in four tokens from `first` on, but for the tokens' scales.
fn part_of_groups(first: u32, column: u32, part: u32) -> vec4<f32> {
    let groups = (params.k + params.group_size - 1u) / params.group_size;
    let group_units = params.group_size / 8u;
    var totals = vec4<f32>();
    for (var group = part; group < groups; group += PARTS) {
        var sums = vec4<u32>();
        var x_sums = vec4<u32>();
        let end = min((group + 1u) * group_units, units_per_row());
        for (var unit = group * group_units; unit < end; unit++) {
            let w = bytes_of_unit(w_unit(column, unit), W_BITS);
            let x = array(
                x_unit(first, unit), x_unit(first + 1u, unit),
                x_unit(first + 2u, unit), x_unit(first + 3u, unit),
            );
            sums += vec4<u32>(
                dot_unit(x[0], w), dot_unit(x[1], w), dot_unit(x[2], w), dot_unit(x[3], w),
            );
            let ones = vec2<u32>(ONES);
            x_sums += vec4<u32>(
                dot_unit(x[0], ones), dot_unit(x[1], ones),
                dot_unit(x[2], ones), dot_unit(x[3], ones),
            );
        }
        let k = i32(min(params.group_size, params.k - group * params.group_size));
        let w = weight_zero((min(column, params.n - 1u) * groups + group) * 3u, k);
        totals += corrected_four(vec4<i32>(sums), vec4<i32>(x_sums), first, w, k);
    }
    return totals;
}

// The values of a group in four tokens from its integers.
fn corrected_four(
    sums: vec4<i32>,
    x_sums: vec4<i32>,
    first: u32,
    w: WeightZero,
    k: i32,
) -> vec4<f32> {
    let last = params.m - 1u;
    return vec4<f32>(
        corrected(sums.x, token_zero(min(first, last), x_sums.x, k), w),
        corrected(sums.y, token_zero(min(first + 1u, last), x_sums.y, k), w),
        corrected(sums.z, token_zero(min(first + 2u, last), x_sums.z, k), w),
        corrected(sums.w, token_zero(min(first + 3u, last), x_sums.w, k), w),
    );
}

// The result of one token from the sums of the parts, which begin at `lane`; `w` is the row's grid,
// unused if GROUPED.
fn end_token(token: u32, row: u32, column: u32, lane: u32, w: WeightZero) {
    let scale = bitcast<f32>(x_grid[row * 3u]);
    if GROUPED {
        var total = 0.0;
        for (var i = lane; i < lane + PARTS; i++) {
            total += bitcast<f32>(part_sums[i][token]);
        }
        y[row * params.n + column] = finish(row, column, scale * total);
        return;
    }
    var sum = 0u;
    for (var i = lane; i < lane + PARTS; i++) {
        sum += part_sums[i][token];
    }
    let x = token_zero(row, bitcast<i32>(x_grid[row * 3u + 2u]), i32(params.k));
    let value = scale * corrected(i32(sum), x, w);
    y[row * params.n + column] = select(finish(row, column, value), bitcast<f32>(sum), RAW);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let part = lane % PARTS;
    let column = workgroup_id.x * (WORKGROUP_SIZE / PARTS) + lane / PARTS;
    let first = workgroup_id.y * TOKENS;
    if GROUPED {
        part_sums[lane] = bitcast<vec4<u32>>(part_of_groups(first, column, part));
    } else {
        part_sums[lane] = part_of_units(first, column, part);
    }
    if PARTS > 1u {
        workgroupBarrier();
    }
    if column >= params.n {
        return;
    }
    // Each of the parts ends one token; alone, one ends all of them.
    let w = weight_zero(column * 3u, i32(params.k));
    for (var token = part; token < min(TOKENS, params.m - first); token += PARTS) {
        end_token(token, first + token, column, lane - part, w);
    }
}
