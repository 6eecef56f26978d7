// attention_matrix — attention on matrix units: f16 factors, f32 sums.
//
//   q    [M, H·HEAD_DIM]  Elem  queries, a head's channels side by side
//   k    [N, H·HEAD_DIM]  Elem  keys
//   v    [N, H·HEAD_DIM]  Elem  values
//   o    [M, H·HEAD_DIM]  f32   result
//   lse  [M, H]           f32   ln Σ exp(scale · q kᵀ) over the keys
//
// A subgroup owns SIZE queries of one head, a workgroup four subgroups; keys are walked 2·SIZE at a
// time. Keys, then values pass through one tile as f16; scores leave the matrices for the softmax
// and come back as f16 probabilities. Results stay in matrices, which no row can be multiplied in:
// exponents refer to a maximum that is only raised, and the results rescaled through workgroup
// memory, when a score exceeds it by more than SLACK, which is rare after the first keys.
//
// Constants: Elem, MatrixA, MatrixB, MatrixC (types), SIZE, SUBGROUP (its size, a multiple of SIZE),
//            HEAD_DIM (a multiple of SIZE, at most 16 of them), WORKGROUP_SIZE, GRID_WIDTH.
// Memory:    (8·SIZE + 4·SIZE) · (HEAD_DIM + 8) + 4·SIZE · (12·SIZE + 32) + 4·WORKGROUP_SIZE + 4
//            bytes: 40 KiB at SIZE 16 and 128 channels.
// Dispatch:  H · ceil(M / (4·SIZE)) workgroups, the tiles of one head in a row, folded into x then y.
// Twin:      kernels::attention::reference

