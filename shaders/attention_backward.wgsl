// attention_backward — gradients of attention in its queries, or in its keys and values.
//
//   own_a, own_b    [T, H·HEAD_DIM]  f32   the side that is differentiated: q, d_o  or  k, v
//   walk_a, walk_b  [U, H·HEAD_DIM]  f32   the other side:                  k, v    or  q, d_o
//   lse             [M, H]           f32   of the forward pass, M the queries: T or U
//   delta           [M, H]           f32   Σ d_o·o − d_lse over a head's channels
//   d_a             [T, H·HEAD_DIM]  f32   Σ ds · walk_a: d_q or d_k
//   d_b             [T, H·HEAD_DIM]  f32   Σ p · walk_b: d_v; one unused value for the queries
//
// p = exp(scale · q kᵀ − lse) and ds = scale · p · (d_o vᵀ − delta) are recomputed tile by tile, so
// that memory grows with the tokens only (Dao, FlashAttention-2, arXiv:2307.08691, algorithm 2);
// one dispatch per side instead of atomic additions, so that results are reproducible.
//
// A workgroup owns TILE tokens of one head and walks the other side in tiles of WIDTH; see
// attention.wgsl for the products. An invocation owns a 4 × 4 patch of each of them.
//
// Constants: HEAD_DIM, KEYS (the owned side), ROW_GROUPS, COLUMN_GROUPS, STEP (divides WIDTH),
//            WORKGROUP_SIZE, GRID_WIDTH.
// Memory:    16·(STEP·(ROW_GROUPS + COLUMN_GROUPS + 2) + WIDTH·(ROW_GROUPS + 1)) bytes per workgroup.
// Dispatch:  H · ceil(T / TILE) workgroups, the tiles of one head in a row; of them `first..end` in
//            this dispatch, folded into x then y.
// Twin:      kernels::attention_backward::reference

struct Params {
    own: u32,
    walked: u32,
    heads: u32,
    scale: f32,
    first: u32,
    end: u32,
}

@group(0) @binding(0) var<storage, read_write> own_a: array<f32>;
@group(0) @binding(1) var<storage, read_write> own_b: array<f32>;
@group(0) @binding(2) var<storage, read_write> walk_a: array<f32>;
@group(0) @binding(3) var<storage, read_write> walk_b: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;
@group(0) @binding(5) var<storage, read_write> delta: array<f32>;
@group(0) @binding(6) var<storage, read_write> d_a: array<f32>;
@group(0) @binding(7) var<storage, read_write> d_b: array<f32>;
@group(0) @binding(8) var<uniform> params: Params;

const TILE: u32 = 4u * ROW_GROUPS;
const WIDTH: u32 = 4u * COLUMN_GROUPS;
const GRADIENTS: u32 = select(1u, 2u, KEYS);
const CHUNKS: u32 = (HEAD_DIM + WIDTH - 1u) / WIDTH;
// Channels or tokens of a product between two tests of the loop; divides STEP.
const UNROLLED: u32 = 8u;
const FOUR: vec4<u32> = vec4<u32>(0u, 1u, 2u, 3u);
// One vector of padding per row, so that a column of a tile spreads over the memory banks.
const OWN_STRIDE: u32 = ROW_GROUPS + 1u;
const WALK_STRIDE: u32 = COLUMN_GROUPS + 1u;
// Exponents are at or below zero but for rounding; the clamp keeps unused rows finite.
const EXPONENT_MIN: f32 = -87.0;
const EXPONENT_MAX: f32 = 88.0;

const_assert WIDTH % STEP == 0u;
const_assert STEP % UNROLLED == 0u;
const_assert ROW_GROUPS * COLUMN_GROUPS == WORKGROUP_SIZE;

var<workgroup> tile_own: array<vec4<f32>, STEP * OWN_STRIDE>;   // [channel][4 owned]
var<workgroup> tile_walk: array<vec4<f32>, STEP * WALK_STRIDE>; // [channel][4 walked], [walked][4 channels]
var<workgroup> tile_p: array<vec4<f32>, WIDTH * OWN_STRIDE>;    // [walked][4 owned]

// The invocation's own state: vectors of a patch run over its four owned tokens, those of the
// gradients over four channels.
var<private> patch_a: array<vec4<f32>, 4>; // own_a · walk_aᵀ, then ds; one per walked token
var<private> patch_b: array<vec4<f32>, 4>; // own_b · walk_bᵀ, then p
var<private> acc_a: array<vec4<f32>, CHUNKS * 4u>; // [chunk][owned]
var<private> acc_b: array<vec4<f32>, CHUNKS * 4u>;

// Zero, which no compiler knows: loops that end with it are not unrolled, which takes software adapters
// several times as long to compile.
fn opaque_zero() -> u32 {
    return params.heads >> 31u;
}

