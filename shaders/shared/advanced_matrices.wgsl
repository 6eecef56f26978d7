// advanced_matrices — c = x · w + c on matrix units: 2 × 4 matrices of sums that do not wait for each
// other, as in a product that keeps its factors in registers.
//
//   x_i[r, k] = factor · ((r + k + i + seed) mod 3) + term,  w_j[k, c] = (k + 2c + j) mod 4 − 1
//
// f16 factors, f32 sums: all are small integers, and exact. An invocation sums every
// SUBGROUP-th value of its subgroup's matrices, row after row.
// Needs: MatrixA, MatrixB, MatrixC, SIZE, SUBGROUP, WORKGROUP_SIZE (a multiple of it), seed, params.

const AREA: u32 = SIZE * SIZE;

var<workgroup> tile_x: array<f16, 2u * AREA>;
var<workgroup> tile_w: array<f16, 4u * AREA>;
var<workgroup> results: array<f32, WORKGROUP_SIZE / SUBGROUP * AREA>;

fn load_tiles(lane: u32) {
    for (var i = lane; i < 4u * AREA; i += WORKGROUP_SIZE) {
        let row = i % AREA / SIZE;
        let column = i % SIZE;
        if i < 2u * AREA {
            let index = i32((row + column + i / AREA + seed[0]) % 3u);
            tile_x[i] = f16(params.factor * index + params.term);
        }
        tile_w[i] = f16(i32((row + 2u * column + i / AREA) % 4u) - 1);
    }
}

// The sum of this invocation's values of the matrix that its subgroup stored.
fn own_values(lane: u32) -> i32 {
    workgroupBarrier();
    var total = 0;
    for (var i = lane % SUBGROUP; i < AREA; i += SUBGROUP) {
        total += i32(results[lane / SUBGROUP * AREA + i]);
    }
    workgroupBarrier();
    return total;
}

fn advanced(lane: u32) -> i32 {
    load_tiles(lane);
    workgroupBarrier();
    let x0 = coopLoadT<MatrixA>(&tile_x[0], SIZE);
    let x1 = coopLoadT<MatrixA>(&tile_x[AREA], SIZE);
    let w0 = coopLoadT<MatrixB>(&tile_w[0], SIZE);
    let w1 = coopLoadT<MatrixB>(&tile_w[AREA], SIZE);
    let w2 = coopLoadT<MatrixB>(&tile_w[2u * AREA], SIZE);
    let w3 = coopLoadT<MatrixB>(&tile_w[3u * AREA], SIZE);
    var a = MatrixC();
    var b = MatrixC();
    var c = MatrixC();
    var d = MatrixC();
    var e = MatrixC();
    var f = MatrixC();
    var g = MatrixC();
    var h = MatrixC();
    for (var step = 0u; step < params.steps; step++) {
        a = coopMultiplyAdd(x0, w0, a);
        b = coopMultiplyAdd(x0, w1, b);
        c = coopMultiplyAdd(x0, w2, c);
        d = coopMultiplyAdd(x0, w3, d);
        e = coopMultiplyAdd(x1, w0, e);
        f = coopMultiplyAdd(x1, w1, f);
        g = coopMultiplyAdd(x1, w2, g);
        h = coopMultiplyAdd(x1, w3, h);
    }
    let at = lane / SUBGROUP * AREA;
    var total = 0;
    coopStoreT(a, &results[at], SIZE);
    total += own_values(lane);
    coopStoreT(b, &results[at], SIZE);
    total += own_values(lane);
    coopStoreT(c, &results[at], SIZE);
    total += own_values(lane);
    coopStoreT(d, &results[at], SIZE);
    total += own_values(lane);
    coopStoreT(e, &results[at], SIZE);
    total += own_values(lane);
    coopStoreT(f, &results[at], SIZE);
    total += own_values(lane);
    coopStoreT(g, &results[at], SIZE);
    total += own_values(lane);
    coopStoreT(h, &results[at], SIZE);
    total += own_values(lane);
    return total;
}
