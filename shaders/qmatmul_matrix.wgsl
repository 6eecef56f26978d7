// qmatmul_matrix — y = epilogue(x · wᵀ) of packed tokens and a packed weight on matrix units: f16
// factors, f32 sums, i32 totals.
//
//   x_codes  [M, ceil(K/32)·X_BITS]  u32   packed codes of the tokens
//   x_grid   [M, 3]                  u32   scale (f32), zero point (f32), code sum (i32)
//   w_codes  [N, ceil(K/32)·W_BITS]  u32   packed codes of the weight
//   w_grid   [N, G, 3]               u32   scale (f32), zero point (f32), code sum (i32)
//   bias …                                 see shared/epilogue_*.wgsl
//   y        [M, N]                  f32   or, if RAW, the bits of the i32 accumulator
//
// Codes become q − 2^(b−1), which f16 holds exactly, as f32 does sums of CHUNK products below
// 2^24: every chunk ends in integers, so that nothing is ever rounded.
//   Σ q_x q_w = Σ (q_x − h_x)(q_w − h_w) + h_w Σ q_x + h_x Σ q_w − h_x h_w · count
// A workgroup is eight subgroups, 2 × 4 of them, that compute 8·SIZE × 8·SIZE results together; a
// subgroup has 4 × 2 matrices. K is walked in steps of 32 codes, expanded on entering workgroup
// memory: 30 720 bytes at SIZE 16, of which 8 192 are for reading the matrices back and 2 048 for sums
// of the tokens' codes. Rows of tiles are 40 elements apart, so that they begin in different banks. If
// GROUPED, a group ends a chunk, whose integers become floats with the group's grid.
// Constants: X_BITS, W_BITS, GROUPED, RAW, SIZE, Matrix* (types), SUBGROUP (its size); the epilogue by
// import.
// Dispatch:  (ceil(N / (8·SIZE)), ceil(M / (8·SIZE))) workgroups.
// Twin:      kernels::qmatmul::reference
//
// Floor on a GPU: the larger of 2·M·N·K over the rate of f16 matrices and the expansion, one
// conversion per code and 8·SIZE results. Proven on a software adapter only, which emulates the
// matrices: 240 ms where qmatmul_registers takes 50 (256 × 1536 × 1536, CPU time). Every group costs
// a result some twenty operations more, as many as eighty products of bytes in qmatmul.wgsl: groups of
// 128 codes should still gain a factor of two over that form, groups of 32 nothing.

#import code_units
#import zero_points

#import packed_product

const TILE: u32 = 8u * SIZE;
const STRIDE: u32 = 40u;
const X_HALF: u32 = 1u << (X_BITS - 1u);
const W_HALF: u32 = 1u << (W_BITS - 1u);
const CHUNK: u32 = 1u << (21u - X_BITS - W_BITS); // steps of 32 codes
const PER_LANE: u32 = SIZE * SIZE / SUBGROUP;
const UNITS: u32 = TILE * 4u / WORKGROUP_SIZE; // of an invocation in a step

var<workgroup> tile_x: array<f16, TILE * STRIDE>;
var<workgroup> tile_w: array<f16, TILE * STRIDE>;
var<workgroup> results: array<f32, 8u * SIZE * SIZE>;
// By row of the tile and unit of a step: Σ q_x of the group so far, only if GROUPED.
var<workgroup> x_sums: array<i32, TILE * 4u>;

fn sum_of_unit(unit: vec2<u32>) -> i32 {
    var sum = 0u;
    for (var j = 0u; j < 8u; j++) {
        sum += code_of_unit(unit, j, X_BITS);
    }
    return i32(sum);
}

// An invocation loads the same rows and units in every step; `x_parts` are its sums of Σ q_x.
fn load_tiles(m0: u32, n0: u32, step: u32, lane: u32, x_parts: ptr<function, array<i32, UNITS>>) {
    for (var part = 0u; part < UNITS; part++) {
        let i = part * WORKGROUP_SIZE + lane;
        let at = i / 4u * STRIDE + i % 4u * 8u;
        let x = x_unit(m0 + i / 4u, step * 4u + i % 4u);
        let w = w_unit(n0 + i / 4u, step * 4u + i % 4u);
        for (var j = 0u; j < 8u; j++) {
            tile_x[at + j] = f16(f32(code_of_unit(x, j, X_BITS)) - f32(X_HALF));
            tile_w[at + j] = f16(f32(code_of_unit(w, j, W_BITS)) - f32(W_HALF));
        }
        if GROUPED {
            (*x_parts)[part] += sum_of_unit(x);
        }
    }
}

