// attention_patches — online softmax of a 64 × 64 tile of scores held in 8 × OWNED_KEYS patches.
//
// An invocation owns queries 8·row … 8·row + 7 and every COLUMNS-th key of the tile, then every
// COLUMNS-th vector of output channels. Everything that it accumulates has a name of its own, not
// an index, so that compilers keep it in registers; `scores0` … and `output0` … are its queries.
//
// Needs: `log_sum_exp`; const HEAD_DIM, COLUMNS, WORKGROUP_SIZE (8 · COLUMNS); bindings v, o, lse,
// params with queries, keys, heads, scale.

const TILE: u32 = 64u;              // queries, and keys
const HALF: u32 = 32u;              // keys whose probabilities are shared at once
const VECTORS: u32 = HEAD_DIM / 4u; // of a head
const OWNED_KEYS: u32 = TILE / COLUMNS;
const OWNED_VECTORS: u32 = (VECTORS + COLUMNS - 1u) / COLUMNS;
const STAGED_VALUES: u32 = select(32u, 16u, VECTORS > 16u); // keys whose values are staged at once

const_assert HEAD_DIM % 4u == 0u && HEAD_DIM <= 128u;
const_assert COLUMNS == 8u || COLUMNS == 16u;
const_assert WORKGROUP_SIZE == 8u * COLUMNS;

alias Scores = array<vec4<f32>, OWNED_KEYS / 4u>;
alias Output = array<vec4<f32>, OWNED_VECTORS>;

// [key][VECTORS] of values, row maxima and sums as bits; what the scores are made of in between.
var<workgroup> tile_v: array<vec4<u32>, 512>;
var<workgroup> tile_p: array<vec4<f32>, HALF * TILE / 4u>; // [key][4 queries]

// Zero, which no compiler knows: constant bounds make Mesa unroll loops that are large already,
// and compile for 7 s instead of 2.
var<private> opaque_zero: u32;
var<private> scores0: Scores;
var<private> scores1: Scores;
var<private> scores2: Scores;
var<private> scores3: Scores;
var<private> scores4: Scores;
var<private> scores5: Scores;
var<private> scores6: Scores;
var<private> scores7: Scores;
var<private> output0: Output;
var<private> output1: Output;
var<private> output2: Output;
var<private> output3: Output;
var<private> output4: Output;
var<private> output5: Output;
var<private> output6: Output;
var<private> output7: Output;
var<private> maximum: array<vec4<f32>, 2>; // of the invocation's queries, in units of ln 2
var<private> sum: array<vec4<f32>, 2>;     // over the invocation's keys only, until the end

fn staged(at: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(tile_v[at]);
}

// `zero` must be zero and look as if it were not.
fn begin(zero: u32) {
    opaque_zero = zero;
    maximum = array<vec4<f32>, 2>(vec4<f32>(F32_LOWEST), vec4<f32>(F32_LOWEST));
}

fn clear_scores() {
    scores0 = Scores();
    scores1 = Scores();
    scores2 = Scores();
    scores3 = Scores();
    scores4 = Scores();
    scores5 = Scores();
    scores6 = Scores();
    scores7 = Scores();
}

// Which keys of a patch vector exist.
fn exists(key: u32, column: u32, j: u32) -> vec4<bool> {
    let first = key + j * 4u * COLUMNS + column;
    return vec4<u32>(first, first + COLUMNS, first + 2u * COLUMNS, first + 3u * COLUMNS)
        < vec4<u32>(params.keys);
}

fn scale_row(s: ptr<private, Scores>, key: u32, column: u32) -> f32 {
    var largest = F32_LOWEST;
    for (var j = 0u; j < OWNED_KEYS / 4u; j++) {
        let scaled = (*s)[j] * (params.scale * LOG2_E);
        let kept = select(vec4<f32>(F32_LOWEST), scaled, exists(key, column, j));
        (*s)[j] = kept;
        largest = max(largest, max(max(kept.x, kept.y), max(kept.z, kept.w)));
    }
    return largest;
}

// A score that is no number stays none, so that it shows in the result.
fn exponentiate_row(s: ptr<private, Scores>, largest: f32, key: u32, column: u32) -> f32 {
    var total = vec4<f32>(0.0);
    for (var j = 0u; j < OWNED_KEYS / 4u; j++) {
        let p = select(vec4<f32>(0.0), exp2((*s)[j] - largest), exists(key, column, j));
        (*s)[j] = p;
        total += p;
    }
    return total.x + total.y + total.z + total.w;
}

