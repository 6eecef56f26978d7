// row_hadamard — a row of tokens after a blockwise Walsh–Hadamard transform, tile by tile in
// workgroup memory.
//
// Made for GPUs, which have workgroup memory to spare and wait for memory. On lavapipe, where that
// memory and its barriers are plain code, computing the transform twice costs more than storing its
// result once: 256 tokens of 1536, 4 bits, processor time of examples/layer_steps.rs: quantize 3.0 ms,
// with a transform in one dispatch 19.7, in a dispatch of its own before 7.5.
//
// Needs: fn source_quad(token, quad) -> vec4<f32>, params.k (a multiple of HADAMARD), and what
// shared/hadamard.wgsl needs. Gives: ROW_TILE, prepare_quads, quad_at.

#import hadamard

// Quads that are prepared at once.
const ROW_TILE: u32 = TILE_QUADS;

var<private> tile_first: u32;

// The quads of the token from `first` on, for quad_at. All invocations must call, in uniform
// control flow.
fn prepare_quads(token: u32, first: u32, lane: u32) {
    workgroupBarrier(); // what was prepared before has been read
    for (var i = lane; i < TILE_QUADS; i += WORKGROUP_SIZE) {
        var values = vec4<f32>();
        if 4u * (first + i) < params.k {
            values = source_quad(token, first + i);
        }
        tile[i] = hadamard_four(values);
    }
    transform_tile(lane);
    tile_first = first;
}

fn quad_at(token: u32, quad: u32) -> vec4<f32> {
    return transformed(quad - tile_first);
}
