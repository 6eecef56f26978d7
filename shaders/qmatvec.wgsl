// qmatvec — y = epilogue(x · ŵᵀ) of a few float tokens and a packed weight (weight-only).
//
//   x        [M, K]                  Elem  f32 or f16, M ≤ TOKENS
//   w_codes  [N, ceil(K/32)·W_BITS]  u32   packed codes of the weight
//   w_grid   [N, G, 3]               u32   scale (f32), zero point (f32), code sum (i32), as bits
//   bias …                                 see shared/epilogue_*.wgsl
//   y        [M, N]                  f32   accumulated in f32
//
// A workgroup takes one row of the weight and all tokens, so that codes are read once; its
// invocations stride over groups of four codes, then sum by a tree.
// Workgroup memory: 8·WORKGROUP_SIZE bytes.
// Constants: W_BITS, TOKENS (even), Elem, WORKGROUP_SIZE, GRID_WIDTH; the epilogue by import.
// Dispatch:  N workgroups, folded into x then y.
// Twin:      kernels::qmatmul_float::reference

#import bytes
#import reduce

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

// The four weights from column `k` on.
fn four_weights(row: u32, k: u32) -> vec4<f32> {
    let groups = (params.k + params.group_size - 1u) / params.group_size;
    let bit = k * W_BITS;
    let word = row * ((params.k + 31u) / 32u * W_BITS) + bit / 32u;
    let shift = bit % 32u;
    var packed = w_codes[word] >> shift;
    if straddles(shift, W_BITS) {
        packed |= w_codes[word + 1u] << (32u - shift);
    }
    let bytes = spread_to_bytes(packed, W_BITS);
    let at = (row * groups + k / params.group_size) * 3u;
    let codes = vec4<f32>(vec4<u32>(
        bytes & 255u, (bytes >> 8u) & 255u, (bytes >> 16u) & 255u, bytes >> 24u,
    ));
    return bitcast<f32>(w_grid[at]) * (codes - bitcast<f32>(w_grid[at + 1u]));
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let row = workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    if row >= params.n {
        return;
    }
    var acc: array<f32, TOKENS>;
    for (var k = lane * 4u; k < params.k; k += WORKGROUP_SIZE * 4u) {
        let weights = four_weights(row, k);
        for (var token = 0u; token < TOKENS; token++) {
            for (var j = 0u; j < 4u; j++) {
                if token < params.m && k + j < params.k {
                    acc[token] += f32(x[token * params.k + k + j]) * weights[j];
                }
            }
        }
    }
    for (var token = 0u; token < TOKENS; token += 2u) {
        let sums = workgroup_sum(vec2<f32>(acc[token], acc[token + 1u]), lane);
        if lane == 0u && token < params.m {
            y[token * params.n + row] = finish(token, row, sums.x);
        }
        if lane == 0u && token + 1u < params.m {
            y[(token + 1u) * params.n + row] = finish(token + 1u, row, sums.y);
        }
    }
}