fn rescale_row(output: ptr<private, Output>, factor: f32) {
    for (var i = 0u; i < OWNED_VECTORS; i++) {
        (*output)[i] *= factor;
    }
}

fn add_row(output: ptr<private, Output>, p: f32, values: ptr<function, Output>) {
    for (var i = 0u; i < OWNED_VECTORS; i++) {
        (*output)[i] += p * (*values)[i];
    }
}

// Keeps the second half of a row's probabilities for the next pass.
fn shift_row(s: ptr<private, Scores>) {
    if COLUMNS == 8u {
        (*s)[0] = (*s)[OWNED_KEYS / 4u - 1u];
    } else {
        (*s)[0] = (*s)[0].zwzw;
    }
}

// The queries of a key change places by key, so that a row of invocations writes to all banks.
fn p_slot(key: u32, queries: u32) -> u32 {
    return key * (TILE / 4u) + (queries ^ (key & 15u));
}

fn share(key: u32, row: u32, low: vec4<f32>, high: vec4<f32>) {
    tile_p[p_slot(key, 2u * row)] = low;
    tile_p[p_slot(key, 2u * row + 1u)] = high;
}

// Scores of the tile at `key` become probabilities; what was accumulated before shrinks.
fn softmax_step(lane: u32, key: u32) {
    let row = lane / COLUMNS;
    let column = lane % COLUMNS;
    workgroupBarrier();
    tile_v[2u * lane] = bitcast<vec4<u32>>(vec4<f32>(
        scale_row(&scores0, key, column), scale_row(&scores1, key, column),
        scale_row(&scores2, key, column), scale_row(&scores3, key, column),
    ));
    tile_v[2u * lane + 1u] = bitcast<vec4<u32>>(vec4<f32>(
        scale_row(&scores4, key, column), scale_row(&scores5, key, column),
        scale_row(&scores6, key, column), scale_row(&scores7, key, column),
    ));
    workgroupBarrier();
    let previous = maximum;
    for (var g = 0u; g < COLUMNS + opaque_zero; g++) {
        maximum[0] = max(maximum[0], staged(2u * (row * COLUMNS + g)));
        maximum[1] = max(maximum[1], staged(2u * (row * COLUMNS + g) + 1u));
    }
    let a = maximum[0];
    let b = maximum[1];
    // Never less than the difference of two finite scores, never an infinity.
    let shrink_a = exp2(max(previous[0] - a, vec4<f32>(-200.0)));
    let shrink_b = exp2(max(previous[1] - b, vec4<f32>(-200.0)));
    sum[0] = sum[0] * shrink_a + vec4<f32>(
        exponentiate_row(&scores0, a.x, key, column), exponentiate_row(&scores1, a.y, key, column),
        exponentiate_row(&scores2, a.z, key, column), exponentiate_row(&scores3, a.w, key, column),
    );
    sum[1] = sum[1] * shrink_b + vec4<f32>(
        exponentiate_row(&scores4, b.x, key, column), exponentiate_row(&scores5, b.y, key, column),
        exponentiate_row(&scores6, b.z, key, column), exponentiate_row(&scores7, b.w, key, column),
    );
    rescale_row(&output0, shrink_a.x);
    rescale_row(&output1, shrink_a.y);
    rescale_row(&output2, shrink_a.z);
    rescale_row(&output3, shrink_a.w);
    rescale_row(&output4, shrink_b.x);
    rescale_row(&output5, shrink_b.y);
    rescale_row(&output6, shrink_b.z);
    rescale_row(&output7, shrink_b.w);
}

