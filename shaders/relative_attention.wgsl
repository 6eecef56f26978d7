// relative_attention — o = softmax(q kᵀ + b) v per head, where b depends on how far the key is from
// the query: the attention of T5, whose scores are not scaled.
//
//   q        [T, H·D]    f32  queries, a head's channels side by side
//   k        [T, H·D]    f32  keys
//   v        [T, H·D]    f32  values
//   table    [B, H]      f32  what is added to scores, by bucket of distances
//   buckets  [2·T − 1]   u32  bucket of the distance key − query + T − 1
//   o        [T, H·D]    f32  result
//
// A workgroup computes WORKGROUP_SIZE channels of one query and head; keys come in chunks of as
// many: an invocation owns a key of the chunk for the scores, then a channel for the values. Texts
// are short and encoded once: what counts is that this compiles fast and stores no scores.
//
// Constants: WORKGROUP_SIZE, GRID_WIDTH.
// Memory:    12·WORKGROUP_SIZE bytes per workgroup.
// Dispatch:  T · H · ceil(D / WORKGROUP_SIZE) workgroups, folded into x then y.
// Twin:      kernels::relative_attention::reference

struct Params {
    tokens: u32,
    heads: u32,
    head_dim: u32,
}

@group(0) @binding(0) var<storage, read_write> q: array<f32>;
@group(0) @binding(1) var<storage, read_write> k: array<f32>;
@group(0) @binding(2) var<storage, read_write> v: array<f32>;
@group(0) @binding(3) var<storage, read_write> table: array<f32>;
@group(0) @binding(4) var<storage, read_write> buckets: array<u32>;
@group(0) @binding(5) var<storage, read_write> o: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

#import reduce

const F32_LOWEST: f32 = -3.4028234e38;

var<workgroup> tile_p: array<f32, WORKGROUP_SIZE>;

fn score(query: u32, key: u32, head: u32) -> f32 {
    let width = params.heads * params.head_dim;
    let query_at = query * width + head * params.head_dim;
    let key_at = key * width + head * params.head_dim;
    var sum = 0.0;
    for (var c = 0u; c < params.head_dim; c++) {
        sum += q[query_at + c] * k[key_at + c];
    }
    return sum + table[buckets[key + params.tokens - 1u - query] * params.heads + head];
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let workgroup = workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    let blocks = (params.head_dim + WORKGROUP_SIZE - 1u) / WORKGROUP_SIZE;
    let query = workgroup / blocks / params.heads;
    if query >= params.tokens {
        return;
    }
    let head = workgroup / blocks % params.heads;
    let channel = workgroup % blocks * WORKGROUP_SIZE + lane;
    let at = (query * params.heads + head) * params.head_dim + channel;
    var maximum = F32_LOWEST;
    var total = 0.0;
    var sum = 0.0;
    for (var first = 0u; first < params.tokens; first += WORKGROUP_SIZE) {
        let is_key = first + lane < params.tokens;
        var own = F32_LOWEST;
        if is_key {
            own = score(query, first + lane, head);
        }
        let largest = max(maximum, workgroup_range(vec2<f32>(0.0, own), lane).y);
        // Never less than the difference of two finite scores, never an infinity.
        let shrink = exp(max(maximum - largest, -200.0));
        var p = 0.0;
        if is_key {
            p = exp(own - largest); // a score that is no number stays none
        }
        tile_p[lane] = p;
        total = total * shrink + workgroup_sum(vec2<f32>(p, 0.0), lane).x;
        sum *= shrink;
        maximum = largest;
        if channel < params.head_dim {
            for (var i = 0u; i < min(WORKGROUP_SIZE, params.tokens - first); i++) {
                sum += tile_p[i] * v[((first + i) * params.heads + head) * params.head_dim + channel];
            }
        }
        workgroupBarrier();
    }
    if channel < params.head_dim {
        o[at] = sum / total;
    }
}
