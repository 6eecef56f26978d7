// qmatmul — y = x · wᵀ + bias of packed tokens and a packed weight: exact integer accumulation,
// then the zero points by a rank-1 correction.
//
//   x_codes  [M, ceil(K/32)·X_BITS]  u32   packed codes of the tokens
//   x_grid   [M, 3]                  u32   scale (f32), zero point (f32), code sum (i32)
//   w_codes  [N, ceil(K/32)·W_BITS]  u32   packed codes of the weight
//   w_grid   [N, G, 3]               u32   scale (f32), zero point (f32), code sum (i32)
//   bias     [N]                     f32
//   y        [M, N]                  f32   or, if RAW, the bits of the i32 accumulator
//
//   y = s_x s_w Σ (q_x − z_x)(q_w − z_w) + bias, summed over groups.
//
// A zero point z is split into a whole part a within the codes, corrected in integers, and the
// rest r, so that 8-bit sums beyond 2^24 lose nothing to f32 and no integer exceeds
// (2^X_BITS−1)(2^W_BITS−1)·K in absolute value, however far from the codes z lies.
// Padding codes are zero on both sides.
// A workgroup computes a TILE × TILE tile, an invocation 4 × 4 of it, 16 apart; K is walked in
// steps of 32 codes, spread to bytes on entering workgroup memory (4 608 bytes).
// Constants: X_BITS, W_BITS, GROUPED, RAW; dot_bytes by import.
// Dispatch:  (ceil(N / TILE), ceil(M / TILE)) workgroups.
// Twin:      kernels::qmatmul::reference

#import bytes
#import dot

struct Params {
    m: u32,
    n: u32,
    k: u32,
    group_size: u32,
}

@group(0) @binding(0) var<storage, read_write> x_codes: array<u32>;
@group(0) @binding(1) var<storage, read_write> x_grid: array<u32>;
@group(0) @binding(2) var<storage, read_write> w_codes: array<u32>;
@group(0) @binding(3) var<storage, read_write> w_grid: array<u32>;
@group(0) @binding(4) var<storage, read_write> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

const TILE: u32 = 64u;
const STEP: u32 = 32u;
const STEP_BYTES: u32 = 8u; // words of four bytes per row and step
const STRIDE: u32 = 9u; // odd, so that neighbouring rows fall into different banks
const ONES: u32 = 0x01010101u;
const X_TOP: f32 = f32((1u << X_BITS) - 1u);
const W_TOP: f32 = f32((1u << W_BITS) - 1u);

var<workgroup> tile_x: array<u32, TILE * STRIDE>;
var<workgroup> tile_w: array<u32, TILE * STRIDE>;

fn x_bytes(row_word: u32, i: u32) -> u32 {
    let bit = i * 4u * X_BITS;
    let word = row_word + bit / 32u;
    let shift = bit % 32u;
    var group = x_codes[word] >> shift;
    if straddles(shift, X_BITS) {
        group |= x_codes[word + 1u] << (32u - shift);
    }
    return spread_to_bytes(group, X_BITS);
}

fn w_bytes(row_word: u32, i: u32) -> u32 {
    let bit = i * 4u * W_BITS;
    let word = row_word + bit / 32u;
    let shift = bit % 32u;
    var group = w_codes[word] >> shift;
    if straddles(shift, W_BITS) {
        group |= w_codes[word + 1u] << (32u - shift);
    }
    return spread_to_bytes(group, W_BITS);
}

fn load_tiles(m0: u32, n0: u32, step: u32, lane: u32) {
    let steps = (params.k + STEP - 1u) / STEP;
    for (var i = lane; i < TILE * STEP_BYTES; i += WORKGROUP_SIZE) {
        let row = i / STEP_BYTES;
        let byte = i % STEP_BYTES;
        var x = 0u;
        if m0 + row < params.m {
            x = x_bytes(((m0 + row) * steps + step) * X_BITS, byte);
        }
        var w = 0u;
        if n0 + row < params.n {
            w = w_bytes(((n0 + row) * steps + step) * W_BITS, byte);
        }
        tile_x[row * STRIDE + byte] = x;
        tile_w[row * STRIDE + byte] = w;
    }
}

// s_w Σ (q_x − z_x)(q_w − z_w) over one group of k values for four tokens; their scales come later:
// Σ (q_x − a_x)(q_w − a_w) in integers, then − r_w Σ (q_x − a_x) − r_x (Σ (q_w − a_w) − k r_w).
// Integers may wrap in between, the result does not.
fn corrected(acc: vec4<i32>, x_sum: vec4<i32>, x_zero: vec4<f32>, w_index: u32, k: i32) -> vec4<f32> {
    let w_scale = bitcast<f32>(w_grid[w_index]);
    let w_zero = bitcast<f32>(w_grid[w_index + 1u]);
    let w_sum = bitcast<i32>(w_grid[w_index + 2u]);
    let w_whole = clamp(round(w_zero), 0.0, W_TOP);
    let x_whole = clamp(round(x_zero), vec4<f32>(), vec4<f32>(X_TOP));
    let x_centered = x_sum - k * vec4<i32>(x_whole);
    let product = acc - vec4<i32>(x_whole) * w_sum - i32(w_whole) * x_centered;
    let w_rest = w_zero - w_whole;
    let w_centered = f32(w_sum - k * i32(w_whole)) - f32(k) * w_rest;
    return w_scale
        * (vec4<f32>(product) - w_rest * vec4<f32>(x_centered) - (x_zero - x_whole) * w_centered);
}

