// quantize_tokens — codes = round(x / scale) + zero_point per token; range, grid, codes and their
// sum in one dispatch.
//
//   x      [M, K]                  Elem  f32 or f16
//   codes  [M, ceil(K/32)·BITS]    u32   packed codes (shared/codes.wgsl), zero behind K
//   grid   [M, 3]                  u32   scale (f32), zero point (f32), code sum (i32), as bits
//
// A workgroup takes one token: it reduces the range, then every invocation packs whole blocks of
// 32 codes, so that no word is written by two. Workgroup memory: 8·WORKGROUP_SIZE bytes.
// Constants: BITS, SCHEME, STATIC_RANGE, Elem, WORKGROUP_SIZE, GRID_WIDTH.
// Dispatch:  M workgroups, folded into x then y.
// Twin:      quant::quantize_tokens

#import uniform
#import reduce

struct Params {
    m: u32,
    k: u32,
    // Dynamic range: factors of the extremes. Static range: the extremes themselves.
    upper: f32,
    lower: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<Elem>;
@group(0) @binding(1) var<storage, read_write> codes: array<u32>;
@group(0) @binding(2) var<storage, read_write> grid: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

const F32_LARGEST: f32 = 3.4028234e38;
const QUIET_NAN: u32 = 0x7FC00000u;
const CODE_MASK: u32 = (1u << BITS) - 1u;
const BLOCK: u32 = 32u;

fn token_range(row: u32, lane: u32) -> vec2<f32> {
    if STATIC_RANGE {
        return vec2<f32>(params.lower, params.upper);
    }
    var extremes = vec2<f32>(F32_LARGEST, -F32_LARGEST);
    for (var k = lane; k < params.k; k += WORKGROUP_SIZE) {
        let value = f32(x[row + k]);
        extremes = vec2<f32>(min(extremes.x, value), max(extremes.y, value));
        // By its bits, since a compiler may assume that there is no NaN.
        if (bitcast<u32>(value) & 0x7F800000u) == 0x7F800000u {
            extremes.y = F32_LARGEST;
        }
    }
    extremes = workgroup_range(extremes, lane);
    if extremes.y >= F32_LARGEST {
        return vec2<f32>(-F32_LARGEST, F32_LARGEST);
    }
    return vec2<f32>(params.lower * extremes.x, params.upper * extremes.y);
}

// Packs block `block` of the token into its BITS words; returns the sum of its codes.
fn pack_block(row: u32, row_word: u32, block: u32, token_grid: Grid) -> u32 {
    var words: array<u32, BITS>;
    var sum = 0u;
    for (var i = 0u; i < BLOCK; i++) {
        let k = block * BLOCK + i;
        if k < params.k {
            let code = u32(code_from_value(f32(x[row + k]), token_grid)) & CODE_MASK;
            sum += code;
            let word = i * BITS / 32u;
            let shift = i * BITS % 32u;
            words[word] |= code << shift;
            if shift + BITS > 32u { // straddles; then shift > 0, so the shift stays below 32
                words[word + 1u] |= code >> (32u - shift);
            }
        }
    }
    for (var word = 0u; word < BITS; word++) {
        codes[row_word + block * BITS + word] = words[word];
    }
    return sum;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let token = workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    if token >= params.m {
        return;
    }
    let row = token * params.k;
    let blocks = (params.k + BLOCK - 1u) / BLOCK;
    let extremes = token_range(row, lane);
    let token_grid = grid_from_range(extremes.x, extremes.y);
    var sum = 0u;
    for (var block = lane; block < blocks; block += WORKGROUP_SIZE) {
        sum += pack_block(row, token * blocks * BITS, block, token_grid);
    }
    // Exact in f32: 255·K stays below 2^24 for K up to 65 793.
    let total = workgroup_sum(vec2<f32>(f32(sum), 0.0), lane).x;
    if lane == 0u {
        // A token that is no number gives a NaN scale, so that it shows in every product.
        let is_finite = extremes.y < F32_LARGEST;
        grid[token * 3u] = select(QUIET_NAN, bitcast<u32>(token_grid.scale), is_finite);
        grid[token * 3u + 1u] = bitcast<u32>(token_grid.zero_point);
        grid[token * 3u + 2u] = bitcast<u32>(i32(total));
    }
}
