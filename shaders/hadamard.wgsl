// hadamard — y = H · ((x − offset) · factor): tokens, or rows of a weight, transformed in blocks.
//
//   x               [M, K]  f32   K a multiple of HADAMARD
//   offset, factor  [K]     f32   with affine_rows only
//   y               [M, K]  f32
//
// H is block-diagonal: orthonormal Walsh–Hadamard matrices of HADAMARD in Sylvester's order. A
// workgroup takes 16·WORKGROUP_SIZE neighbouring values, whichever rows they belong to.
// Workgroup memory: 128·WORKGROUP_SIZE bytes.
// Constants: HADAMARD, Row, WORKGROUP_SIZE, GRID_WIDTH; affine and rows by import.
// Dispatch:  ceil(M·K / (16·WORKGROUP_SIZE)) workgroups, folded into x then y.
// Twin:      quant::affine_hadamard
//
// Floor: 8 bytes per value. Tokens that go on to be quantized need no pass of their own:
// quantize_tokens and layer_norm_quantize import the same fragment.

#import hadamard

struct Params {
    quads: u32,
    k: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;
const AFFINE: u32 = 1u;
#import affine
@group(0) @binding(AFFINE_END) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(AFFINE_END + 1u) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let first = (workgroup_id.y * GRID_WIDTH + workgroup_id.x) * TILE_QUADS;
    for (var i = lane; i < TILE_QUADS; i += WORKGROUP_SIZE) {
        var values = vec4<f32>();
        if first + i < params.quads {
            values = affine(x[first + i], (first + i) % (params.k / 4u));
        }
        tile[i] = hadamard_four(values);
    }
    transform_tile(lane);
    for (var i = lane; i < TILE_QUADS; i += WORKGROUP_SIZE) {
        if first + i < params.quads {
            y[first + i] = transformed(i);
        }
    }
}