// Word `word` of the grid of the token at `row`; zero beyond the last.
fn token_grid(row: u32, word: u32) -> u32 {
    if row < params.m {
        return x_grid[row * 3u + word];
    }
    return 0u;
}

fn token_grids(m: u32, word: u32) -> vec4<u32> {
    return vec4<u32>(
        token_grid(m, word), token_grid(m + 16u, word),
        token_grid(m + 32u, word), token_grid(m + 48u, word),
    );
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let m0 = workgroup_id.y * TILE;
    let n0 = workgroup_id.x * TILE;
    let m = m0 + lane / 16u;
    let n = n0 + lane % 16u;
    let steps = (params.k + STEP - 1u) / STEP;
    let x_zero = bitcast<vec4<f32>>(token_grids(m, 1u));
    var acc: array<vec4<u32>, 4>;
    var x_sum: vec4<u32>;
    var total: array<vec4<f32>, 4>;
    for (var step = 0u; step < steps; step++) {
        load_tiles(m0, n0, step, lane);
        workgroupBarrier();
        multiply_tiles(&acc, &x_sum, lane);
        if GROUPED {
            let end = min((step + 1u) * STEP, params.k);
            if end % params.group_size == 0u || end == params.k {
                fold_group(&acc, &x_sum, &total, x_zero, n, (end - 1u) / params.group_size);
            }
        }
        workgroupBarrier();
    }
    store(&acc, &total, x_zero, m, n);
}

fn multiply_tiles(
    acc: ptr<function, array<vec4<u32>, 4>>,
    x_sum: ptr<function, vec4<u32>>,
    lane: u32,
) {
    let thread_m = lane / 16u;
    let thread_n = lane % 16u;
    for (var byte = 0u; byte < STEP_BYTES; byte++) {
        let x = vec4<u32>(
            tile_x[thread_m * STRIDE + byte],
            tile_x[(thread_m + 16u) * STRIDE + byte],
            tile_x[(thread_m + 32u) * STRIDE + byte],
            tile_x[(thread_m + 48u) * STRIDE + byte],
        );
        for (var j = 0u; j < 4u; j++) {
            let w = tile_w[(thread_n + 16u * j) * STRIDE + byte];
            (*acc)[j] += vec4<u32>(
                dot_bytes(x.x, w), dot_bytes(x.y, w), dot_bytes(x.z, w), dot_bytes(x.w, w),
            );
        }
        if GROUPED {
            *x_sum += vec4<u32>(
                dot_bytes(x.x, ONES), dot_bytes(x.y, ONES),
                dot_bytes(x.z, ONES), dot_bytes(x.w, ONES),
            );
        }
    }
}

// Moves the integers of a finished group into `total` and clears them. Whole vectors only: FXC
// has no stores to a component chosen at run time.
fn fold_group(
    acc: ptr<function, array<vec4<u32>, 4>>,
    x_sum: ptr<function, vec4<u32>>,
    total: ptr<function, array<vec4<f32>, 4>>,
    x_zero: vec4<f32>,
    n: u32,
    group: u32,
) {
    let groups = (params.k + params.group_size - 1u) / params.group_size;
    let k = i32(min(params.group_size, params.k - group * params.group_size));
    for (var j = 0u; j < 4u; j++) {
        let column = n + 16u * j;
        if column < params.n {
            let w_index = (column * groups + group) * 3u;
            (*total)[j] += corrected(vec4<i32>((*acc)[j]), vec4<i32>(*x_sum), x_zero, w_index, k);
        }
        (*acc)[j] = vec4<u32>();
    }
    *x_sum = vec4<u32>();
}

fn store(
    acc: ptr<function, array<vec4<u32>, 4>>,
    total: ptr<function, array<vec4<f32>, 4>>,
    x_zero: vec4<f32>,
    m: u32,
    n: u32,
) {
    let x_scale = bitcast<vec4<f32>>(token_grids(m, 0u));
    let x_sum = vec4<i32>(token_grids(m, 2u));
    for (var j = 0u; j < 4u; j++) {
        let column = n + 16u * j;
        if column < params.n {
            let part = vec4<i32>((*acc)[j]);
            var value = (*total)[j];
            if !GROUPED {
                value = corrected(part, x_sum, x_zero, column * 3u, i32(params.k));
            }
            value = x_scale * value + bias[column];
            if RAW {
                value = bitcast<vec4<f32>>(part);
            }
            for (var i = 0u; i < 4u; i++) {
                if m + 16u * i < params.m {
                    y[(m + 16u * i) * params.n + column] = value[i];
                }
            }
        }
    }
}
