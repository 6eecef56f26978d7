// conv3d_backward_input — the gradient of conv3d's input: dx[c, p] = Σ w[o, c, tap] · dy[o, p'] over
// all output channels o and all taps of places p' that read p.
//
//   dy  [O, T', H', W']           f32   gradient of conv3d's result
//   w   [B, TAPS, C, OUT_BLOCK]   f32   as conv3d reads it
//   dx  [C, history_frames + T, H, W]   f32   gradient of the history, then of x
//
// A workgroup computes IN_BLOCK input channels × (4 · WORKGROUP_SIZE) pixels of one input frame, an
// invocation IN_BLOCK channels × 4 pixels that lie WORKGROUP_SIZE apart. It gathers, so that sums
// have one order: a pixel that is read as 2×2 pixels collects for each of them.
//
// Constants: KERNEL_T, KERNEL_H, KERNEL_W, OUT_BLOCK (multiple of 4), IN_BLOCK, WORKGROUP_SIZE,
//            GRID_WIDTH.
// Dispatch:  ceil(C / IN_BLOCK) · ceil(H·W / (4·WORKGROUP_SIZE)) · (history_frames + T) workgroups
//            from params.first_workgroup to params.end_workgroup, folded into x then y; input channels vary fastest.
// Twin:      kernels::conv3d_backward_input::reference

@group(0) @binding(0) var<storage, read_write> dy: array<f32>;
@group(0) @binding(1) var<storage, read_write> w: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> dx: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

#import conv3d_frames

const TAPS: u32 = KERNEL_T * KERNEL_H * KERNEL_W;
const VECTORS: u32 = OUT_BLOCK / 4u;
const TILE: u32 = 4u * WORKGROUP_SIZE;
// The row of a pixel beyond the frame: no tap brings it back inside.
const OUTSIDE: i32 = -0x10000000;

// The outputs, one per pixel, that read the four pixels through one tap.
struct Readers {
    at: vec4<u32>, // in output channel 0
    exist: vec4<bool>,
}

// `row` and `column` count (upsampled) pixels and padding from the corner of the tap.
fn readers_at(row: vec4<i32>, column: vec4<i32>, frame_start: u32) -> Readers {
    let stride_h = vec4(i32(params.stride_h));
    let stride_w = vec4(i32(params.stride_w));
    let out_row = row / stride_h;
    let out_column = column / stride_w;
    let exist = (row >= vec4(0)) & (out_row * stride_h == row)
        & (out_row < vec4(i32(params.out_height)))
        & (column >= vec4(0)) & (out_column * stride_w == column)
        & (out_column < vec4(i32(params.out_width)));
    // Where none exists, any place of the frame will do: what is read there is dropped.
    let place = vec4<u32>(out_row) * params.out_width + vec4<u32>(out_column);
    return Readers(select(vec4(0u), place, exist) + frame_start, exist);
}

fn load(channel: u32, readers: Readers) -> vec4<f32> {
    if channel >= params.out_channels {
        return vec4(0.0);
    }
    let at = readers.at + channel * params.out_frames * params.out_height * params.out_width;
    return select(vec4(0.0), vec4(dy[at.x], dy[at.y], dy[at.z], dy[at.w]), readers.exist);
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let workgroup = params.first_workgroup + workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    let blocks = (params.in_channels + IN_BLOCK - 1u) / IN_BLOCK;
    let plane = params.in_height * params.in_width;
    let tiles = (plane + TILE - 1u) / TILE;
    let first = workgroup % blocks * IN_BLOCK;
    let frame = workgroup / blocks / tiles;
    let frames = params.history_frames + params.in_frames;
    if frame >= frames || workgroup >= params.end_workgroup {
        return;
    }
    let index = vec4(workgroup / blocks % tiles * TILE + lane) + vec4(0u, 1u, 2u, 3u) * WORKGROUP_SIZE;
    let shift = vec4(params.upsample_shift);
    let padded_row = vec4<i32>((index / params.in_width) << shift) + i32(params.pad_h);
    let row = select(vec4(OUTSIDE), padded_row, index < vec4(plane));
    let column = vec4<i32>((index % params.in_width) << shift) + i32(params.pad_w);
    let copies = 1u << params.upsample_shift; // of a pixel, along each axis

    var sums: array<vec4<f32>, IN_BLOCK>; // per input channel: the four pixels
    for (var c = 0u; c < IN_BLOCK; c++) {
        sums[c] = vec4(0.0);
    }
    for (var tap_t = 0u; tap_t < KERNEL_T; tap_t++) {
        let t = i32(frame + params.pad_t) - i32(params.history_frames + tap_t);
        let out_frame = u32(max(t, 0)) / params.stride_t;
        if t < 0 || out_frame * params.stride_t != u32(t) || out_frame >= params.out_frames {
            continue;
        }
        let frame_start = out_frame * params.out_height * params.out_width;
        for (var i = 0u; i < KERNEL_H * KERNEL_W * copies * copies; i++) {
            let copy = i % (copies * copies);
            let tap = tap_t * (KERNEL_H * KERNEL_W) + i / (copies * copies);
            let readers = readers_at(
                row + i32(copy / copies) - i32(tap / KERNEL_W % KERNEL_H),
                column + i32(copy % copies) - i32(tap % KERNEL_W),
                frame_start,
            );
            for (var o = 0u; o < params.out_channels; o += 4u) {
                let dy_0 = load(o, readers);
                let dy_1 = load(o + 1u, readers);
                let dy_2 = load(o + 2u, readers);
                let dy_3 = load(o + 3u, readers);
                let filter_at = (o / OUT_BLOCK * TAPS + tap) * params.in_channels;
                for (var c = 0u; c < IN_BLOCK; c++) {
                    let channel = min(first + c, params.in_channels - 1u);
                    let weight = w[(filter_at + channel) * VECTORS + o % OUT_BLOCK / 4u];
                    sums[c] += weight.x * dy_0 + weight.y * dy_1 + weight.z * dy_2 + weight.w * dy_3;
                }
            }
        }
    }
    for (var c = 0u; c < IN_BLOCK; c++) {
        let start = ((first + c) * frames + frame) * plane;
        for (var p = 0u; p < 4u; p++) {
            if first + c < params.in_channels && index[p] < plane {
                dx[start + index[p]] = sums[c][p];
            }
        }
    }
}
