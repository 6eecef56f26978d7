// qmatmul_float — y = epilogue(x · ŵᵀ) of float tokens and a packed weight (weight-only), with ŵ
// dequantized tile by tile.
//
//   x        [M, K]                  Elem  f32 or f16
//   w_codes  [N, ceil(K/32)·W_BITS]  u32   packed codes of the weight
//   w_grid   [N, G, 3]               u32   scale (f32), zero point (f32), code sum (i32), as bits
//   bias …                                 see shared/epilogue_*.wgsl
//   y        [M, N]                  f32   accumulated in f32
//
// A workgroup computes a TILE × TILE tile, an invocation 4 × 4 of it, 16 apart; K is walked in
// steps of 16. Workgroup memory: 8 704 bytes.
// Constants: W_BITS, Elem; the epilogue by import.
// Dispatch:  (ceil(N / TILE), ceil(M / TILE)) workgroups.
// Twin:      kernels::qmatmul_float::reference

#import bytes

struct Params {
    m: u32,
    n: u32,
    k: u32,
    group_size: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<Elem>;
@group(0) @binding(1) var<storage, read_write> w_codes: array<u32>;
@group(0) @binding(2) var<storage, read_write> w_grid: array<u32>;
const EPILOGUE: u32 = 3u;
#import epilogue
@group(0) @binding(EPILOGUE_END) var<storage, read_write> y: array<f32>;
@group(0) @binding(EPILOGUE_END + 1u) var<uniform> params: Params;

const TILE: u32 = 64u;
const STEP: u32 = 16u;
const STRIDE: u32 = 17u; // odd, so that neighbouring rows fall into different banks

var<workgroup> tile_x: array<f32, TILE * STRIDE>;
var<workgroup> tile_w: array<f32, TILE * STRIDE>;

fn load_x_tile(m0: u32, k0: u32, lane: u32) {
    for (var i = lane; i < TILE * STEP; i += WORKGROUP_SIZE) {
        let row = i / STEP;
        let k = i % STEP;
        var value = 0.0;
        if m0 + row < params.m && k0 + k < params.k {
            value = f32(x[(m0 + row) * params.k + k0 + k]);
        }
        tile_x[row * STRIDE + k] = value;
    }
}

// Four codes at a time. Codes behind K meet x = 0 and add nothing.
fn load_w_tile(n0: u32, k0: u32, lane: u32) {
    let row_words = (params.k + 31u) / 32u * W_BITS;
    let groups = (params.k + params.group_size - 1u) / params.group_size;
    for (var i = lane; i < TILE * STEP / 4u; i += WORKGROUP_SIZE) {
        let row = i / (STEP / 4u);
        let k = i % (STEP / 4u) * 4u;
        var bytes = 0u;
        var scale = 0.0;
        var zero_point = 0.0;
        if n0 + row < params.n && k0 + k < params.k {
            let bit = (k0 + k) * W_BITS;
            let word = (n0 + row) * row_words + bit / 32u;
            let shift = bit % 32u;
            var packed = w_codes[word] >> shift;
            if straddles(shift, W_BITS) {
                packed |= w_codes[word + 1u] << (32u - shift);
            }
            bytes = spread_to_bytes(packed, W_BITS);
            let at = ((n0 + row) * groups + (k0 + k) / params.group_size) * 3u;
            scale = bitcast<f32>(w_grid[at]);
            zero_point = bitcast<f32>(w_grid[at + 1u]);
        }
        for (var j = 0u; j < 4u; j++) {
            let code = f32((bytes >> (8u * j)) & 255u);
            tile_w[row * STRIDE + k + j] = scale * (code - zero_point);
        }
    }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let m0 = workgroup_id.y * TILE;
    let n0 = workgroup_id.x * TILE;
    let thread_m = lane / 16u;
    let thread_n = lane % 16u;
    var acc: array<vec4<f32>, 4>;
    for (var k0 = 0u; k0 < params.k; k0 += STEP) {
        load_x_tile(m0, k0, lane);
        load_w_tile(n0, k0, lane);
        workgroupBarrier();
        for (var k = 0u; k < STEP; k++) {
            let x_column = vec4<f32>(
                tile_x[thread_m * STRIDE + k],
                tile_x[(thread_m + 16u) * STRIDE + k],
                tile_x[(thread_m + 32u) * STRIDE + k],
                tile_x[(thread_m + 48u) * STRIDE + k],
            );
            for (var j = 0u; j < 4u; j++) {
                acc[j] += x_column * tile_w[(thread_n + 16u * j) * STRIDE + k];
            }
        }
        workgroupBarrier();
    }
    for (var i = 0u; i < 4u; i++) {
        let row = m0 + thread_m + 16u * i;
        for (var j = 0u; j < 4u; j++) {
            let column = n0 + thread_n + 16u * j;
            if row < params.m && column < params.n {
                y[row * params.n + column] = finish(row, column, acc[j][i]);
            }
        }
    }
}
