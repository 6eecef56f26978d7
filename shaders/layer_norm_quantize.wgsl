// layer_norm_quantize — layer_norm, a blockwise Walsh–Hadamard transform if asked for, and
// quantize_tokens in one dispatch: what is normalized is never stored as floats.
//
//   x               [M, K]                f32
//   factor, offset  [K]                   f32   as in layer_norm
//   codes           [M, ceil(K/32)·BITS]  u32   as in quantize_tokens
//   grid            [M, 3]                u32   as in quantize_tokens
//
// A workgroup takes one token and reads it four times: mean, variance, range, codes. Other affine
// steps before the transform belong into factor and offset.
// Workgroup memory: 8·WORKGROUP_SIZE bytes, with row_hadamard 136·WORKGROUP_SIZE.
// Constants: BITS, SCHEME, STATIC_RANGE, HADAMARD, Elem, WORKGROUP_SIZE, GRID_WIDTH; quads, rows and
// row by import.
// Dispatch:  M workgroups, folded into x then y.
// Twin:      quant::quantize_tokens of quant::hadamard of kernels::layer_norm::reference
//
// Floor: 4·K + K·BITS/8 bytes per token; only the first reading comes from memory. 256 tokens of
// K = 1536 on lavapipe, processor time: 4 bits 4.8 ms, 5.2 ms with 3 (one value at a time and a
// reduction by a tree: 7.0 ms).

#import uniform
#import reduce

struct Params {
    m: u32,
    k: u32,
    // Dynamic range: factors of the extremes. Static range: the extremes themselves.
    upper: f32,
    lower: f32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<Elem>;
@group(0) @binding(1) var<storage, read_write> factor: array<Elem>;
@group(0) @binding(2) var<storage, read_write> offset: array<Elem>;
@group(0) @binding(3) var<storage, read_write> codes: array<u32>;
@group(0) @binding(4) var<storage, read_write> grid: array<u32>;
@group(0) @binding(5) var<uniform> params: Params;

#import quads
#import rows
#import layer_norm
#import row
#import quantize_row

var<private> moments: Moments;

fn source_quad(token: u32, quad: u32) -> vec4<f32> {
    return normalized_quad(token, quad, moments);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let token = workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    if token >= params.m {
        return;
    }
    moments = row_moments(token, lane);
    quantize_row(token, lane);
}