// Adds the matrix that this subgroup left in `results` to the integers of `tile`.
fn add_results(sums: ptr<function, array<i32, 8u * PER_LANE>>, tile: u32, local: u32) {
    for (var e = 0u; e < PER_LANE; e++) {
        let value = results[local / SUBGROUP * SIZE * SIZE + e * SUBGROUP + local % SUBGROUP];
        (*sums)[tile * PER_LANE + e] += i32(value);
    }
}

// A group of a row and a column.
struct GroupSum {
    codes: i32,  // Σ q_x q_w
    value: f32,  // what it stands for, but for the token's scale
}

// From the sum of centered codes and Σ q_x.
fn group_sum(centered: i32, row: u32, column: u32, group: u32, x_sum: i32) -> GroupSum {
    var groups = 1u;
    var k = i32(params.k);
    if GROUPED {
        groups = (params.k + params.group_size - 1u) / params.group_size;
        k = i32(min(params.group_size, params.k - group * params.group_size));
    }
    let count = (k + 31) / 32 * 32; // padding codes are zero, not centered
    let w = weight_zero((column * groups + group) * 3u, k);
    let codes = centered + i32(W_HALF) * x_sum + i32(X_HALF) * (w.sum - i32(W_HALF) * count);
    return GroupSum(codes, corrected(codes, token_zero(row, x_sum, k), w));
}

// Row and column of result `i` of an invocation among those of its subgroup.
fn element_of(i: u32, local: u32) -> vec2<u32> {
    let tile = i / PER_LANE;
    let element = i % PER_LANE * SUBGROUP + local % SUBGROUP;
    return vec2<u32>(tile / 2u * SIZE + element / SIZE, tile % 2u * SIZE + element % SIZE);
}

// Adds what a group stands for to `totals` and clears `sums`; results of this subgroup begin at row `sub_m` of the tile
// at `m0`, and at column `n0`.
fn fold_group(
    sums: ptr<function, array<i32, 8u * PER_LANE>>,
    totals: ptr<function, array<f32, 8u * PER_LANE>>,
    m0: u32,
    sub_m: u32,
    n0: u32,
    group: u32,
    local: u32,
) {
    for (var i = 0u; i < 8u * PER_LANE; i++) {
        let at = element_of(i, local);
        let row = min(m0 + sub_m + at.x, params.m - 1u);
        let column = min(n0 + at.y, params.n - 1u);
        let first = (sub_m + at.x) * 4u;
        let x_sum = x_sums[first] + x_sums[first + 1u] + x_sums[first + 2u] + x_sums[first + 3u];
        (*totals)[i] += group_sum((*sums)[i], row, column, group, x_sum).value;
        (*sums)[i] = 0;
    }
}

