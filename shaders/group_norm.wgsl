// group_norm — y = act((x − μ) / √(variance + eps) · factor + offset), μ and variance of a group of
// channels, factor and offset of a coarser grid of frames and pixels.
//
//   x               [C, F, H, W]  f32  frames `first_frame` … of a chunk of `chunk_frames`
//   moments         [G, 3]        f32  count, μ and Σ (x − μ)² of each group, of the whole chunk
//   factor, offset  [C, f, h, w]  f32  read by nearest neighbor, pixel (row >> shift, column >> shift)
//   y               [C, F, H, W]  f32  result
//
// Frame t of the chunk reads frame ⌊t·f / T⌋, T = chunk_frames; with `lead` = 1 the first frame
// reads the first one and the others share out the others. act is silu where SILU, else the
// identity. A workgroup takes VALUES·WORKGROUP_SIZE pixels of a frame of a channel.
//
// Constants: SILU, WORKGROUP_SIZE, GRID_WIDTH.
// Dispatch:  C·F·ceil(H·W / (VALUES·WORKGROUP_SIZE)) workgroups, folded into x then y.
// Twin:      kernels::group_norm::reference

struct Params {
    channels: u32,
    channels_per_group: u32,
    frames: u32,
    height: u32,
    width: u32,
    factor_frames: u32,
    factor_height: u32,
    factor_width: u32,
    shift: u32,
    first_frame: u32,
    chunk_frames: u32,
    lead: u32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> moments: array<f32>;
@group(0) @binding(2) var<storage, read_write> factor: array<f32>;
@group(0) @binding(3) var<storage, read_write> offset: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

const VALUES: u32 = 8u;
const SPAN: u32 = VALUES * WORKGROUP_SIZE;

fn factor_frame(frame: u32) -> u32 {
    let place = params.first_frame + frame;
    if place < params.lead {
        return place;
    }
    let rest = params.factor_frames - params.lead;
    return params.lead + (place - params.lead) * rest / (params.chunk_frames - params.lead);
}

// The exponent is capped because `exp` must not reach infinity; there silu is zero anyway.
fn act(value: f32) -> f32 {
    if SILU {
        return value / (1.0 + exp(min(-value, 80.0)));
    }
    return value;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let workgroup = workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    let pixels = params.height * params.width;
    let blocks = (pixels + SPAN - 1u) / SPAN;
    let plane = workgroup / blocks;
    if plane >= params.channels * params.frames {
        return;
    }
    let channel = plane / params.frames;
    let group = 3u * (channel / params.channels_per_group);
    let mean = moments[group + 1u];
    let inverse_deviation = 1.0 / sqrt(moments[group + 2u] / moments[group] + params.eps);
    let factor_plane = channel * params.factor_frames + factor_frame(plane % params.frames);
    let end = min((workgroup % blocks + 1u) * SPAN, pixels);
    for (var pixel = workgroup % blocks * SPAN + lane; pixel < end; pixel += WORKGROUP_SIZE) {
        let row = pixel / params.width;
        let column = pixel - row * params.width;
        let factor_row = factor_plane * params.factor_height + (row >> params.shift);
        let at = factor_row * params.factor_width + (column >> params.shift);
        let i = plane * pixels + pixel;
        y[i] = act((x[i] - mean) * inverse_deviation * factor[at] + offset[at]);
    }
}
