// qmatmul_registers — y = epilogue(x · wᵀ) of packed tokens and a packed weight without workgroup
// memory: the form for adapters whose workgroup memory is plain memory (software).
//
//   x_codes  [M, ceil(K/32)·X_BITS]  u32   packed codes of the tokens
//   x_grid   [M, 3]                  u32   scale (f32), zero point (f32), code sum (i32)
//   w_codes  [N, ceil(K/32)·W_BITS]  u32   packed codes of the weight
//   w_grid   [N, G, 3]               u32   scale (f32), zero point (f32), code sum (i32)
//   bias …                                 see shared/epilogue_*.wgsl
//   y        [M, N]                  f32   or, if RAW, the bits of the i32 accumulator
//
// An invocation computes TOKENS × COLUMNS results, columns WORKGROUP_SIZE apart; K is walked in
// units of eight codes. Codes become floats around zero (q − 2^(b−1)) and are multiplied by fma,
// of which a CPU has more than integer products. Every sum is an exact integer: up to a width of
// 8 bits together two columns share one float, 2^12 apart, and CHUNK units (32 codes of 4 bits,
// 128 of 3) stay within ±2^11; wider ones stay below 2^24. Chunks end in i32.
//   Σ q_x q_w = Σ (q_x − h_x)(q_w − h_w) + h_w Σ q_x + h_x Σ q_w − h_x h_w · count
// Constants: X_BITS, W_BITS, GROUPED, RAW, TOKENS, COLUMNS; the tokens and the epilogue by import.
// Dispatch:  (ceil(N / (COLUMNS · WORKGROUP_SIZE)), ceil(M / TOKENS)) workgroups.
// Twin:      kernels::qmatmul::reference
//
// Floor at 4 bits: N·K·M / 2 fma of 8 lanes. What costs beside them are the loads: on llvmpipe one
// is a gather of about 25 cycles, whatever the addresses. 256 × 1536 × 1536 on one core of a
// 2-core EPYC (Zen 4), ms of CPU time: fma alone 20, with w's loads 30, complete 47 (3 bits: 38,
// 8 bits: 49); Burn's f32 matmul 178. Tried: bytes and dot4U8Packed 92 (as shift, mask, multiply there); tokens loaded as
// f32 by every invocation 320; 16 × 4 results 42 but twice the time to compile and, at 8 bits, 80
// for 52 (spilled registers). Codes of more than 8 bits together take 2 columns: 4 are 32 sums of eight
// lanes, for which drivers do not always use all registers that a processor with AVX-512 has (8 bits on
// Zen 4: 53 with 2 columns, with 4 columns 49 on one machine and 81 on another). With 16 registers
// (Zen 3) 2 columns have 2.7 times the speed of Burn's f32 matmul, 4 have 1.5.

#import code_units
#import tokens
#import zero_points

#import packed_product

const X_HALF: u32 = 1u << (X_BITS - 1u);
const W_HALF: u32 = 1u << (W_BITS - 1u);
const PAIRED: bool = X_BITS + W_BITS <= 8u;
const FIELD: f32 = 4096.0;
const START: f32 = select(0.0, 2047.0, PAIRED); // so that the lower field is never negative
const FACTORS: u32 = select(COLUMNS, COLUMNS / 2u, PAIRED);
const CHUNK: u32 = 1u << (select(23u, 10u, PAIRED) - X_BITS - W_BITS); // units
const FOURS: u32 = TOKENS / 4u;

// Zero, which no compiler knows: what is done once per group or result is not worth unrolling, which
// takes three times as long to compile.
fn opaque_zero() -> u32 {
    return params.k >> 31u;
}

fn centered_x(unit: vec2<u32>, i: u32) -> f32 {
    return f32(code_of_unit(unit, i, X_BITS)) - f32(X_HALF);
}

// Code `i` of column `j`, with that of the column FACTORS further if PAIRED.
fn factor(units: ptr<function, array<vec2<u32>, COLUMNS>>, j: u32, i: u32) -> f32 {
    let first = code_of_unit((*units)[j], i, W_BITS);
    if PAIRED {
        let second = code_of_unit((*units)[(j + FACTORS) % COLUMNS], i, W_BITS);
        return f32(first | (second << 12u)) - f32(W_HALF) * (1.0 + FIELD);
    }
    return f32(first) - f32(W_HALF);
}

// Σ of the floats so far into integers.
fn flush(
    acc: ptr<function, array<vec4<f32>, FOURS * FACTORS>>,
    sums: ptr<function, array<i32, TOKENS * COLUMNS>>,
) {
    for (var four = 0u; four < FOURS; four++) {
        for (var j = 0u; j < FACTORS; j++) {
            var value = (*acc)[four * FACTORS + j];
            let high = floor(value * (1.0 / FIELD));
            if PAIRED {
                value = fma(high, vec4<f32>(-FIELD), value - START);
            }
            for (var i = 0u; i < 4u; i++) {
                let at = (four * 4u + i) * COLUMNS + j;
                (*sums)[at] += i32(value[i]);
                if PAIRED {
                    (*sums)[at + FACTORS] += i32(high[i]);
                }
            }
            (*acc)[four * FACTORS + j] = vec4<f32>(START);
        }
    }
}