fn store(
    sums: ptr<function, array<i32, 8u * PER_LANE>>,
    totals: ptr<function, array<f32, 8u * PER_LANE>>,
    m0: u32,
    n0: u32,
    local: u32,
) {
    for (var i = 0u; i < 8u * PER_LANE; i++) {
        let at = element_of(i, local);
        let row = m0 + at.x;
        let column = n0 + at.y;
        if row < params.m && column < params.n {
            var sum = GroupSum((*sums)[i], (*totals)[i]);
            if !GROUPED {
                sum = group_sum(sum.codes, row, column, 0u, bitcast<i32>(x_grid[row * 3u + 2u]));
            }
            let result = finish(row, column, bitcast<f32>(x_grid[row * 3u]) * sum.value);
            y[row * params.n + column] = select(result, bitcast<f32>(sum.codes), RAW);
        }
    }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let m0 = workgroup_id.y * TILE;
    let n0 = workgroup_id.x * TILE;
    let subgroup = local / SUBGROUP;
    let sub_m = subgroup / 4u * 4u * SIZE;
    let sub_n = subgroup % 4u * 2u * SIZE;
    let steps = (params.k + 31u) / 32u;
    var sums: array<i32, 8u * PER_LANE>;
    var totals: array<f32, 8u * PER_LANE>;
    var x_parts: array<i32, UNITS>;
    var group = 0u;
    var chunk = 0u;
    while chunk < steps {
        var group_end = steps;
        if GROUPED {
            group_end = min(((group + 1u) * params.group_size + 31u) / 32u, steps);
        }
        let chunk_end = min(chunk + CHUNK, group_end);
        var c0 = MatrixC();
        var c1 = MatrixC();
        var c2 = MatrixC();
        var c3 = MatrixC();
        var c4 = MatrixC();
        var c5 = MatrixC();
        var c6 = MatrixC();
        var c7 = MatrixC();
        for (var step = chunk; step < chunk_end; step++) {
            load_tiles(m0, n0, step, local, &x_parts);
            workgroupBarrier();
            for (var k = 0u; k < 32u; k += SIZE) {
                let w0 = coopLoad<MatrixB>(&tile_w[(sub_n + 0u * SIZE) * STRIDE + k], STRIDE);
                let w1 = coopLoad<MatrixB>(&tile_w[(sub_n + 1u * SIZE) * STRIDE + k], STRIDE);
                let x0 = coopLoadT<MatrixA>(&tile_x[(sub_m + 0u * SIZE) * STRIDE + k], STRIDE);
                c0 = coopMultiplyAdd(x0, w0, c0);
                c1 = coopMultiplyAdd(x0, w1, c1);
                let x1 = coopLoadT<MatrixA>(&tile_x[(sub_m + 1u * SIZE) * STRIDE + k], STRIDE);
                c2 = coopMultiplyAdd(x1, w0, c2);
                c3 = coopMultiplyAdd(x1, w1, c3);
                let x2 = coopLoadT<MatrixA>(&tile_x[(sub_m + 2u * SIZE) * STRIDE + k], STRIDE);
                c4 = coopMultiplyAdd(x2, w0, c4);
                c5 = coopMultiplyAdd(x2, w1, c5);
                let x3 = coopLoadT<MatrixA>(&tile_x[(sub_m + 3u * SIZE) * STRIDE + k], STRIDE);
                c6 = coopMultiplyAdd(x3, w0, c6);
                c7 = coopMultiplyAdd(x3, w1, c7);
            }
            workgroupBarrier();
        }
        let at = subgroup * SIZE * SIZE;
        coopStoreT(c0, &results[at], SIZE);
        workgroupBarrier();
        add_results(&sums, 0u, local);
        workgroupBarrier();
        coopStoreT(c1, &results[at], SIZE);
        workgroupBarrier();
        add_results(&sums, 1u, local);
        workgroupBarrier();
        coopStoreT(c2, &results[at], SIZE);
        workgroupBarrier();
        add_results(&sums, 2u, local);
        workgroupBarrier();
        coopStoreT(c3, &results[at], SIZE);
        workgroupBarrier();
        add_results(&sums, 3u, local);
        workgroupBarrier();
        coopStoreT(c4, &results[at], SIZE);
        workgroupBarrier();
        add_results(&sums, 4u, local);
        workgroupBarrier();
        coopStoreT(c5, &results[at], SIZE);
        workgroupBarrier();
        add_results(&sums, 5u, local);
        workgroupBarrier();
        coopStoreT(c6, &results[at], SIZE);
        workgroupBarrier();
        add_results(&sums, 6u, local);
        workgroupBarrier();
        coopStoreT(c7, &results[at], SIZE);
        workgroupBarrier();
        add_results(&sums, 7u, local);
        workgroupBarrier();
        chunk = chunk_end;
        if GROUPED {
            for (var part = 0u; part < UNITS; part++) {
                x_sums[part * WORKGROUP_SIZE + local] = x_parts[part];
            }
            workgroupBarrier();
            if chunk == group_end {
                fold_group(&sums, &totals, m0, sub_m, n0 + sub_n, group, local);
                for (var part = 0u; part < UNITS; part++) {
                    x_parts[part] = 0;
                }
                group++;
            }
        }
    }
    store(&sums, &totals, m0 + sub_m, n0 + sub_n, local);
}
