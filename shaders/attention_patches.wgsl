// attention_patches — attention of heads up to 128 channels in large register patches.
//
//   q    [M, H·HEAD_DIM]  Elem  queries, a head's channels side by side
//   k    [N, H·HEAD_DIM]  Elem  keys
//   v    [N, H·HEAD_DIM]  Elem  values
//   o    [M, H·HEAD_DIM]  f32   result
//   lse  [M, H]           f32   ln Σ exp(scale · q kᵀ) over the keys
//
// A workgroup computes 64 queries of one head and walks the keys in tiles of 64. An invocation owns
// 8 queries × 64/COLUMNS keys of the scores, then 8 queries × HEAD_DIM/COLUMNS channels of the
// result: two to four operations for every value read from workgroup memory, where a 4 × 4 patch
// does one to two.
//
// Constants: Elem, HEAD_DIM (a multiple of 4, at most 128), COLUMNS (8 or 16), WORKGROUP_SIZE,
//            GRID_WIDTH.
// Memory:    16 384 bytes per workgroup.
// Dispatch:  H · ceil(M / 64) workgroups, the tiles of one head in a row, folded into x then y.
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
@group(0) @binding(3) var<storage, read_write> o: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

#import log_sum_exp
#import attention_patches

const STEP: u32 = 4u;                    // vectors of channels staged at once
const STAGED_KEYS: u32 = STEP * TILE;    // where the keys begin in `tile_v`

alias Keys = array<vec4<f32>, OWNED_KEYS>;

fn score_row(s: ptr<private, Scores>, query: vec4<f32>, keys: ptr<function, Keys>) {
    for (var j = 0u; j < OWNED_KEYS / 4u; j++) {
        (*s)[j] += vec4<f32>(
            dot(query, (*keys)[4u * j]), dot(query, (*keys)[4u * j + 1u]),
            dot(query, (*keys)[4u * j + 2u]), dot(query, (*keys)[4u * j + 3u]),
        );
    }
}

// [vector][token], queries before keys.
fn stage_tokens(lane: u32, head: u32, query: u32, key: u32, first: u32) {
    for (var i = lane; i < STEP * TILE + opaque_zero; i += WORKGROUP_SIZE) {
        let c = first + i % STEP;
        let token = i / STEP;
        var a = vec4<f32>(0.0);
        var b = vec4<f32>(0.0);
        if c < VECTORS {
            let query_token = min(query + token, params.queries - 1u);
            let key_token = min(key + token, params.keys - 1u);
            a = vec4<f32>(q[(query_token * params.heads + head) * VECTORS + c]);
            b = vec4<f32>(k[(key_token * params.heads + head) * VECTORS + c]);
        }
        tile_v[i % STEP * TILE + token] = bitcast<vec4<u32>>(a);
        tile_v[STAGED_KEYS + i % STEP * TILE + token] = bitcast<vec4<u32>>(b);
    }
}

fn multiply_keys(row: u32, column: u32) {
    for (var c = 0u; c < STEP + opaque_zero; c++) {
        var keys: Keys;
        for (var j = 0u; j < OWNED_KEYS; j++) {
            keys[j] = staged(STAGED_KEYS + c * TILE + j * COLUMNS + column);
        }
        let at = c * TILE + 8u * row;
        score_row(&scores0, staged(at), &keys);
        score_row(&scores1, staged(at + 1u), &keys);
        score_row(&scores2, staged(at + 2u), &keys);
        score_row(&scores3, staged(at + 3u), &keys);
        score_row(&scores4, staged(at + 4u), &keys);
        score_row(&scores5, staged(at + 5u), &keys);
        score_row(&scores6, staged(at + 6u), &keys);
        score_row(&scores7, staged(at + 7u), &keys);
    }
}

fn scores_step(lane: u32, head: u32, query: u32, key: u32) {
    clear_scores();
    for (var first = 0u; first < VECTORS + opaque_zero; first += STEP) {
        workgroupBarrier();
        stage_tokens(lane, head, query, key, first);
        workgroupBarrier();
        multiply_keys(lane / COLUMNS, lane % COLUMNS);
    }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tiles = (params.queries + TILE - 1u) / TILE;
    let workgroup = workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    if workgroup >= tiles * params.heads {
        return;
    }
    let head = workgroup / tiles;
    let query = workgroup % tiles * TILE;
    begin(workgroup_id.z);
    for (var key = 0u; key < params.keys; key += TILE) {
        scores_step(lane, head, query, key);
        softmax_step(lane, key);
        values_step(lane, head, key);
    }
    store(lane, head, query);
}
