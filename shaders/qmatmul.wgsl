// qmatmul — y = epilogue(x · wᵀ) of packed tokens and a packed weight: exact integer
// accumulation, then the zero points by a rank-1 correction.
//
//   x_codes  [M, ceil(K/32)·X_BITS]  u32   packed codes of the tokens
//   x_grid   [M, 3]                  u32   scale (f32), zero point (f32), code sum (i32)
//   w_codes  [N, ceil(K/32)·W_BITS]  u32   packed codes of the weight
//   w_grid   [N, G, 3]               u32   scale (f32), zero point (f32), code sum (i32)
//   bias …                                 see shared/epilogue_*.wgsl
//   y        [M, N]                  f32   or, if RAW, the bits of the i32 accumulator
//
//   y = s_x s_w Σ (q_x − z_x)(q_w − z_w), summed over groups, then the epilogue; zero points as in
//   shared/zero_points.wgsl. Padding codes are zero on both sides.
// A workgroup computes 16·ROWS × 16·COLUMNS results, an invocation ROWS × COLUMNS of them, 16
// apart; K is walked in steps of 32 codes, spread to bytes on entering workgroup memory, at most
// 12 288 bytes. A row of it is two vectors and one to spare: eight neighbouring rows then lie in
// different banks. The form for GPUs without matrix units.
// Constants: X_BITS, W_BITS, GROUPED, RAW, ROWS, COLUMNS; dot_bytes and the epilogue by import.
// Dispatch:  (ceil(N / (16·COLUMNS)), ceil(M / (16·ROWS))) workgroups.
// Twin:      kernels::qmatmul::reference
//
// Floor on a GPU: N·K·M / 4 dot products; each byte that enters workgroup memory serves 16·ROWS or
// 16·COLUMNS of them, and a vector read from it 4·ROWS or 4·COLUMNS. Software adapters have no use
// for workgroup memory: 85 to 125 ms there where qmatmul_registers takes 47.

#import bytes
#import code_units
#import dot
#import zero_points

#import packed_product

const TILE_M: u32 = 16u * ROWS;
const TILE_N: u32 = 16u * COLUMNS;
const STRIDE: u32 = 3u; // vectors per row
const ONES: u32 = 0x01010101u;
const FOURS: u32 = ROWS / 4u;

var<workgroup> tile_x: array<vec4<u32>, TILE_M * STRIDE>;
var<workgroup> tile_w: array<vec4<u32>, TILE_N * STRIDE>;

// Half a step is a vector: two units of a row.
fn load_tiles(m0: u32, n0: u32, step: u32, lane: u32) {
    for (var i = lane; i < TILE_M * 2u; i += WORKGROUP_SIZE) {
        let row = i / 2u;
        let unit = step * 4u + i % 2u * 2u;
        tile_x[row * STRIDE + i % 2u] = vec4<u32>(
            bytes_of_unit(x_unit(m0 + row, unit), X_BITS),
            bytes_of_unit(x_unit(m0 + row, unit + 1u), X_BITS),
        );
    }
    for (var i = lane; i < TILE_N * 2u; i += WORKGROUP_SIZE) {
        let row = i / 2u;
        let unit = step * 4u + i % 2u * 2u;
        tile_w[row * STRIDE + i % 2u] = vec4<u32>(
            bytes_of_unit(w_unit(n0 + row, unit), W_BITS),
            bytes_of_unit(w_unit(n0 + row, unit + 1u), W_BITS),
        );
    }
}

fn dot_vectors(x: vec4<u32>, w: vec4<u32>) -> u32 {
    return dot_bytes(x.x, w.x) + dot_bytes(x.y, w.y) + dot_bytes(x.z, w.z) + dot_bytes(x.w, w.w);
}

fn multiply_tiles(
    acc: ptr<function, array<vec4<u32>, FOURS * COLUMNS>>,
    x_sums: ptr<function, array<vec4<u32>, FOURS>>,
    lane: u32,
) {
    let thread_m = lane / 16u;
    let thread_n = lane % 16u;
    for (var half = 0u; half < 2u; half++) {
        for (var four = 0u; four < FOURS; four++) {
            let row = (thread_m + 64u * four) * STRIDE + half;
            let x0 = tile_x[row];
            let x1 = tile_x[row + 16u * STRIDE];
            let x2 = tile_x[row + 32u * STRIDE];
            let x3 = tile_x[row + 48u * STRIDE];
            for (var j = 0u; j < COLUMNS; j++) {
                let w = tile_w[(thread_n + 16u * j) * STRIDE + half];
                (*acc)[four * COLUMNS + j] += vec4<u32>(
                    dot_vectors(x0, w), dot_vectors(x1, w), dot_vectors(x2, w), dot_vectors(x3, w),
                );
            }
            if GROUPED {
                let ones = vec4<u32>(ONES);
                (*x_sums)[four] += vec4<u32>(
                    dot_vectors(x0, ones), dot_vectors(x1, ones),
                    dot_vectors(x2, ones), dot_vectors(x3, ones),
                );
            }
        }
    }
}

