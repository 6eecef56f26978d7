// float_product_tiles — y = epilogue(x · wᵀ) by tiles in workgroup memory: the form for GPUs.
//
// A workgroup computes a SIDE × SIDE tile, an invocation patches of 4 × 4 of it, SIDE / 2 apart
// where there are several; K is walked in steps of 16. A block of 4 rows × 4 columns of an operand
// is turned on its way into workgroup memory, so that four rows are one vector there: a step's
// vector serves SIDE / 16 · 4 products each. Workgroup memory: 128 · SIDE bytes.
// Dispatch: (ceil(N / SIDE), ceil(M / SIDE)) workgroups, in one or several dispatches of some rows
// of them, the first at params.first_tile.
//
// Needs: const SIDE (64 or 128), WORKGROUP_SIZE (256); x_quad, in_row; WeightRow, weight_row,
// w_quad; finish; y; params.m, n, k, first_tile.

const STEP: u32 = 16u;
const STEP_QUADS: u32 = STEP / 4u;
const FOURS: u32 = SIDE / 4u;       // vectors of a column of a tile
const PATCHES: u32 = SIDE / 64u;    // of an invocation, along each side
const BLOCKS: u32 = FOURS * STEP_QUADS;

var<workgroup> tile_x: array<vec4<f32>, STEP * FOURS>; // [column of K][rows / 4]
var<workgroup> tile_w: array<vec4<f32>, STEP * FOURS>;

fn x_or_zero(row: u32, quad: u32) -> vec4<f32> {
    let values = x_quad(min(row, params.m - 1u), quad);
    return select(vec4<f32>(0.0), values, in_row(quad));
}

fn w_of(row: u32, quad: u32) -> vec4<f32> {
    return w_quad(weight_row(min(row, params.n - 1u)), quad);
}

// The invocations share the blocks of both operands; of a quad behind K nothing is read.
fn load_tiles(m0: u32, n0: u32, first_quad: u32, lane: u32) {
    let exists = (params.k + 3u) / 4u;
    for (var i = lane; i < 2u * BLOCKS; i += WORKGROUP_SIZE) {
        let is_x = i < BLOCKS;
        let row = i % BLOCKS / STEP_QUADS * 4u;
        let quad = first_quad + i % STEP_QUADS;
        var rows = mat4x4<f32>();
        if quad < exists {
            if is_x {
                rows = mat4x4<f32>(
                    x_or_zero(m0 + row, quad), x_or_zero(m0 + row + 1u, quad),
                    x_or_zero(m0 + row + 2u, quad), x_or_zero(m0 + row + 3u, quad),
                );
            } else {
                rows = mat4x4<f32>(
                    w_of(n0 + row, quad), w_of(n0 + row + 1u, quad),
                    w_of(n0 + row + 2u, quad), w_of(n0 + row + 3u, quad),
                );
            }
        }
        let columns = transpose(rows);
        let at = i % STEP_QUADS * 4u * FOURS + row / 4u;
        if is_x {
            tile_x[at] = columns[0];
            tile_x[at + FOURS] = columns[1];
            tile_x[at + 2u * FOURS] = columns[2];
            tile_x[at + 3u * FOURS] = columns[3];
        } else {
            tile_w[at] = columns[0];
            tile_w[at + FOURS] = columns[1];
            tile_w[at + 2u * FOURS] = columns[2];
            tile_w[at + 3u * FOURS] = columns[3];
        }
    }
}

// `sums` by patch row, row of the patch, patch column: four columns each.
fn multiply_tiles(sums: ptr<function, array<vec4<f32>, 4u * PATCHES * PATCHES>>, lane: u32) {
    for (var k = 0u; k < STEP; k++) {
        var w: array<vec4<f32>, PATCHES>;
        for (var j = 0u; j < PATCHES; j++) {
            w[j] = tile_w[k * FOURS + j * 16u + lane % 16u];
        }
        for (var i = 0u; i < PATCHES; i++) {
            let x = tile_x[k * FOURS + i * 16u + lane / 16u];
            for (var j = 0u; j < PATCHES; j++) {
                let at = i * 4u * PATCHES + j;
                (*sums)[at] += x.x * w[j];
                (*sums)[at + PATCHES] += x.y * w[j];
                (*sums)[at + 2u * PATCHES] += x.z * w[j];
                (*sums)[at + 3u * PATCHES] += x.w * w[j];
            }
        }
    }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let m0 = (params.first_tile + workgroup_id.y) * SIDE;
    let n0 = workgroup_id.x * SIDE;
    var sums: array<vec4<f32>, 4u * PATCHES * PATCHES>;
    for (var first = 0u; first < (params.k + 3u) / 4u; first += STEP_QUADS) {
        load_tiles(m0, n0, first, lane);
        workgroupBarrier();
        multiply_tiles(&sums, lane);
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u * PATCHES; i++) {
        let row = m0 + i / 4u * 64u + lane / 16u * 4u + i % 4u;
        for (var j = 0u; j < PATCHES; j++) {
            let first = n0 + j * 64u + lane % 16u * 4u;
            let sum = sums[i * PATCHES + j];
            for (var c = 0u; c < 4u; c++) {
                if row < params.m && first + c < params.n {
                    y[row * params.n + first + c] = finish(row, first + c, sum[c]);
                }
            }
        }
    }
}
