// attention — o = softmax(scale · q kᵀ) v for every head, without storing the scores.
//
//   q    [M, H·HEAD_DIM]  f32   queries, a head's channels side by side
//   k    [N, H·HEAD_DIM]  f32   keys
//   v    [N, H·HEAD_DIM]  f32   values
//   o    [M, H·HEAD_DIM]  f32   result
//   lse  [M, H]           f32   ln Σ exp(scale · q kᵀ) over the keys: merges results over key chunks
//
// A workgroup computes TILE_Q queries of one head and walks the keys in tiles of WIDTH; per tile
// the scores are a TILE_Q × WIDTH matrix product over the channels in steps of STEP, and the output
// one over the keys in steps of STEP for each WIDTH columns. An invocation owns a 4 × 4 patch of
// either product. The running maximum keeps every exponent at or below zero; results so far are
// rescaled when it grows (Milakov and Gimelshein, arXiv:1805.02867).
//
// Constants: HEAD_DIM, ROW_GROUPS, COLUMN_GROUPS, STEP (divides WIDTH), WORKGROUP_SIZE, GRID_WIDTH.
// Memory:    16·(STEP·(ROW_GROUPS + COLUMN_GROUPS + 2) + WIDTH·(ROW_GROUPS + 1) + WORKGROUP_SIZE)
//            bytes per workgroup.
// Dispatch:  H · ceil(M / TILE_Q) workgroups, the tiles of one head in a row, folded into x then y.
// Twin:      kernels::attention::reference

struct Params {
    queries: u32,
    keys: u32,
    heads: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read_write> q: array<f32>;
@group(0) @binding(1) var<storage, read_write> k: array<f32>;
@group(0) @binding(2) var<storage, read_write> v: array<f32>;
@group(0) @binding(3) var<storage, read_write> o: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

const TILE_Q: u32 = 4u * ROW_GROUPS;
const WIDTH: u32 = 4u * COLUMN_GROUPS;
const CHUNKS: u32 = (HEAD_DIM + WIDTH - 1u) / WIDTH;
// One vector of padding per row, so that a column of a tile spreads over the memory banks.
const Q_STRIDE: u32 = ROW_GROUPS + 1u;
const KV_STRIDE: u32 = COLUMN_GROUPS + 1u;
const F32_LOWEST: f32 = -3.4028234e38;
// Below this an exponential is zero in f32; the clamp keeps masked scores from overflowing.
const EXPONENT_MIN: f32 = -87.0;

const_assert WIDTH % STEP == 0u;
const_assert ROW_GROUPS * COLUMN_GROUPS == WORKGROUP_SIZE;

var<workgroup> tile_q: array<vec4<f32>, STEP * Q_STRIDE>;   // [channel][4 queries]
var<workgroup> tile_kv: array<vec4<f32>, STEP * KV_STRIDE>; // [channel][4 keys], [key][4 channels]
var<workgroup> tile_p: array<vec4<f32>, WIDTH * Q_STRIDE>;  // [key][4 queries]
var<workgroup> reduce_scratch: array<vec4<f32>, WORKGROUP_SIZE>; // [column group][row group]

// The invocation's own state: vectors run over its four queries, `acc` over four channels.
var<private> scores: array<vec4<f32>, 4>;       // one per key of the patch
var<private> acc: array<vec4<f32>, CHUNKS * 4u>; // [chunk][query]

fn offset(token: u32, head: u32, channel: u32) -> u32 {
    return (token * params.heads + head) * HEAD_DIM + channel;
}

fn q_at(token: u32, head: u32, channel: u32) -> f32 {
    if token < params.queries && channel < HEAD_DIM {
        return q[offset(token, head, channel)];
    }
    return 0.0;
}

fn k_at(token: u32, head: u32, channel: u32) -> f32 {
    if token < params.keys && channel < HEAD_DIM {
        return k[offset(token, head, channel)];
    }
    return 0.0;
}

fn v_at(token: u32, head: u32, channel: u32) -> f32 {
    if token < params.keys && channel < HEAD_DIM {
        return v[offset(token, head, channel)];
    }
    return 0.0;
}

fn load_q_tile(lane: u32, head: u32, query: u32, channel: u32) {
    for (var i = lane; i < STEP * ROW_GROUPS; i += WORKGROUP_SIZE) {
        let c = channel + i % STEP;
        let t = query + i / STEP * 4u;
        tile_q[i % STEP * Q_STRIDE + i / STEP] = vec4<f32>(
            q_at(t, head, c), q_at(t + 1u, head, c), q_at(t + 2u, head, c), q_at(t + 3u, head, c),
        );
    }
}

fn load_k_tile(lane: u32, head: u32, key: u32, channel: u32) {
    for (var i = lane; i < STEP * COLUMN_GROUPS; i += WORKGROUP_SIZE) {
        let c = channel + i % STEP;
        let t = key + i / STEP * 4u;
        tile_kv[i % STEP * KV_STRIDE + i / STEP] = vec4<f32>(
            k_at(t, head, c), k_at(t + 1u, head, c), k_at(t + 2u, head, c), k_at(t + 3u, head, c),
        );
    }
}

fn load_v_tile(lane: u32, head: u32, key: u32, channel: u32) {
    for (var i = lane; i < STEP * COLUMN_GROUPS; i += WORKGROUP_SIZE) {
        let t = key + i / COLUMN_GROUPS;
        let c = channel + i % COLUMN_GROUPS * 4u;
        tile_kv[i / COLUMN_GROUPS * KV_STRIDE + i % COLUMN_GROUPS] = vec4<f32>(
            v_at(t, head, c), v_at(t, head, c + 1u), v_at(t, head, c + 2u), v_at(t, head, c + 3u),
        );
    }
}

fn multiply_scores(lane: u32, head: u32, query: u32, key: u32) {
    let row = lane / COLUMN_GROUPS;
    let column = lane % COLUMN_GROUPS;
    var s0 = vec4<f32>(0.0);
    var s1 = vec4<f32>(0.0);
    var s2 = vec4<f32>(0.0);
    var s3 = vec4<f32>(0.0);
    for (var channel = 0u; channel < HEAD_DIM; channel += STEP) {
        load_q_tile(lane, head, query, channel);
        load_k_tile(lane, head, key, channel);
        workgroupBarrier();
        for (var i = 0u; i < STEP; i++) {
            let a = tile_q[i * Q_STRIDE + row];
            let b = tile_kv[i * KV_STRIDE + column];
            s0 += a * b.x;
            s1 += a * b.y;
            s2 += a * b.z;
            s3 += a * b.w;
        }
        workgroupBarrier();
    }
    scores = array<vec4<f32>, 4>(s0, s1, s2, s3);
}

fn multiply_values(lane: u32, head: u32, key: u32) {
    let row = lane / COLUMN_GROUPS;
    let column = lane % COLUMN_GROUPS;
    for (var chunk = 0u; chunk < CHUNKS; chunk++) {
        var o0 = acc[chunk * 4u];
        var o1 = acc[chunk * 4u + 1u];
        var o2 = acc[chunk * 4u + 2u];
        var o3 = acc[chunk * 4u + 3u];
        for (var first = 0u; first < WIDTH; first += STEP) {
            load_v_tile(lane, head, key + first, chunk * WIDTH);
            workgroupBarrier();
            for (var i = 0u; i < STEP; i++) {
                let a = tile_p[(first + i) * Q_STRIDE + row];
                let b = tile_kv[i * KV_STRIDE + column];
                o0 += a.x * b;
                o1 += a.y * b;
                o2 += a.z * b;
                o3 += a.w * b;
            }
            workgroupBarrier();
        }
        acc[chunk * 4u] = o0;
        acc[chunk * 4u + 1u] = o1;
        acc[chunk * 4u + 2u] = o2;
        acc[chunk * 4u + 3u] = o3;
    }
}

fn exp_guarded(x: vec4<f32>) -> vec4<f32> {
    return exp(max(x, vec4<f32>(EXPONENT_MIN)));
}

fn rescale(correction: vec4<f32>) {
    for (var chunk = 0u; chunk < CHUNKS; chunk++) {
        acc[chunk * 4u] *= correction.x;
        acc[chunk * 4u + 1u] *= correction.y;
        acc[chunk * 4u + 2u] *= correction.z;
        acc[chunk * 4u + 3u] *= correction.w;
    }
}

fn store(row: u32, column: u32, head: u32, query: u32, sum: vec4<f32>, maximum: vec4<f32>) {
    let log_sum = maximum + log(sum);
    for (var r = 0u; r < 4u; r++) {
        let token = query + row * 4u + r;
        if token >= params.queries {
            break;
        }
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            let result = acc[chunk * 4u + r] / sum[r];
            for (var c = 0u; c < 4u; c++) {
                let channel = chunk * WIDTH + column * 4u + c;
                if channel < HEAD_DIM {
                    o[offset(token, head, channel)] = result[c];
                }
            }
        }
        if column == 0u {
            lse[token * params.heads + head] = log_sum[r];
        }
    }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tiles = (params.queries + TILE_Q - 1u) / TILE_Q;
    let workgroup = workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    if workgroup >= tiles * params.heads {
        return;
    }
    let head = workgroup / tiles;
    let query = workgroup % tiles * TILE_Q;
    let row = lane / COLUMN_GROUPS;
    let column = lane % COLUMN_GROUPS;