// Four tokens' values of a group from its integers.
fn corrected_four(sums: vec4<i32>, x_sums: vec4<i32>, m: u32, w: WeightZero, k: i32) -> vec4<f32> {
    return vec4<f32>(
        corrected(sums.x, token_zero(min(m, params.m - 1u), x_sums.x, k), w),
        corrected(sums.y, token_zero(min(m + 16u, params.m - 1u), x_sums.y, k), w),
        corrected(sums.z, token_zero(min(m + 32u, params.m - 1u), x_sums.z, k), w),
        corrected(sums.w, token_zero(min(m + 48u, params.m - 1u), x_sums.w, k), w),
    );
}

// Adds a finished group to `total`. Whole vectors only: FXC has no stores to a component chosen
// at run time.
fn fold_group(
    acc: ptr<function, array<vec4<u32>, FOURS * COLUMNS>>,
    x_sums: ptr<function, array<vec4<u32>, FOURS>>,
    total: ptr<function, array<vec4<f32>, FOURS * COLUMNS>>,
    m: u32,
    n: u32,
    group: u32,
) {
    let groups = (params.k + params.group_size - 1u) / params.group_size;
    let k = i32(min(params.group_size, params.k - group * params.group_size));
    for (var j = 0u; j < COLUMNS; j++) {
        let column = min(n + 16u * j, params.n - 1u);
        let w = weight_zero((column * groups + group) * 3u, k);
        for (var four = 0u; four < FOURS; four++) {
            let at = four * COLUMNS + j;
            let sums = vec4<i32>((*acc)[at]);
            (*total)[at] += corrected_four(sums, vec4<i32>((*x_sums)[four]), m + 64u * four, w, k);
        }
    }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let m0 = workgroup_id.y * TILE_M;
    let n0 = workgroup_id.x * TILE_N;
    let m = m0 + lane / 16u;
    let n = n0 + lane % 16u;
    let steps = (params.k + 31u) / 32u;
    var acc: array<vec4<u32>, FOURS * COLUMNS>;
    var x_sums: array<vec4<u32>, FOURS>;
    var total: array<vec4<f32>, FOURS * COLUMNS>;
    for (var step = 0u; step < steps; step++) {
        load_tiles(m0, n0, step, lane);
        workgroupBarrier();
        multiply_tiles(&acc, &x_sums, lane);
        if GROUPED {
            let end = min((step + 1u) * 32u, params.k);
            if end % params.group_size == 0u || end == params.k {
                fold_group(&acc, &x_sums, &total, m, n, (end - 1u) / params.group_size);
                acc = array<vec4<u32>, FOURS * COLUMNS>();
                x_sums = array<vec4<u32>, FOURS>();
            }
        }
        workgroupBarrier();
    }
    if !GROUPED {
        for (var four = 0u; four < FOURS; four++) {
            x_sums[four] = vec4<u32>(
                token_sum(m + 64u * four), token_sum(m + 64u * four + 16u),
                token_sum(m + 64u * four + 32u), token_sum(m + 64u * four + 48u),
            );
        }
        fold_group(&acc, &x_sums, &total, m, n, 0u);
    }
    store(&acc, &total, m, n);
}

// Sum of the codes of the token at `row`.
fn token_sum(row: u32) -> u32 {
    return x_grid[min(row, params.m - 1u) * 3u + 2u];
}

fn store(
    acc: ptr<function, array<vec4<u32>, FOURS * COLUMNS>>,
    total: ptr<function, array<vec4<f32>, FOURS * COLUMNS>>,
    m: u32,
    n: u32,
) {
    for (var i = 0u; i < ROWS; i++) {
        let row = m + 16u * i;
        if row < params.m {
            let scale = bitcast<f32>(x_grid[row * 3u]);
            for (var j = 0u; j < COLUMNS; j++) {
                let column = n + 16u * j;
                let at = i / 4u * COLUMNS + j;
                if column < params.n {
                    let result = finish(row, column, scale * (*total)[at][i % 4u]);
                    let integer = bitcast<f32>((*acc)[at][i % 4u]);
                    y[row * params.n + column] = select(result, integer, RAW);
                }
            }
        }
    }
}