struct Params {
    queries: u32,
    keys: u32,
    heads: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read_write> q: array<vec4<Elem>>;
@group(0) @binding(1) var<storage, read_write> k: array<vec4<Elem>>;
@group(0) @binding(2) var<storage, read_write> v: array<vec4<Elem>>;
@group(0) @binding(3) var<storage, read_write> o: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

#import log_sum_exp

const TILE_QUERIES: u32 = 4u * SIZE;
const TILE_KEYS: u32 = 2u * SIZE;
const OUTPUTS: u32 = HEAD_DIM / SIZE;       // matrices of results of a subgroup
const VECTORS: u32 = HEAD_DIM / 4u;
const STRIDE: u32 = HEAD_DIM + 8u;          // rows of tiles begin in different banks
const SCORE_STRIDE: u32 = TILE_KEYS + 4u;
const P_STRIDE: u32 = TILE_KEYS + 8u;
const ROW_LANES: u32 = SUBGROUP / SIZE;     // invocations that share a query
const OWNED: u32 = TILE_KEYS / ROW_LANES;   // scores of an invocation
const SLACK: f32 = 8.0;                     // of exponents of two: f16 holds up to 2¹⁵

const_assert SUBGROUP % SIZE == 0u;
const_assert HEAD_DIM % SIZE == 0u && OUTPUTS <= 16u;
const_assert WORKGROUP_SIZE == 4u * SUBGROUP;

var<workgroup> tile_q: array<f16, TILE_QUERIES * STRIDE>;
var<workgroup> tile_kv: array<f16, TILE_KEYS * STRIDE>;
var<workgroup> tile_p: array<f16, TILE_QUERIES * P_STRIDE>;
var<workgroup> tile_s: array<f32, TILE_QUERIES * SCORE_STRIDE>; // scores, or results on their way
var<workgroup> part: array<f32, WORKGROUP_SIZE>;                // of a query, one per invocation
var<workgroup> is_raised: u32;

var<private> scores: array<f32, OWNED>;
var<private> reference: f32; // what exponents of the invocation's query refer to
var<private> sum: f32;       // over the invocation's keys only, until the end

fn stage_queries(lane: u32, head: u32, query: u32) {
    for (var i = lane; i < TILE_QUERIES * VECTORS; i += WORKGROUP_SIZE) {
        let token = min(query + i / VECTORS, params.queries - 1u);
        let value = vec4<f16>(q[(token * params.heads + head) * VECTORS + i % VECTORS]);
        let at = i / VECTORS * STRIDE + i % VECTORS * 4u;
        tile_q[at] = value.x;
        tile_q[at + 1u] = value.y;
        tile_q[at + 2u] = value.z;
        tile_q[at + 3u] = value.w;
    }
}

fn stage(lane: u32, head: u32, key: u32, values: bool) {
    for (var i = lane; i < TILE_KEYS * VECTORS; i += WORKGROUP_SIZE) {
        let token = min(key + i / VECTORS, params.keys - 1u);
        let index = (token * params.heads + head) * VECTORS + i % VECTORS;
        var value: vec4<f16>;
        if values {
            value = vec4<f16>(v[index]);
        } else {
            value = vec4<f16>(k[index]);
        }
        let at = i / VECTORS * STRIDE + i % VECTORS * 4u;
        tile_kv[at] = value.x;
        tile_kv[at + 1u] = value.y;
        tile_kv[at + 2u] = value.z;
        tile_kv[at + 3u] = value.w;
    }
}

// Where the invocation's query begins in a tile of rows `stride` apart.
fn own_row(lane: u32, stride: u32) -> u32 {
    return lane / ROW_LANES * stride;
}

fn read_scores(lane: u32, key: u32) {
    var largest = F32_LOWEST;
    for (var i = 0u; i < OWNED; i++) {
        let column = i * ROW_LANES + lane % ROW_LANES;
        let score = tile_s[own_row(lane, SCORE_STRIDE) + column] * (params.scale * LOG2_E);
        scores[i] = select(F32_LOWEST, score, key + column < params.keys);
        largest = max(largest, scores[i]);
    }
    part[lane] = largest;
    if largest > reference + SLACK {
        is_raised = 1u;
    }
}

// Raises the reference to the largest score so far; returns what earlier results shrink by.
fn raise(lane: u32) -> f32 {
    let previous = reference;
    for (var i = 0u; i < ROW_LANES; i++) {
        reference = max(reference, part[lane / ROW_LANES * ROW_LANES + i]);
    }
    let factor = exp2(max(previous - reference, -200.0));
    sum *= factor;
    return factor;
}

fn scale_results(lane: u32, factor: f32) {
    workgroupBarrier();
    for (var i = lane % ROW_LANES; i < SIZE; i += ROW_LANES) {
        tile_s[own_row(lane, SCORE_STRIDE) + i] *= factor;
    }
    workgroupBarrier();
}

fn write_probabilities(lane: u32, key: u32) {
    for (var i = 0u; i < OWNED; i++) {
        let column = i * ROW_LANES + lane % ROW_LANES;
        let p = select(0.0, exp2(scores[i] - reference), key + column < params.keys);
        sum += p;
        tile_p[own_row(lane, P_STRIDE) + column] = f16(p);
    }
}

fn write_results(lane: u32, head: u32, query: u32, matrix: u32, total: f32) {
    workgroupBarrier();
    let token = query + lane / ROW_LANES;
    for (var i = lane % ROW_LANES; i < SIZE; i += ROW_LANES) {
        if token < params.queries {
            let value = tile_s[own_row(lane, SCORE_STRIDE) + i] / total;
            o[(token * params.heads + head) * HEAD_DIM + matrix * SIZE + i] = value;
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tiles = (params.queries + TILE_QUERIES - 1u) / TILE_QUERIES;
    let workgroup = workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    if workgroup >= tiles * params.heads {
        return;
    }
    let head = workgroup / tiles;
    let query = workgroup % tiles * TILE_QUERIES;
    let first = lane / SUBGROUP * SIZE; // query of the subgroup
    let s_at = first * SCORE_STRIDE;
    reference = F32_LOWEST;
    stage_queries(lane, head, query);
    var o0 = MatrixC();
    var o1 = MatrixC();
    var o2 = MatrixC();
    var o3 = MatrixC();
    var o4 = MatrixC();
    var o5 = MatrixC();
    var o6 = MatrixC();
    var o7 = MatrixC();
    var o8 = MatrixC();
    var o9 = MatrixC();
    var o10 = MatrixC();
    var o11 = MatrixC();
    var o12 = MatrixC();
    var o13 = MatrixC();
    var o14 = MatrixC();
    var o15 = MatrixC();
    for (var key = 0u; key < params.keys; key += TILE_KEYS) {
        workgroupBarrier();
        stage(lane, head, key, false);
        if lane == 0u {
            is_raised = 0u;
        }
        workgroupBarrier();
        var s0 = MatrixC();
        var s1 = MatrixC();
        for (var c = 0u; c < HEAD_DIM; c += SIZE) {
            let a = coopLoadT<MatrixA>(&tile_q[first * STRIDE + c], STRIDE);
            s0 = coopMultiplyAdd(a, coopLoad<MatrixB>(&tile_kv[c], STRIDE), s0);
            s1 = coopMultiplyAdd(a, coopLoad<MatrixB>(&tile_kv[SIZE * STRIDE + c], STRIDE), s1);
        }
        coopStoreT(s0, &tile_s[s_at], SCORE_STRIDE);
        coopStoreT(s1, &tile_s[s_at + SIZE], SCORE_STRIDE);
        workgroupBarrier();
        stage(lane, head, key, true);
        read_scores(lane, key);
        if workgroupUniformLoad(&is_raised) != 0u {
            let factor = raise(lane);
                if 0u < OUTPUTS {
                    coopStoreT(o0, &tile_s[s_at], SCORE_STRIDE);
                    scale_results(lane, factor);
                    o0 = coopLoadT<MatrixC>(&tile_s[s_at], SCORE_STRIDE);
                    workgroupBarrier();
                }
                if 1u < OUTPUTS {
                    coopStoreT(o1, &tile_s[s_at], SCORE_STRIDE);
                    scale_results(lane, factor);
                    o1 = coopLoadT<MatrixC>(&tile_s[s_at], SCORE_STRIDE);
                    workgroupBarrier();
                }
                if 2u < OUTPUTS {
                    coopStoreT(o2, &tile_s[s_at], SCORE_STRIDE);
                    scale_results(lane, factor);
                    o2 = coopLoadT<MatrixC>(&tile_s[s_at], SCORE_STRIDE);
                    workgroupBarrier();
                }
                if 3u < OUTPUTS {
                    coopStoreT(o3, &tile_s[s_at], SCORE_STRIDE);
                    scale_results(lane, factor);
                    o3 = coopLoadT<MatrixC>(&tile_s[s_at], SCORE_STRIDE);
                    workgroupBarrier();
                }
                if 4u < OUTPUTS {
                    coopStoreT(o4, &tile_s[s_at], SCORE_STRIDE);
                    scale_results(lane, factor);
                    o4 = coopLoadT<MatrixC>(&tile_s[s_at], SCORE_STRIDE);
                    workgroupBarrier();
                }
                if 5u < OUTPUTS {
                    coopStoreT(o5, &tile_s[s_at], SCORE_STRIDE);
                    scale_results(lane, factor);
                    o5 = coopLoadT<MatrixC>(&tile_s[s_at], SCORE_STRIDE);
                    workgroupBarrier();
                }
                if 6u < OUTPUTS {
                    coopStoreT(o6, &tile_s[s_at], SCORE_STRIDE);
                    scale_results(lane, factor);
                    o6 = coopLoadT<MatrixC>(&tile_s[s_at], SCORE_STRIDE);
                    workgroupBarrier();
                }
                if 7u < OUTPUTS {
                    coopStoreT(o7, &tile_s[s_at], SCORE_STRIDE);
                    scale_results(lane, factor);
                    o7 = coopLoadT<MatrixC>(&tile_s[s_at], SCORE_STRIDE);
                    workgroupBarrier();
                }
                if 8u < OUTPUTS {
                    coopStoreT(o8, &tile_s[s_at], SCORE_STRIDE);
                    scale_results(lane, factor);
                    o8 = coopLoadT<MatrixC>(&tile_s[s_at], SCORE_STRIDE);
                    workgroupBarrier();
                }
                if 9u < OUTPUTS {
                    coopStoreT(o9, &tile_s[s_at], SCORE_STRIDE);
                    scale_results(lane, factor);
                    o9 = coopLoadT<MatrixC>(&tile_s[s_at], SCORE_STRIDE);
                    workgroupBarrier();
                }
                if 10u < OUTPUTS {
                    coopStoreT(o10, &tile_s[s_at], SCORE_STRIDE);
                    scale_results(lane, factor);
                    o10 = coopLoadT<MatrixC>(&tile_s[s_at], SCORE_STRIDE);
                    workgroupBarrier();
                }
                if 11u < OUTPUTS {
                    coopStoreT(o11, &tile_s[s_at], SCORE_STRIDE);
                    scale_results(lane, factor);
                    o11 = coopLoadT<MatrixC>(&tile_s[s_at], SCORE_STRIDE);
                    workgroupBarrier();
                }
                if 12u < OUTPUTS {
                    coopStoreT(o12, &tile_s[s_at], SCORE_STRIDE);
                    scale_results(lane, factor);
                    o12 = coopLoadT<MatrixC>(&tile_s[s_at], SCORE_STRIDE);
                    workgroupBarrier();
                }
                if 13u < OUTPUTS {
                    coopStoreT(o13, &tile_s[s_at], SCORE_STRIDE);
                    scale_results(lane, factor);
                    o13 = coopLoadT<MatrixC>(&tile_s[s_at], SCORE_STRIDE);
                    workgroupBarrier();
                }
                if 14u < OUTPUTS {
                    coopStoreT(o14, &tile_s[s_at], SCORE_STRIDE);
                    scale_results(lane, factor);
                    o14 = coopLoadT<MatrixC>(&tile_s[s_at], SCORE_STRIDE);
                    workgroupBarrier();
                }
                if 15u < OUTPUTS {
                    coopStoreT(o15, &tile_s[s_at], SCORE_STRIDE);
                    scale_results(lane, factor);
                    o15 = coopLoadT<MatrixC>(&tile_s[s_at], SCORE_STRIDE);
                    workgroupBarrier();
                }
        }
        write_probabilities(lane, key);
        workgroupBarrier();
        for (var j = 0u; j < TILE_KEYS; j += SIZE) {
            let p = coopLoadT<MatrixA>(&tile_p[first * P_STRIDE + j], P_STRIDE);
            let at = j * STRIDE;
            if 0u < OUTPUTS {
                o0 = coopMultiplyAdd(p, coopLoadT<MatrixB>(&tile_kv[at + 0u * SIZE], STRIDE), o0);
            }
            if 1u < OUTPUTS {
                o1 = coopMultiplyAdd(p, coopLoadT<MatrixB>(&tile_kv[at + 1u * SIZE], STRIDE), o1);
            }
            if 2u < OUTPUTS {
                o2 = coopMultiplyAdd(p, coopLoadT<MatrixB>(&tile_kv[at + 2u * SIZE], STRIDE), o2);
            }
            if 3u < OUTPUTS {
                o3 = coopMultiplyAdd(p, coopLoadT<MatrixB>(&tile_kv[at + 3u * SIZE], STRIDE), o3);
            }
            if 4u < OUTPUTS {
                o4 = coopMultiplyAdd(p, coopLoadT<MatrixB>(&tile_kv[at + 4u * SIZE], STRIDE), o4);
            }
            if 5u < OUTPUTS {
                o5 = coopMultiplyAdd(p, coopLoadT<MatrixB>(&tile_kv[at + 5u * SIZE], STRIDE), o5);
            }
            if 6u < OUTPUTS {
                o6 = coopMultiplyAdd(p, coopLoadT<MatrixB>(&tile_kv[at + 6u * SIZE], STRIDE), o6);
            }
            if 7u < OUTPUTS {
                o7 = coopMultiplyAdd(p, coopLoadT<MatrixB>(&tile_kv[at + 7u * SIZE], STRIDE), o7);
            }
            if 8u < OUTPUTS {
                o8 = coopMultiplyAdd(p, coopLoadT<MatrixB>(&tile_kv[at + 8u * SIZE], STRIDE), o8);
            }
            if 9u < OUTPUTS {
                o9 = coopMultiplyAdd(p, coopLoadT<MatrixB>(&tile_kv[at + 9u * SIZE], STRIDE), o9);
            }
            if 10u < OUTPUTS {
                o10 = coopMultiplyAdd(p, coopLoadT<MatrixB>(&tile_kv[at + 10u * SIZE], STRIDE), o10);
            }
            if 11u < OUTPUTS {
                o11 = coopMultiplyAdd(p, coopLoadT<MatrixB>(&tile_kv[at + 11u * SIZE], STRIDE), o11);
            }
            if 12u < OUTPUTS {
                o12 = coopMultiplyAdd(p, coopLoadT<MatrixB>(&tile_kv[at + 12u * SIZE], STRIDE), o12);
            }
            if 13u < OUTPUTS {
                o13 = coopMultiplyAdd(p, coopLoadT<MatrixB>(&tile_kv[at + 13u * SIZE], STRIDE), o13);
            }
            if 14u < OUTPUTS {
                o14 = coopMultiplyAdd(p, coopLoadT<MatrixB>(&tile_kv[at + 14u * SIZE], STRIDE), o14);
            }
            if 15u < OUTPUTS {
                o15 = coopMultiplyAdd(p, coopLoadT<MatrixB>(&tile_kv[at + 15u * SIZE], STRIDE), o15);
            }
        }
    }

    workgroupBarrier();
    part[lane] = sum;
    workgroupBarrier();
    var total = 0.0;
    for (var i = 0u; i < ROW_LANES; i++) {
        total += part[lane / ROW_LANES * ROW_LANES + i];
    }
    if 0u < OUTPUTS {
        coopStoreT(o0, &tile_s[s_at], SCORE_STRIDE);
        write_results(lane, head, query, 0u, total);
    }
    if 1u < OUTPUTS {
        coopStoreT(o1, &tile_s[s_at], SCORE_STRIDE);
        write_results(lane, head, query, 1u, total);
    }
    if 2u < OUTPUTS {
        coopStoreT(o2, &tile_s[s_at], SCORE_STRIDE);
        write_results(lane, head, query, 2u, total);
    }
    if 3u < OUTPUTS {
        coopStoreT(o3, &tile_s[s_at], SCORE_STRIDE);
        write_results(lane, head, query, 3u, total);
    }
    if 4u < OUTPUTS {
        coopStoreT(o4, &tile_s[s_at], SCORE_STRIDE);
        write_results(lane, head, query, 4u, total);
    }
    if 5u < OUTPUTS {
        coopStoreT(o5, &tile_s[s_at], SCORE_STRIDE);
        write_results(lane, head, query, 5u, total);
    }
    if 6u < OUTPUTS {
        coopStoreT(o6, &tile_s[s_at], SCORE_STRIDE);
        write_results(lane, head, query, 6u, total);
    }
    if 7u < OUTPUTS {
        coopStoreT(o7, &tile_s[s_at], SCORE_STRIDE);
        write_results(lane, head, query, 7u, total);
    }
    if 8u < OUTPUTS {
        coopStoreT(o8, &tile_s[s_at], SCORE_STRIDE);
        write_results(lane, head, query, 8u, total);
    }
    if 9u < OUTPUTS {
        coopStoreT(o9, &tile_s[s_at], SCORE_STRIDE);
        write_results(lane, head, query, 9u, total);
    }
    if 10u < OUTPUTS {
        coopStoreT(o10, &tile_s[s_at], SCORE_STRIDE);
        write_results(lane, head, query, 10u, total);
    }
    if 11u < OUTPUTS {
        coopStoreT(o11, &tile_s[s_at], SCORE_STRIDE);
        write_results(lane, head, query, 11u, total);
    }
    if 12u < OUTPUTS {
        coopStoreT(o12, &tile_s[s_at], SCORE_STRIDE);
        write_results(lane, head, query, 12u, total);
    }
    if 13u < OUTPUTS {
        coopStoreT(o13, &tile_s[s_at], SCORE_STRIDE);
        write_results(lane, head, query, 13u, total);
    }
    if 14u < OUTPUTS {
        coopStoreT(o14, &tile_s[s_at], SCORE_STRIDE);
        write_results(lane, head, query, 14u, total);
    }
    if 15u < OUTPUTS {
        coopStoreT(o15, &tile_s[s_at], SCORE_STRIDE);
        write_results(lane, head, query, 15u, total);
    }
    let token = query + lane / ROW_LANES;
    if token < params.queries && lane % ROW_LANES == 0u {
        lse[token * params.heads + head] = log_sum_exp(reference, total);
    }
}
