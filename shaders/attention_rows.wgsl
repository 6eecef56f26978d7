// attention_rows — attention of few tokens: little code, which compiles at once.
//
//   q    [M, H·HEAD_DIM]  Elem  queries, a head's channels side by side
//   k    [N, H·HEAD_DIM]  Elem  keys
//   v    [N, H·HEAD_DIM]  Elem  values
//   o    [M, H·HEAD_DIM]  f32   result
//   lse  [M, H]           f32   ln Σ exp(scale · q kᵀ) over the keys
//
// An invocation computes one query of one head and walks the keys one by one; those of a workgroup
// have the same head and read the same keys. Nothing is shared, so there are no barriers.
//
// Constants: Elem, HEAD_DIM (a multiple of 4, at most 128), WORKGROUP_SIZE, GRID_WIDTH.
// Memory:    4 · HEAD_DIM · WORKGROUP_SIZE bytes per workgroup.
// Dispatch:  H · ceil(M / WORKGROUP_SIZE) workgroups, those of one head in a row, folded into x
//            then y.
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

const VECTORS: u32 = HEAD_DIM / 4u; // of a head

const_assert HEAD_DIM % 4u == 0u && HEAD_DIM <= 128u;

// [vector][invocation]: values weighted so far. Each invocation has its own, but an array of its own
// that is read by index becomes a tree of branches in some compilers.
var<workgroup> sum_v: array<vec4<f32>, VECTORS * WORKGROUP_SIZE>;

// `end` is VECTORS, which compilers must not know: they would unroll, and take longer for it.
fn score(query: u32, key: u32, end: u32) -> f32 {
    var total = 0.0;
    for (var c = 0u; c < end; c++) {
        total += dot(vec4<f32>(q[query + c]), vec4<f32>(k[key + c]));
    }
    return total * (params.scale * LOG2_E);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let tiles = (params.queries + WORKGROUP_SIZE - 1u) / WORKGROUP_SIZE;
    let workgroup = workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    let head = workgroup / tiles;
    let token = workgroup % tiles * WORKGROUP_SIZE + lane;
    if head >= params.heads || token >= params.queries {
        return;
    }
    let end = VECTORS + workgroup_id.z; // z is zero
    let place = token * params.heads + head;
    for (var c = 0u; c < end; c++) {
        sum_v[c * WORKGROUP_SIZE + lane] = vec4<f32>(0.0);
    }
    var maximum = F32_LOWEST; // in units of ln 2
    var sum = 0.0;
    for (var key = 0u; key < params.keys; key++) {
        let at = (key * params.heads + head) * VECTORS;
        let s = score(place * VECTORS, at, end);
        let largest = max(maximum, s);
        // Never less than the difference of two finite scores, never an infinity.
        let shrink = exp2(max(maximum - largest, -200.0));
        let p = exp2(s - largest);
        for (var c = 0u; c < end; c++) {
            let own = c * WORKGROUP_SIZE + lane;
            sum_v[own] = sum_v[own] * shrink + p * vec4<f32>(v[at + c]);
        }
        sum = sum * shrink + p;
        maximum = largest;
    }
    for (var c = 0u; c < end; c++) {
        o[place * VECTORS + c] = sum_v[c * WORKGROUP_SIZE + lane] / sum;
    }
    lse[place] = log_sum_exp(maximum, sum);
}