fn offset(token: u32, head: u32, channel: u32) -> u32 {
    return (token * params.heads + head) * HEAD_DIM + channel;
}

// Four elements of a side; they are loaded without a branch each, which takes a software adapter long
// to compile.
fn own_four(b: bool, at: vec4<u32>) -> vec4<f32> {
    if b {
        return vec4<f32>(own_b[at.x], own_b[at.y], own_b[at.z], own_b[at.w]);
    }
    return vec4<f32>(own_a[at.x], own_a[at.y], own_a[at.z], own_a[at.w]);
}

fn walked_four(b: bool, at: vec4<u32>) -> vec4<f32> {
    if b {
        return vec4<f32>(walk_b[at.x], walk_b[at.y], walk_b[at.z], walk_b[at.w]);
    }
    return vec4<f32>(walk_a[at.x], walk_a[at.y], walk_a[at.z], walk_a[at.w]);
}

// Where elements of a head lie; the last token or channel stands in for those beyond.
fn offsets(token: vec4<u32>, tokens: u32, head: u32, channel: vec4<u32>) -> vec4<u32> {
    let row = min(token, vec4<u32>(tokens - 1u)) * params.heads + head;
    return row * HEAD_DIM + min(channel, vec4<u32>(HEAD_DIM - 1u));
}

// `values` where both indices are within a side, else zeros.
fn within(values: vec4<f32>, token: vec4<u32>, tokens: u32, channel: vec4<u32>) -> vec4<f32> {
    let is_in = (token < vec4<u32>(tokens)) & (channel < vec4<u32>(HEAD_DIM));
    return select(vec4<f32>(0.0), values, is_in);
}

// A vector holds four tokens of a channel.
fn load_own(lane: u32, b: bool, head: u32, token: u32, channel: u32) {
    for (var i = lane; i < STEP * ROW_GROUPS; i += WORKGROUP_SIZE) {
        let c = vec4<u32>(channel + i % STEP);
        let t = token + i / STEP * 4u + FOUR;
        let values = own_four(b, offsets(t, params.own, head, c));
        tile_own[i % STEP * OWN_STRIDE + i / STEP] = within(values, t, params.own, c);
    }
}

// The same of the other side.
fn load_walked_tokens(lane: u32, b: bool, head: u32, token: u32, channel: u32) {
    for (var i = lane; i < STEP * COLUMN_GROUPS; i += WORKGROUP_SIZE) {
        let c = vec4<u32>(channel + i % STEP);
        let t = token + i / STEP * 4u + FOUR;
        let values = walked_four(b, offsets(t, params.walked, head, c));
        tile_walk[i % STEP * WALK_STRIDE + i / STEP] = within(values, t, params.walked, c);
    }
}

// A vector holds four channels of a token.
fn load_walked_channels(lane: u32, b: bool, head: u32, token: u32, channel: u32) {
    for (var i = lane; i < STEP * COLUMN_GROUPS; i += WORKGROUP_SIZE) {
        let t = vec4<u32>(token + i / COLUMN_GROUPS);
        let c = channel + i % COLUMN_GROUPS * 4u + FOUR;
        let values = walked_four(b, offsets(t, params.walked, head, c));
        let at = i / COLUMN_GROUPS * WALK_STRIDE + i % COLUMN_GROUPS;
        tile_walk[at] = within(values, t, params.walked, c);
    }
}

// own · walkedᵀ over the channels
fn multiply_tokens(lane: u32, b: bool, head: u32, own: u32, walked: u32) -> array<vec4<f32>, 4> {
    let row = lane / COLUMN_GROUPS;
    let column = lane % COLUMN_GROUPS;
    var s0 = vec4<f32>(0.0);
    var s1 = vec4<f32>(0.0);
    var s2 = vec4<f32>(0.0);
    var s3 = vec4<f32>(0.0);
    for (var channel = 0u; channel < HEAD_DIM; channel += STEP) {
        load_own(lane, b, head, own, channel);
        load_walked_tokens(lane, b, head, walked, channel);
        workgroupBarrier();
        for (var first = 0u; first < STEP + opaque_zero(); first += UNROLLED) {
            for (var i = first; i < first + UNROLLED; i++) {
                let x = tile_own[i * OWN_STRIDE + row];
                let y = tile_walk[i * WALK_STRIDE + column];
                s0 += x * y.x;
                s1 += x * y.y;
                s2 += x * y.z;
                s3 += x * y.w;
            }
        }
        workgroupBarrier();
    }
    return array<vec4<f32>, 4>(s0, s1, s2, s3);
}

