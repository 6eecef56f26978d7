// group_moments — count n, mean μ and Σ (x − μ)² of each part of each group of values.
//
//   x        [G, L]     f32  values; with COMBINE moments [G, L, 3] that are to be joined
//   moments  [G, S, 3]  f32  (n, μ, Σ (x − μ)²) of a part
//
// A workgroup takes a part, `part_len` values of a group or what is left of it, and goes through it
// twice, for the mean and for the squared differences from that: a mean far from zero cancels
// nothing. Values are moments themselves, (1, x, 0), and moments join as
//   N = Σ n,  μ = Σ n·μᵢ / N,  Σ (x − μ)² = Σ (Mᵢ + nᵢ (μᵢ − μ)²).
// Workgroup memory: 8·WORKGROUP_SIZE bytes.
//
// Constants: COMBINE, WORKGROUP_SIZE, GRID_WIDTH.
// Dispatch:  G·S workgroups, folded into x then y.
// Twin:      kernels::group_moments::reference

#import reduce

struct Params {
    groups: u32,
    len: u32,
    part_len: u32,
    parts: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> moments: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

fn moments_at(i: u32) -> vec3<f32> {
    if COMBINE {
        return vec3<f32>(x[3u * i], x[3u * i + 1u], x[3u * i + 2u]);
    }
    return vec3<f32>(1.0, x[i], 0.0);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let workgroup = workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    if workgroup >= params.groups * params.parts {
        return;
    }
    let group = workgroup / params.parts;
    let first = workgroup % params.parts * params.part_len;
    let end = min(first + params.part_len, params.len);
    var sums = vec2<f32>();
    for (var i = first + lane; i < end; i += WORKGROUP_SIZE) {
        let part = moments_at(group * params.len + i);
        sums += part.x * vec2<f32>(1.0, part.y);
    }
    sums = workgroup_sum(sums, lane);
    let mean = sums.y / sums.x;
    var squares = vec2<f32>();
    for (var i = first + lane; i < end; i += WORKGROUP_SIZE) {
        let part = moments_at(group * params.len + i);
        let difference = part.y - mean;
        squares.x += part.z + part.x * difference * difference;
    }
    squares = workgroup_sum(squares, lane);
    if lane == 0u {
        moments[3u * workgroup] = sums.x;
        moments[3u * workgroup + 1u] = mean;
        moments[3u * workgroup + 2u] = squares.x;
    }
}
