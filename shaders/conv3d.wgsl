// conv3d — y[o] = bias[o] + Σ_{c, i, j, k} w[o, c, i, j, k] · x[c, t + i, r + j, q + k], zero outside.
//
//   x        [C, T, H, W]         f32   input; read as if nearest-upsampled 2× where upsample_shift is 1
//   history  [C, history_frames, H, W]  frames just before x; earlier ones are zero
//   w        [B, TAPS, C, OUT_BLOCK]    blocks of output channels, the last zero-padded
//   bias     [O]                  f32
//   y        [O, T', H', W']      f32   result
//
// A workgroup computes OUT_BLOCK channels × (4 · WORKGROUP_SIZE) pixels of one output frame, an
// invocation OUT_BLOCK channels × 4 pixels. The pixels of an invocation lie WORKGROUP_SIZE apart,
// so that neighbouring invocations load neighbouring values. Input channels are walked in runs of
// CHANNEL_RUN, each through all taps: what a workgroup reads again and again stays in its cache.
//
// Constants: KERNEL_T, KERNEL_H, KERNEL_W, OUT_BLOCK (multiple of 4), WORKGROUP_SIZE, GRID_WIDTH.
// Dispatch:  ceil(O / OUT_BLOCK) · ceil(H'·W' / (4·WORKGROUP_SIZE)) · T' workgroups, folded into
//            x then y; output channels vary fastest, because they share their input.
// Twin:      kernels::conv3d::reference

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> history: array<f32>;
@group(0) @binding(2) var<storage, read_write> w: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

#import conv3d_frames

const TAPS: u32 = KERNEL_T * KERNEL_H * KERNEL_W;
const VECTORS: u32 = OUT_BLOCK / 4u;
const TILE: u32 = 4u * WORKGROUP_SIZE;
const CHANNEL_RUN: u32 = 16u;
// The row of a pixel beyond the frame: no tap brings it back inside.
const OUTSIDE: i32 = -0x10000000;

// Where the four pixels of an invocation find their inputs.
struct Pixels {
    index: vec4<u32>,
    row: vec4<i32>,    // of the window's corner, upsampled rows
    column: vec4<i32>,
}

fn pixels_at(tile: u32, lane: u32) -> Pixels {
    let index = vec4(tile * TILE + lane) + vec4(0u, 1u, 2u, 3u) * WORKGROUP_SIZE;
    let row = vec4<i32>(index / params.out_width * params.stride_h) - i32(params.pad_h);
    let column = vec4<i32>(index % params.out_width * params.stride_w) - i32(params.pad_w);
    let exists = index < vec4(params.out_height * params.out_width);
    return Pixels(index, select(vec4(OUTSIDE), row, exists), column);
}

fn load(at: vec4<u32>, in_history: bool) -> vec4<f32> {
    if in_history {
        return vec4(history[at.x], history[at.y], history[at.z], history[at.w]);
    }
    return vec4(x[at.x], x[at.y], x[at.z], x[at.w]);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let workgroup = workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    let blocks = (params.out_channels + OUT_BLOCK - 1u) / OUT_BLOCK;
    let out_plane = params.out_height * params.out_width;
    let tiles = (out_plane + TILE - 1u) / TILE;
    let block = workgroup % blocks;
    let frame = workgroup / blocks / tiles;
    if frame >= params.out_frames {
        return;
    }
    let pixels = pixels_at(workgroup / blocks % tiles, lane);
    let limit_h = i32(params.in_height << params.upsample_shift);
    let limit_w = i32(params.in_width << params.upsample_shift);

    var sums: array<vec4<f32>, OUT_BLOCK>; // per output channel: the four pixels
    for (var o = 0u; o < OUT_BLOCK; o++) {
        sums[o] = vec4(bias[min(block * OUT_BLOCK + o, params.out_channels - 1u)]);
    }
    for (var first = 0u; first < params.in_channels; first += CHANNEL_RUN) {
        let end = min(first + CHANNEL_RUN, params.in_channels);
        for (var tap = 0u; tap < TAPS; tap++) {
            let source = frame_at(frame, tap / (KERNEL_H * KERNEL_W));
            if !source.exists {
                continue;
            }
            let row = pixels.row + i32(tap / KERNEL_W % KERNEL_H);
            let column = pixels.column + i32(tap % KERNEL_W);
            let inside = (row >= vec4(0)) & (row < vec4(limit_h))
                & (column >= vec4(0)) & (column < vec4(limit_w));
            let shift = vec4(params.upsample_shift);
            // Outside, any place of the frame will do: what is read there is dropped.
            let offset = vec4<u32>(row >> shift) * params.in_width + vec4<u32>(column >> shift);
            var at = select(vec4(0u), offset, inside) + source.start + first * source.channel_stride;
            var weight_at = ((block * TAPS + tap) * params.in_channels + first) * VECTORS;
            for (var channel = first; channel < end; channel++) {
                let value = select(vec4(0.0), load(at, source.in_history), inside);
                for (var v = 0u; v < VECTORS; v++) {
                    let weight = w[weight_at + v];
                    sums[4u * v] += weight.x * value;
                    sums[4u * v + 1u] += weight.y * value;
                    sums[4u * v + 2u] += weight.z * value;
                    sums[4u * v + 3u] += weight.w * value;
                }
                at += vec4(source.channel_stride);
                weight_at += VECTORS;
            }
        }
    }
    for (var o = 0u; o < OUT_BLOCK; o++) {
        let channel = block * OUT_BLOCK + o;
        let start = (channel * params.out_frames + frame) * out_plane;
        for (var p = 0u; p < 4u; p++) {
            if channel < params.out_channels && pixels.index[p] < out_plane {
                y[start + pixels.index[p]] = sums[o][p];
            }
        }
    }
}
