// quantize_tokens — codes = round(x̂ / scale) + zero_point per token, x̂ = H · ((act(x) − offset) · factor);
// activation, transform, range, grid, codes and their sum in one dispatch.
//
//   x               [M, K]                Elem  f32 or f16
//   offset, factor  [K]                   f32   with affine_rows only
//   codes           [M, ceil(K/32)·BITS]  u32   packed codes (shared/codes.wgsl), zero behind K
//   grid            [M, 3]                u32   scale (f32), zero point (f32), code sum (i32), as bits
//
// A workgroup takes one token and reads it twice, for the range and for the codes, four values at a
// time; Elem is a vector of four where K allows it. H, with row_hadamard, is computed both times:
// a token's values may be more than workgroup memory holds.
// Workgroup memory: 8·WORKGROUP_SIZE bytes, with row_hadamard 136·WORKGROUP_SIZE.
// Constants: BITS, SCHEME, STATIC_RANGE, ACTIVATION, HADAMARD, Elem, Row, WORKGROUP_SIZE, GRID_WIDTH;
// quads, affine, rows and row by import.
// Dispatch:  M workgroups, folded into x then y.
// Twin:      quant::quantize_tokens of quant::affine_hadamard of kernels::activate::reference
//
// Floor: 4·K + K·BITS/8 bytes per token; the second reading comes from a cache. 256 tokens on
// lavapipe, processor time: K = 1536, 4 bits, 2.6 ms (one value at a time and a reduction by a tree:
// 3.6 ms); K = 8960 with GELU 10.2 ms (18.6 ms). 32 invocations instead of 64 take 20 % less there,
// 256 twice the time; 64 fill two or one subgroup of any GPU.

#import uniform
#import reduce
#import activation

struct Params {
    m: u32,
    k: u32,
    // Dynamic range: factors of the extremes. Static range: the extremes themselves.
    upper: f32,
    lower: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<Elem>;
const AFFINE: u32 = 1u;
#import affine
@group(0) @binding(AFFINE_END) var<storage, read_write> codes: array<u32>;
@group(0) @binding(AFFINE_END + 1u) var<storage, read_write> grid: array<u32>;
@group(0) @binding(AFFINE_END + 2u) var<uniform> params: Params;

#import quads
#import row
#import quantize_row

fn source_quad(token: u32, quad: u32) -> vec4<f32> {
    return affine(activate(x_quad(token, quad)), quad);
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
    quantize_row(token, lane);
}