// Centered sums of a group into `totals`; `sums` become Σ q_x q_w.
fn fold_group(
    sums: ptr<function, array<i32, TOKENS * COLUMNS>>,
    x_sums: ptr<function, array<i32, TOKENS>>,
    totals: ptr<function, array<f32, TOKENS * COLUMNS>>,
    m0: u32,
    n0: u32,
    group: u32,
) {
    let groups = (params.k + params.group_size - 1u) / params.group_size;
    let k = i32(min(params.group_size, params.k - group * params.group_size));
    let count = (k + 31) / 32 * 32; // padding codes are zero, not centered
    let tokens = min(TOKENS, params.m - m0);
    for (var j = 0u; j < COLUMNS + opaque_zero(); j++) {
        let column = min(n0 + j * WORKGROUP_SIZE, params.n - 1u);
        let w = weight_zero((column * groups + group) * 3u, k);
        for (var i = 0u; i < tokens; i++) {
            var x_sum = (*x_sums)[i] + i32(X_HALF) * count;
            if !GROUPED {
                x_sum = bitcast<i32>(x_grid[(m0 + i) * 3u + 2u]);
            }
            let at = i * COLUMNS + j;
            (*sums)[at] += i32(W_HALF) * x_sum + i32(X_HALF) * (w.sum - i32(W_HALF) * count);
            (*totals)[at] += corrected((*sums)[at], token_zero(m0 + i, x_sum, k), w);
        }
    }
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let m0 = workgroup_id.y * TOKENS;
    let n0 = workgroup_id.x * COLUMNS * WORKGROUP_SIZE + lane;
    let units = units_per_row();
    var sums: array<i32, TOKENS * COLUMNS>;
    var x_sums: array<i32, TOKENS>;
    var totals: array<f32, TOKENS * COLUMNS>;
    var acc: array<vec4<f32>, FOURS * FACTORS>;
    var x_acc: array<vec4<f32>, FOURS>;
    for (var i = 0u; i < FOURS * FACTORS; i++) {
        acc[i] = vec4<f32>(START);
    }
    for (var unit = 0u; unit < units; unit++) {
        var x: array<vec2<u32>, TOKEN_UNITS>;
        for (var i = 0u; i < TOKEN_UNITS; i++) {
            x[i] = token_unit(m0, i, lane, unit);
        }
        var w: array<vec2<u32>, COLUMNS>;
        for (var j = 0u; j < COLUMNS; j++) {
            w[j] = w_unit(n0 + j * WORKGROUP_SIZE, unit);
        }
        for (var i = 0u; i < 8u; i++) {
            for (var four = 0u; four < FOURS; four++) {
                let tokens = four_tokens(&x, four, i);
                for (var j = 0u; j < FACTORS; j++) {
                    let at = four * FACTORS + j;
                    acc[at] = fma(tokens, vec4<f32>(factor(&w, j, i)), acc[at]);
                }
                if GROUPED {
                    x_acc[four] += tokens;
                }
            }
        }
        let end = min((unit + 1u) * 8u, params.k);
        let group_ends = GROUPED && (unit + 1u) % 4u == 0u
            && (end % params.group_size == 0u || end == params.k);
        if (unit + 1u) % CHUNK == 0u || unit + 1u == units || group_ends {
            flush(&acc, &sums);
        }
        if group_ends {
            for (var i = 0u; i < TOKENS; i++) {
                x_sums[i] = i32(x_acc[i / 4u][i % 4u]);
            }
            fold_group(&sums, &x_sums, &totals, m0, n0, (end - 1u) / params.group_size);
            sums = array<i32, TOKENS * COLUMNS>();
            x_acc = array<vec4<f32>, FOURS>();
        }
    }
    if !GROUPED {
        fold_group(&sums, &x_sums, &totals, m0, n0, 0u);
    }
    let tokens = min(TOKENS, params.m - m0);
    for (var i = 0u; i < tokens; i++) {
        let row = m0 + i;
        let scale = bitcast<f32>(x_grid[row * 3u]);
        for (var j = 0u; j < COLUMNS + opaque_zero(); j++) {
            let column = n0 + j * WORKGROUP_SIZE;
            if column < params.n {
                let at = i * COLUMNS + j;
                let result = finish(row, column, scale * totals[at]);
                y[row * params.n + column] = select(result, bitcast<f32>(sums[at]), RAW);
            }
        }
    }
}
