// attention_int8 — attention whose scores are integer products of 8-bit queries and keys.
//
//   q_codes  [M, H·HEAD_DIM/4]  u32   quantize_heads of the queries
//   q_grid   [M, H, 2]          f32   scale; Σ q · (mean of the keys)
//   k_codes  [N, H·HEAD_DIM/4]  u32   quantize_heads of the keys less their mean
//   k_grid   [N, H, 2]          f32   scale; unused
//   v        [N, H·HEAD_DIM]    Elem  values
//   o        [M, H·HEAD_DIM]    f32   result
//   lse      [M, H]             f32   as of attention: the mean's share is added again
//
// The patches of attention_patches.wgsl. Sums of 128 products of codes stay below 2²⁴, so that
// floats hold them exactly.
//
// Constants: Elem, HEAD_DIM (a multiple of 16, at most 128), COLUMNS (8 or 16), WORKGROUP_SIZE,
//            GRID_WIDTH.
// Memory:    16 384 bytes per workgroup.
// Dispatch:  H · ceil(M / 64) workgroups, the tiles of one head in a row, folded into x then y.
// Twin:      kernels::attention_int8::reference

struct Params {
    queries: u32,
    keys: u32,
    heads: u32,
    scale: f32,
}

@group(0) @binding(0) var<storage, read_write> q_codes: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> q_grid: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> k_codes: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> k_grid: array<vec2<f32>>;
@group(0) @binding(4) var<storage, read_write> v: array<vec4<Elem>>;
@group(0) @binding(5) var<storage, read_write> o: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> lse: array<f32>;
@group(0) @binding(7) var<uniform> params: Params;

#import log_sum_exp
#import attention_patches

const CODES: u32 = HEAD_DIM / 16u;       // vectors of codes of a head
const STEP: u32 = 4u;                    // of them staged at once
const STAGED_KEYS: u32 = STEP * TILE;    // where the keys begin in `tile_v`

const_assert HEAD_DIM % 16u == 0u;

alias Keys = array<vec4<u32>, OWNED_KEYS>;

fn dot16(a: vec4<u32>, b: vec4<u32>) -> i32 {
    return dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z)
        + dot4I8Packed(a.w, b.w);
}

fn score_row(s: ptr<private, Scores>, query: vec4<u32>, keys: ptr<function, Keys>) {
    for (var j = 0u; j < OWNED_KEYS / 4u; j++) {
        (*s)[j] += vec4<f32>(vec4<i32>(
            dot16(query, (*keys)[4u * j]), dot16(query, (*keys)[4u * j + 1u]),
            dot16(query, (*keys)[4u * j + 2u]), dot16(query, (*keys)[4u * j + 3u]),
        ));
    }
}

// [vector][token], queries before keys.
fn stage_tokens(lane: u32, head: u32, query: u32, key: u32, first: u32) {
    for (var i = lane; i < STEP * TILE + opaque_zero; i += WORKGROUP_SIZE) {
        let c = first + i % STEP;
        let token = i / STEP;
        var a = vec4<u32>(0u);
        var b = vec4<u32>(0u);
        if c < CODES {
            let query_token = min(query + token, params.queries - 1u);
            let key_token = min(key + token, params.keys - 1u);
            a = q_codes[(query_token * params.heads + head) * CODES + c];
            b = k_codes[(key_token * params.heads + head) * CODES + c];
        }
        tile_v[i % STEP * TILE + token] = a;
        tile_v[STAGED_KEYS + i % STEP * TILE + token] = b;
    }
}

fn multiply_keys(row: u32, column: u32) {
    for (var c = 0u; c < STEP + opaque_zero; c++) {
        var keys: Keys;
        for (var j = 0u; j < OWNED_KEYS; j++) {
            keys[j] = tile_v[STAGED_KEYS + c * TILE + j * COLUMNS + column];
        }
        let at = c * TILE + 8u * row;
        score_row(&scores0, tile_v[at], &keys);
        score_row(&scores1, tile_v[at + 1u], &keys);
        score_row(&scores2, tile_v[at + 2u], &keys);
        score_row(&scores3, tile_v[at + 3u], &keys);
        score_row(&scores4, tile_v[at + 4u], &keys);
        score_row(&scores5, tile_v[at + 5u], &keys);
        score_row(&scores6, tile_v[at + 6u], &keys);
        score_row(&scores7, tile_v[at + 7u], &keys);
    }
}

fn grid_at_query(token: u32, head: u32) -> f32 {
    return q_grid[min(token, params.queries - 1u) * params.heads + head].x;
}

fn grid_row(s: ptr<private, Scores>, q_scale: f32, k_scales: ptr<function, Scores>) {
    for (var j = 0u; j < OWNED_KEYS / 4u; j++) {
        (*s)[j] *= q_scale * (*k_scales)[j];
    }
}

// From sums of codes to products of queries and keys.
fn apply_grids(row: u32, column: u32, head: u32, query: u32, key: u32) {
    var scales: Scores;
    for (var j = 0u; j < OWNED_KEYS / 4u; j++) {
        let first = key + 4u * j * COLUMNS + column;
        let last = params.keys - 1u;
        scales[j] = vec4<f32>(
            k_grid[min(first, last) * params.heads + head].x,
            k_grid[min(first + COLUMNS, last) * params.heads + head].x,
            k_grid[min(first + 2u * COLUMNS, last) * params.heads + head].x,
            k_grid[min(first + 3u * COLUMNS, last) * params.heads + head].x,
        );
    }
    let token = query + 8u * row;
    grid_row(&scores0, grid_at_query(token, head), &scales);
    grid_row(&scores1, grid_at_query(token + 1u, head), &scales);
    grid_row(&scores2, grid_at_query(token + 2u, head), &scales);
    grid_row(&scores3, grid_at_query(token + 3u, head), &scales);
    grid_row(&scores4, grid_at_query(token + 4u, head), &scales);
    grid_row(&scores5, grid_at_query(token + 5u, head), &scales);
    grid_row(&scores6, grid_at_query(token + 6u, head), &scales);
    grid_row(&scores7, grid_at_query(token + 7u, head), &scales);
}

fn scores_step(lane: u32, head: u32, query: u32, key: u32) {
    clear_scores();
    for (var first = 0u; first < CODES; first += STEP) {
        workgroupBarrier();
        stage_tokens(lane, head, query, key, first);
        workgroupBarrier();
        multiply_keys(lane / COLUMNS, lane % COLUMNS);
    }
    apply_grids(lane / COLUMNS, lane % COLUMNS, head, query, key);
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
    if lane % COLUMNS == 0u {
        let first = query + lane / COLUMNS * 8u;
        for (var token = first; token < min(first + 8u, params.queries); token++) {
            let at = token * params.heads + head;
            lse[at] += params.scale * q_grid[at].y;
        }
    }
}
