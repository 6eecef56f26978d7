// quantize_row — the token that a workgroup takes: its range, grid, packed codes and their sum.
//
// All invocations must call, in uniform control flow. An invocation packs as many codes as fill
// whole words, so that no word is written by two.
//
// To be imported below the bindings, of which it needs `codes`, `grid` and `params` with k, upper
// (factor of the maximum, or the upper end of a static range) and lower. Needs: `uniform`, `reduce`,
// const STATIC_RANGE, in_row of quads_vector or quads_scalar, and of row_whole or row_hadamard
// fn quad_at(token, quad) -> vec4<f32>, values 4·quad … 4·quad + 3 of the token, which
// prepare_quads makes ready, ROW_TILE quads at once.

const F32_LARGEST: f32 = 3.4028234e38;
const QUIET_NAN: u32 = 0x7FC00000u;
const CODE_MASK: u32 = (1u << BITS) - 1u;
const EXPONENT: vec4<u32> = vec4<u32>(0x7F800000u);
// Codes that an invocation packs at once, and their words.
const UNIT: u32 = select(select(32u / BITS, 16u, BITS == 6u), 32u, BITS == 3u);
const UNIT_WORDS: u32 = UNIT * BITS / 32u;
const UNIT_QUADS: u32 = UNIT / 4u;

// The largest is F32_LARGEST if some value is no finite number.
fn row_range(token: u32, lane: u32) -> vec2<f32> {
    if STATIC_RANGE {
        return vec2<f32>(params.lower, params.upper);
    }
    var low = vec4<f32>(F32_LARGEST);
    var high = vec4<f32>(-F32_LARGEST);
    var exponents = vec4<u32>();
    let quads = (params.k + 3u) / 4u;
    for (var first = 0u; first < quads; first += ROW_TILE) {
        prepare_quads(token, first, lane);
        for (var quad = first + lane; quad < min(first + ROW_TILE, quads); quad += WORKGROUP_SIZE) {
            let values = quad_at(token, quad);
            low = min(low, values);
            high = max(high, values);
            // By its bits, since a compiler may assume that there is no NaN.
            exponents = max(exponents, bitcast<vec4<u32>>(values) & EXPONENT);
        }
    }
    var extremes = vec2<f32>(
        min(min(low.x, low.y), min(low.z, low.w)), max(max(high.x, high.y), max(high.z, high.w)),
    );
    if any(exponents == EXPONENT) { // last, since a NaN among the others may win over any number
        extremes.y = F32_LARGEST;
    }
    extremes = workgroup_range(extremes, lane);
    if extremes.y >= F32_LARGEST {
        return vec2<f32>(-F32_LARGEST, F32_LARGEST);
    }
    return vec2<f32>(params.lower * extremes.x, params.upper * extremes.y);
}

fn quad_codes(values: vec4<f32>, row_grid: Grid) -> vec4<u32> {
    return vec4<u32>(
        u32(code_from_value(values.x, row_grid)), u32(code_from_value(values.y, row_grid)),
        u32(code_from_value(values.z, row_grid)), u32(code_from_value(values.w, row_grid)),
    ) & vec4<u32>(CODE_MASK);
}

// Packs unit `unit` of the token, whose words begin at `word`; returns the sum of its codes.
fn pack_unit(token: u32, unit: u32, word: u32, row_grid: Grid) -> u32 {
    var words: array<u32, UNIT_WORDS>;
    var sums = vec4<u32>();
    for (var i = 0u; i < UNIT_QUADS; i++) {
        let quad = unit * UNIT_QUADS + i;
        if 4u * quad < params.k {
            let all = quad_codes(quad_at(token, quad), row_grid);
            let kept = select(vec4<u32>(), all, in_row(quad));
            sums += kept;
            let shifted = kept << vec4<u32>(0u, BITS, 2u * BITS, 3u * BITS);
            let group = shifted.x | shifted.y | shifted.z | shifted.w;
            let bit = 4u * BITS * i;
            words[bit / 32u] |= group << (bit % 32u);
            if bit % 32u + 4u * BITS > 32u { // straddles; then the shift stays below 32
                words[bit / 32u + 1u] |= group >> (32u - bit % 32u);
            }
        }
    }
    for (var i = 0u; i < UNIT_WORDS; i++) {
        codes[word + i] = words[i];
    }
    return sums.x + sums.y + sums.z + sums.w;
}

fn quantize_row(token: u32, lane: u32) {
    let row_words = (params.k + 31u) / 32u * BITS;
    let extremes = row_range(token, lane);
    let row_grid = grid_from_range(extremes.x, extremes.y);
    let units = row_words / UNIT_WORDS;
    var sum = 0u;
    for (var first = 0u; first < units; first += ROW_TILE / UNIT_QUADS) {
        prepare_quads(token, first * UNIT_QUADS, lane);
        let end = min(first + ROW_TILE / UNIT_QUADS, units);
        for (var unit = first + lane; unit < end; unit += WORKGROUP_SIZE) {
            sum += pack_unit(token, unit, token * row_words + unit * UNIT_WORDS, row_grid);
        }
    }
    // Exact in f32: 255·K stays below 2^24 for K up to 65 793.
    let total = workgroup_sum(vec2<f32>(f32(sum), 0.0), lane).x;
    if lane == 0u {
        // A token that is no number gives a NaN scale, so that it shows in every product.
        let is_finite = extremes.y < F32_LARGEST;
        grid[token * 3u] = select(QUIET_NAN, bitcast<u32>(row_grid.scale), is_finite);
        grid[token * 3u + 1u] = bitcast<u32>(row_grid.zero_point);
        grid[token * 3u + 2u] = bitcast<u32>(i32(total));
    }
}
