// qmatvec — y = epilogue(x · ŵᵀ) of a few float tokens and a packed weight (weight-only).
//
//   x        [M, K]                  Elem  f32 or f16, M ≤ TOKENS
//   w_codes  [N, ceil(K/32)·W_BITS]  u32   packed codes of the weight
//   w_grid   [N, G, 3]               u32   scale (f32), zero point (f32), code sum (i32), as bits
//   bias …                                 see shared/epilogue_*.wgsl
//   y        [M, N]                  f32   accumulated in f32
//
//   y = Σ s (Σ x (q − h) − (z − h) Σ x), the outer sum over groups, h half of the codes' range
// An invocation takes units of eight codes of two rows and all tokens, so that codes are read once and
// tokens once for both rows. If SPLIT, a workgroup takes two rows and adds its invocations up; else an
// invocation takes two rows alone, for adapters that are CPUs: there a barrier costs more than a row.
// Workgroup memory: 8·WORKGROUP_SIZE bytes.
// Constants: W_BITS, GROUPED, SPLIT, TOKENS, Elem, WORKGROUP_SIZE, GRID_WIDTH; quads, the epilogue by
// import.
// Dispatch:  ceil(N / (SPLIT ? 2 : 2·WORKGROUP_SIZE)) workgroups, folded into x then y.
// Twin:      kernels::qmatmul_float::reference
//
// Floor: N·K·W_BITS/8 bytes. A code takes four instructions (shift, mask with or, subtract, multiply and
// add), so that 4 bits keep up with an eighth of a byte per instruction: three quarters of what an H200
// reads. On lavapipe (1536 × 1536, one token, Zen 4, CPU time) 1.5 to 1.7 ms at 3, 4 and 8 bits, where full
// precision takes 4.5 in the same run; a workgroup per row, with grids read for every four codes, took 11
// to 12. Not timed on a GPU.

#import weight_units
#import reduce

struct Params {
    m: u32,
    n: u32,
    k: u32,
    group_size: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<Elem>;
@group(0) @binding(1) var<storage, read_write> w_codes: array<u32>;
@group(0) @binding(2) var<storage, read_write> w_grid: array<u32>;
const EPILOGUE: u32 = 3u;
#import epilogue
@group(0) @binding(EPILOGUE_END) var<storage, read_write> y: array<f32>;
@group(0) @binding(EPILOGUE_END + 1u) var<uniform> params: Params;

#import quads

const HALF: f32 = f32(1u << (W_BITS - 1u));

// By token: Σ x (q − HALF) of both rows, and Σ x.
struct Sums {
    codes: array<vec2<f32>, TOKENS>,
    x: array<f32, TOKENS>,
}

// Four values of a token, zero behind its end; behind the last token that one again.
fn x_or_zero(token: u32, quad: u32) -> vec4<f32> {
    if 4u * quad >= params.k {
        return vec4<f32>();
    }
    return select(vec4<f32>(), x_quad(min(token, params.m - 1u), quad), in_row(quad));
}

// Four codes of a unit, less half of their range, so that sums with and without codes nearly cancel only
// where what they stand for does. As the last bits of 2^23, an integer becomes a float by a bitwise or,
// which GPUs compute faster than a conversion.
fn four_codes(unit: vec2<u32>, first: u32) -> vec4<f32> {
    let codes = vec4<u32>(
        code_of_unit(unit, first, W_BITS), code_of_unit(unit, first + 1u, W_BITS),
        code_of_unit(unit, first + 2u, W_BITS), code_of_unit(unit, first + 3u, W_BITS),
    );
    return bitcast<vec4<f32>>(codes | vec4<u32>(0x4B000000u)) - vec4<f32>(8388608.0 + HALF);
}

fn add_unit(sums: ptr<function, Sums>, rows: vec2<u32>, unit: u32) {
    let first = w_unit(rows.x, unit);
    let second = w_unit(rows.y, unit);
    for (var half = 0u; half < 2u; half++) {
        let w0 = four_codes(first, 4u * half);
        let w1 = four_codes(second, 4u * half);
        for (var token = 0u; token < TOKENS; token++) {
            let values = x_or_zero(token, 2u * unit + half);
            (*sums).codes[token] += vec2<f32>(dot(values, w0), dot(values, w1));
            (*sums).x[token] += dot(values, vec4<f32>(1.0));
        }
    }
}

// Adds what the codes of a group stand for to `totals`, and clears `sums`.
fn fold(
    sums: ptr<function, Sums>,
    totals: ptr<function, array<vec2<f32>, TOKENS>>,
    rows: vec2<u32>,
    group: u32,
) {
    var groups = 1u;
    if GROUPED {
        groups = (params.k + params.group_size - 1u) / params.group_size;
    }
    let at = (min(rows, vec2<u32>(params.n - 1u)) * groups + group) * 3u;
    let scale = bitcast<vec2<f32>>(vec2<u32>(w_grid[at.x], w_grid[at.y]));
    let zero = bitcast<vec2<f32>>(vec2<u32>(w_grid[at.x + 1u], w_grid[at.y + 1u]));
    for (var token = 0u; token < TOKENS; token++) {
        (*totals)[token] += scale * ((*sums).codes[token] - (zero - HALF) * (*sums).x[token]);
        (*sums).codes[token] = vec2<f32>();
        (*sums).x[token] = 0.0;
    }
}

fn store(token: u32, rows: vec2<u32>, sums: vec2<f32>) {
    if token >= params.m {
        return;
    }
    if rows.x < params.n {
        y[token * params.n + rows.x] = finish(token, rows.x, sums.x);
    }
    if rows.y < params.n {
        y[token * params.n + rows.y] = finish(token, rows.y, sums.y);
    }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let workgroup = workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    var rows = 2u * workgroup + vec2<u32>(0u, 1u);
    var unit = lane;
    var stride = WORKGROUP_SIZE;
    if !SPLIT {
        rows = 2u * WORKGROUP_SIZE * workgroup + lane + vec2<u32>(0u, WORKGROUP_SIZE);
        unit = 0u;
        stride = 1u;
    }
    if rows.x >= params.n {
        return; // together, if SPLIT
    }
    var sums: Sums;
    var totals: array<vec2<f32>, TOKENS>;
    for (; unit < (params.k + 7u) / 8u; unit += stride) {
        add_unit(&sums, rows, unit);
        if GROUPED {
            fold(&sums, &totals, rows, 8u * unit / params.group_size);
        }
    }
    if !GROUPED {
        fold(&sums, &totals, rows, 0u);
    }
    for (var token = 0u; token < TOKENS; token++) {
        var sum = totals[token];
        if SPLIT {
            sum = workgroup_sum(sum, lane);
        }
        if !SPLIT || lane == 0u {
            store(token, rows, sum);
        }
    }
}