    for (var i = 0u; i < CHUNKS * 4u; i++) {
        acc[i] = vec4<f32>(0.0);
    }
    var maximum = vec4<f32>(F32_LOWEST);
    var sum = vec4<f32>(0.0); // over this invocation's keys only, until the end
    for (var key = 0u; key < params.keys; key += WIDTH) {
        multiply_scores(lane, head, query, key);
        var local_maximum = vec4<f32>(F32_LOWEST);
        for (var c = 0u; c < 4u; c++) {
            if key + column * 4u + c < params.keys {
                scores[c] *= params.scale;
                local_maximum = max(local_maximum, scores[c]);
            }
        }
        reduce_scratch[column * ROW_GROUPS + row] = local_maximum;
        workgroupBarrier();
        let previous = maximum;
        for (var g = 0u; g < COLUMN_GROUPS; g++) {
            maximum = max(maximum, reduce_scratch[g * ROW_GROUPS + row]);
        }
        let correction = exp_guarded(previous - maximum);
        sum *= correction;
        for (var c = 0u; c < 4u; c++) {
            var p = vec4<f32>(0.0);
            if key + column * 4u + c < params.keys {
                p = exp_guarded(scores[c] - maximum);
            }
            sum += p;
            tile_p[(column * 4u + c) * Q_STRIDE + row] = p;
        }
        rescale(correction);
        workgroupBarrier();
        multiply_values(lane, head, key);
    }

    reduce_scratch[column * ROW_GROUPS + row] = sum;
    workgroupBarrier();
    sum = vec4<f32>(0.0);
    for (var g = 0u; g < COLUMN_GROUPS; g++) {
        sum += reduce_scratch[g * ROW_GROUPS + row];
    }
    store(row, column, head, query, sum, maximum);
}