// Half of the patch: slot `j · COLUMNS + column` holds key `column + COLUMNS · j` of this half.
fn share_probabilities(row: u32, column: u32) {
    let s0 = scores0[0];
    let s1 = scores1[0];
    let s2 = scores2[0];
    let s3 = scores3[0];
    let s4 = scores4[0];
    let s5 = scores5[0];
    let s6 = scores6[0];
    let s7 = scores7[0];
    share(column, row, vec4<f32>(s0.x, s1.x, s2.x, s3.x), vec4<f32>(s4.x, s5.x, s6.x, s7.x));
    share(column + COLUMNS, row, vec4<f32>(s0.y, s1.y, s2.y, s3.y), vec4<f32>(s4.y, s5.y, s6.y, s7.y));
    if COLUMNS == 8u {
        share(column + 16u, row, vec4<f32>(s0.z, s1.z, s2.z, s3.z), vec4<f32>(s4.z, s5.z, s6.z, s7.z));
        share(column + 24u, row, vec4<f32>(s0.w, s1.w, s2.w, s3.w), vec4<f32>(s4.w, s5.w, s6.w, s7.w));
    }
    shift_row(&scores0);
    shift_row(&scores1);
    shift_row(&scores2);
    shift_row(&scores3);
    shift_row(&scores4);
    shift_row(&scores5);
    shift_row(&scores6);
    shift_row(&scores7);
}

fn multiply_values(row: u32, column: u32, first: u32) {
    for (var j = 0u; j < STAGED_VALUES + opaque_zero; j++) {
        var values: Output;
        for (var i = 0u; i < OWNED_VECTORS; i++) {
            values[i] = staged(j * VECTORS + i * COLUMNS + column);
        }
        let a = tile_p[p_slot(first + j, 2u * row)];
        let b = tile_p[p_slot(first + j, 2u * row + 1u)];
        add_row(&output0, a.x, &values);
        add_row(&output1, a.y, &values);
        add_row(&output2, a.z, &values);
        add_row(&output3, a.w, &values);
        add_row(&output4, b.x, &values);
        add_row(&output5, b.y, &values);
        add_row(&output6, b.z, &values);
        add_row(&output7, b.w, &values);
    }
}

// output += p · v for the tile at `key`.
fn values_step(lane: u32, head: u32, key: u32) {
    let row = lane / COLUMNS;
    let column = lane % COLUMNS;
    let halves = min(2u, (params.keys - key + HALF - 1u) / HALF);
    for (var half = 0u; half < halves; half++) {
        workgroupBarrier();
        share_probabilities(row, column);
        for (var first = 0u; first < HALF + opaque_zero; first += STAGED_VALUES) {
            let start = key + half * HALF + first;
            workgroupBarrier();
            for (var i = lane; i < STAGED_VALUES * VECTORS + opaque_zero; i += WORKGROUP_SIZE) {
                let token = min(start + i / VECTORS, params.keys - 1u);
                let value = vec4<f32>(v[(token * params.heads + head) * VECTORS + i % VECTORS]);
                tile_v[i] = bitcast<vec4<u32>>(value);
            }
            workgroupBarrier();
            multiply_values(row, column, first);
        }
    }
}

fn store_row(output: ptr<private, Output>, token: u32, head: u32, column: u32, total: f32, top: f32) {
    if token >= params.queries {
        return;
    }
    for (var i = 0u; i < OWNED_VECTORS; i++) {
        let at = i * COLUMNS + column;
        if at < VECTORS {
            o[(token * params.heads + head) * VECTORS + at] = (*output)[i] / total;
        }
    }
    if column == 0u {
        lse[token * params.heads + head] = log_sum_exp(top, total);
    }
}

fn store(lane: u32, head: u32, query: u32) {
    let row = lane / COLUMNS;
    let column = lane % COLUMNS;
    workgroupBarrier();
    tile_v[2u * lane] = bitcast<vec4<u32>>(sum[0]);
    tile_v[2u * lane + 1u] = bitcast<vec4<u32>>(sum[1]);
    workgroupBarrier();
    var a = vec4<f32>(0.0);
    var b = vec4<f32>(0.0);
    for (var g = 0u; g < COLUMNS + opaque_zero; g++) {
        a += staged(2u * (row * COLUMNS + g));
        b += staged(2u * (row * COLUMNS + g) + 1u);
    }
    let token = query + 8u * row;
    store_row(&output0, token, head, column, a.x, maximum[0].x);
    store_row(&output1, token + 1u, head, column, a.y, maximum[0].y);
    store_row(&output2, token + 2u, head, column, a.z, maximum[0].z);
    store_row(&output3, token + 3u, head, column, a.w, maximum[0].w);
    store_row(&output4, token + 4u, head, column, b.x, maximum[1].x);
    store_row(&output5, token + 5u, head, column, b.y, maximum[1].y);
    store_row(&output6, token + 6u, head, column, b.z, maximum[1].z);
    store_row(&output7, token + 7u, head, column, b.w, maximum[1].w);
}