// `patch_a` and `patch_b` from products to ds and p, zero for tokens beyond the end.
fn differentiate(row: u32, column: u32, head: u32, own: u32, walked: u32) {
    var log_sum = vec4<f32>(0.0);
    var mean = vec4<f32>(0.0);
    if !KEYS {
        let t = own + row * 4u;
        let at = vec4<u32>(t, t + 1u, t + 2u, t + 3u);
        // The last token stands in for those beyond, which are not stored.
        let i = min(at, vec4<u32>(params.own - 1u)) * params.heads + head;
        log_sum = vec4<f32>(lse[i.x], lse[i.y], lse[i.z], lse[i.w]);
        mean = vec4<f32>(delta[i.x], delta[i.y], delta[i.z], delta[i.w]);
    }
    for (var c = 0u; c < 4u; c++) {
        let token = walked + column * 4u + c;
        var p = vec4<f32>(0.0);
        var ds = vec4<f32>(0.0);
        if token < params.walked {
            if KEYS {
                log_sum = vec4<f32>(lse[token * params.heads + head]);
                mean = vec4<f32>(delta[token * params.heads + head]);
            }
            let exponent = patch_a[c] * params.scale - log_sum;
            p = exp(clamp(exponent, vec4<f32>(EXPONENT_MIN), vec4<f32>(EXPONENT_MAX)));
            ds = params.scale * p * (patch_b[c] - mean);
        }
        patch_a[c] = ds;
        patch_b[c] = p;
    }
}

// Adds tile_p · walked to an accumulator.
fn accumulate(lane: u32, b: bool, head: u32, walked: u32) {
    let row = lane / COLUMN_GROUPS;
    let column = lane % COLUMN_GROUPS;
    for (var chunk = 0u; chunk < CHUNKS; chunk++) {
        var d0 = vec4<f32>(0.0);
        var d1 = vec4<f32>(0.0);
        var d2 = vec4<f32>(0.0);
        var d3 = vec4<f32>(0.0);
        for (var first = 0u; first < WIDTH; first += STEP) {
            load_walked_channels(lane, b, head, walked + first, chunk * WIDTH);
            workgroupBarrier();
            for (var some = 0u; some < STEP + opaque_zero(); some += UNROLLED) {
                for (var i = some; i < some + UNROLLED; i++) {
                    let x = tile_p[(first + i) * OWN_STRIDE + row];
                    let y = tile_walk[i * WALK_STRIDE + column];
                    d0 += x.x * y;
                    d1 += x.y * y;
                    d2 += x.z * y;
                    d3 += x.w * y;
                }
            }
            workgroupBarrier();
        }
        let i = chunk * 4u;
        if b {
            acc_b[i] += d0;
            acc_b[i + 1u] += d1;
            acc_b[i + 2u] += d2;
            acc_b[i + 3u] += d3;
        } else {
            acc_a[i] += d0;
            acc_a[i + 1u] += d1;
            acc_a[i + 2u] += d2;
            acc_a[i + 3u] += d3;
        }
    }
}

fn store(row: u32, column: u32, head: u32, own: u32) {
    for (var r = 0u; r < 4u; r++) {
        let token = own + row * 4u + r;
        if token >= params.own {
            break;
        }
        for (var chunk = 0u; chunk < CHUNKS; chunk++) {
            for (var c = 0u; c < 4u; c++) {
                let channel = chunk * WIDTH + column * 4u + c;
                if channel < HEAD_DIM {
                    d_a[offset(token, head, channel)] = acc_a[chunk * 4u + r][c];
                    if KEYS {
                        d_b[offset(token, head, channel)] = acc_b[chunk * 4u + r][c];
                    }
                }
            }
        }
    }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let workgroup = params.first + workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    if workgroup >= params.end {
        return;
    }
    let tiles = (params.own + TILE - 1u) / TILE;
    let head = workgroup / tiles;
    let own = workgroup % tiles * TILE;
    let row = lane / COLUMN_GROUPS;
    let column = lane % COLUMN_GROUPS;

    for (var i = 0u; i < CHUNKS * 4u; i++) {
        acc_a[i] = vec4<f32>(0.0);
        acc_b[i] = vec4<f32>(0.0);
    }
    for (var walked = 0u; walked < params.walked; walked += WIDTH) {
        for (var side = 0u; side < 2u + opaque_zero(); side++) {
            let products = multiply_tokens(lane, side == 1u, head, own, walked);
            if side == 0u {
                patch_a = products;
            } else {
                patch_b = products;
            }
        }
        differentiate(row, column, head, own, walked);
        for (var side = 0u; side < GRADIENTS + opaque_zero(); side++) {
            for (var c = 0u; c < 4u; c++) {
                let factors = select(patch_a[c], patch_b[c], side == 1u);
                tile_p[(column * 4u + c) * OWN_STRIDE + row] = factors;
            }
            workgroupBarrier();
            accumulate(lane, side == 1u, head, walked);
        }
    }
    store(row, column, head, own);
}
