// quantize_weight — codes of a weight with one grid per channel or group, calibrated by min-max
// or by the MSE search (QVGen's get_mse_range: shrink 1.00, 0.99, … 0.21, p-norm 2.4).
//
//   w      [N, K]                  f32
//   codes  [N, ceil(K/32)·BITS]    u32   packed codes (shared/codes.wgsl), zero behind K
//   grid   [N, G, 3]               u32   scale (f32), zero point (f32), code sum (i32), as bits
//
// A workgroup takes one group (G = ceil(K / group_size), group_size a multiple of 32 or K) and
// tries CANDIDATES shrink factors per pass over its values, so that a value is read
// 80 / CANDIDATES times. Workgroup memory: 8·WORKGROUP_SIZE bytes.
// Constants: BITS, SCHEME, MSE, WORKGROUP_SIZE, GRID_WIDTH.
// Dispatch:  N·G workgroups, folded into x then y.
// Twin:      quant::quantize_weight

#import uniform
#import reduce

struct Params {
    n: u32,
    k: u32,
    group_size: u32,
}

@group(0) @binding(0) var<storage, read_write> w: array<f32>;
@group(0) @binding(1) var<storage, read_write> codes: array<u32>;
@group(0) @binding(2) var<storage, read_write> grid: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

const F32_LARGEST: f32 = 3.4028234e38;
const BLOCK: u32 = 32u;
const ALL_CANDIDATES: u32 = 80u;
const CANDIDATES: u32 = 4u;

// The values `start..end` of `w`.
struct Span {
    start: u32,
    end: u32,
}

fn span_range(span: Span, lane: u32) -> vec2<f32> {
    var extremes = vec2<f32>(F32_LARGEST, -F32_LARGEST);
    for (var i = span.start + lane; i < span.end; i += WORKGROUP_SIZE) {
        extremes = vec2<f32>(min(extremes.x, w[i]), max(extremes.y, w[i]));
    }
    return workgroup_range(extremes, lane);
}

fn shrunk_grid(candidate: u32, extremes: vec2<f32>) -> Grid {
    let shrink = 1.0 - f32(candidate) / 100.0;
    return grid_from_range(shrink * extremes.x, shrink * extremes.y);
}

fn powered_error(value: f32, candidate: Grid) -> f32 {
    let code = code_from_value(value, candidate);
    let error = abs(candidate.scale * (code - candidate.zero_point) - value);
    return pow(max(error, 1e-30), 2.4);
}

fn best_grid(span: Span, extremes: vec2<f32>, lane: u32) -> Grid {
    var best = shrunk_grid(0u, extremes);
    var best_error = F32_LARGEST;
    for (var first = 0u; first < ALL_CANDIDATES; first += CANDIDATES) {
        let a = shrunk_grid(first, extremes);
        let b = shrunk_grid(first + 1u, extremes);
        let c = shrunk_grid(first + 2u, extremes);
        let d = shrunk_grid(first + 3u, extremes);
        var errors = vec4<f32>();
        for (var i = span.start + lane; i < span.end; i += WORKGROUP_SIZE) {
            let value = w[i];
            errors += vec4<f32>(
                powered_error(value, a), powered_error(value, b),
                powered_error(value, c), powered_error(value, d),
            );
        }
        let ab = workgroup_sum(errors.xy, lane);
        let cd = workgroup_sum(errors.zw, lane);
        // In order, strictly less: the first of equals wins, as in the twin.
        if ab.x < best_error { best_error = ab.x; best = a; }
        if ab.y < best_error { best_error = ab.y; best = b; }
        if cd.x < best_error { best_error = cd.x; best = c; }
        if cd.y < best_error { best_error = cd.y; best = d; }
    }
    return best;
}

// Packs the block of `w` at `first` into words at `word`; returns the sum of its codes.
fn pack_block(first: u32, end: u32, word: u32, group_grid: Grid) -> u32 {
    var words: array<u32, BITS>;
    var sum = 0u;
    for (var i = 0u; i < BLOCK; i++) {
        if first + i < end {
            let code = u32(code_from_value(w[first + i], group_grid));
            sum += code;
            let at = i * BITS / 32u;
            let shift = i * BITS % 32u;
            words[at] |= code << shift;
            if shift + BITS > 32u { // straddles; then shift > 0, so the shift stays below 32
                words[at + 1u] |= code >> (32u - shift);
            }
        }
    }
    for (var i = 0u; i < BITS; i++) {
        codes[word + i] = words[i];
    }
    return sum;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let groups = (params.k + params.group_size - 1u) / params.group_size;
    let index = workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    if index >= params.n * groups {
        return;
    }
    let row = index / groups;
    let column = index % groups * params.group_size;
    let start = row * params.k + column;
    let span = Span(start, start + min(params.group_size, params.k - column));

    let extremes = span_range(span, lane);
    var group_grid = grid_from_range(extremes.x, extremes.y);
    if MSE {
        group_grid = best_grid(span, extremes, lane);
    }
    let row_word = row * ((params.k + BLOCK - 1u) / BLOCK) * BITS + column / BLOCK * BITS;
    var sum = 0u;
    for (var block = lane; span.start + block * BLOCK < span.end; block += WORKGROUP_SIZE) {
        sum += pack_block(span.start + block * BLOCK, span.end, row_word + block * BITS, group_grid);
    }
    // Exact in f32: 255·K stays below 2^24 for K up to 65 793.
    let total = workgroup_sum(vec2<f32>(f32(sum), 0.0), lane).x;
    if lane == 0u {
        grid[index * 3u] = bitcast<u32>(group_grid.scale);
        grid[index * 3u + 1u] = bitcast<u32>(group_grid.zero_point);
        grid[index * 3u + 2u] = bitcast<u32>(i32(total));
    }
}
