// hadamard — a tile of neighbouring blocks of HADAMARD (64 or 128) values in workgroup memory, each
// multiplied by the orthonormal Walsh–Hadamard matrix in Sylvester's order.
//
// An invocation has four quads of values, WORKGROUP_SIZE apart. It stores what hadamard_four makes
// of them in `tile`, zeros where there are none; after transform_tile, transformed(i) is quad i.
// Two stages of the transform are one round: two or three rounds, each with a barrier.
// All invocations must call, in uniform control flow. The order of the sums is that of
// quant::hadamard. Workgroup memory: 128·WORKGROUP_SIZE bytes.
// Needs: const HADAMARD, WORKGROUP_SIZE (at least 16).

const TILE_QUADS: u32 = 4u * WORKGROUP_SIZE;
// 1 / √HADAMARD as f32.
const HADAMARD_FACTOR: f32 = select(0.125, 0.088388346, HADAMARD == 128u);

var<workgroup> tile: array<vec4<f32>, TILE_QUADS>;
var<workgroup> tile_between: array<vec4<f32>, TILE_QUADS>;

// The two stages within a quad.
fn hadamard_four(v: vec4<f32>) -> vec4<f32> {
    let a = v.x + v.y;
    let b = v.x - v.y;
    let c = v.z + v.w;
    let d = v.z - v.w;
    return vec4<f32>(a + c, b + d, a - c, b - d);
}

// Result `part` of two stages over four quads. A product with a sign is exact.
fn two_stages(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>, part: u32) -> vec4<f32> {
    let inner = select(1.0, -1.0, part % 2u == 1u);
    let outer = select(1.0, -1.0, part >= 2u);
    return (a + inner * b) + outer * (c + inner * d);
}

fn transform_tile(lane: u32) {
    workgroupBarrier();
    for (var i = lane; i < TILE_QUADS; i += WORKGROUP_SIZE) {
        let at = i / 4u * 4u;
        tile_between[i] = two_stages(tile[at], tile[at + 1u], tile[at + 2u], tile[at + 3u], i % 4u);
    }
    workgroupBarrier();
    for (var i = lane; i < TILE_QUADS; i += WORKGROUP_SIZE) {
        let at = i / 16u * 16u + i % 4u;
        let value = two_stages(
            tile_between[at], tile_between[at + 4u],
            tile_between[at + 8u], tile_between[at + 12u], i / 4u % 4u,
        );
        tile[i] = value * select(1.0, HADAMARD_FACTOR, HADAMARD == 64u);
    }
    workgroupBarrier();
    if HADAMARD == 128u {
        for (var i = lane; i < TILE_QUADS; i += WORKGROUP_SIZE) {
            let at = i / 32u * 32u + i % 16u;
            let sign = select(1.0, -1.0, i / 16u % 2u == 1u);
            tile_between[i] = (tile[at] + sign * tile[at + 16u]) * HADAMARD_FACTOR;
        }
        workgroupBarrier();
    }
}

fn transformed(i: u32) -> vec4<f32> {
    if HADAMARD == 128u {
        return tile_between[i];
    }
    return tile[i];
}
