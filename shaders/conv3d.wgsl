// conv3d — y[o] = bias[o] + Σ_{c, i, j, k} w[o, c, i, j, k] · x[c, t + i, r + j, q + k], zero outside.
//
//   x        [C, T, H, W]         f32   input; read as if nearest-upsampled 2× where upsample_shift is 1
//   history  [C, history_frames, H, W]  frames just before x; earlier ones are zero
//   w        [B, TAPS, C, OUT_BLOCK]    blocks of output channels, the last zero-padded
//   bias     [O]                  f32
//   y        [O, T', H', W']      f32   result; added to what it holds where params.accumulate is 1
//
// An invocation computes OUT_BLOCK channels × 8 neighbouring pixels of a row and keeps all sums in
// registers: the form for renderers on a CPU, where loads cost ten times a product, whichever lane
// they serve, and workgroup memory is no faster. A row of the window reads its inputs once, and its
// taps are added up before they reach a sum. conv3d_tile is the form for GPUs.
//
// Constants: KERNEL_H, KERNEL_W, OUT_BLOCK (4 or a multiple of 8), ADJACENT (whether
//            stride_w is 1; false where KERNEL_W is), WORKGROUP_SIZE, GRID_WIDTH; conv3d_weights is one of two imports.
// Dispatch:  ceil(O / OUT_BLOCK) · ceil(H'·ceil(W' / 8) / WORKGROUP_SIZE) · T' workgroups from
//            params.first_workgroup to params.end_workgroup, folded into x then y; output channels vary fastest,
//            because they share their input.
// Twin:      kernels::conv3d::reference

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> history: array<f32>;
@group(0) @binding(2) var<storage, read_write> w: array<f32>;
@group(0) @binding(3) var<storage, read_write> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

#import conv3d_frames
#import conv3d_weights

const PLANE_TAPS: u32 = KERNEL_H * KERNEL_W;
const PIXELS: u32 = 8u;
// Taps of a row of the window that are read together, and the columns that they read for all pixels.
const NEAR_TAPS: u32 = select(1u, KERNEL_W, ADJACENT);
const COLUMNS: u32 = PIXELS + NEAR_TAPS - 1u;
// Weights of a tap that one invocation loads.
const HELD: u32 = OUT_BLOCK / SHARED_BY;
const HALF: u32 = OUT_BLOCK / 2u;
// Channels walked through all taps before the next: what is read again stays in a cache.
const CHANNEL_RUN: u32 = 32u;

// Where the columns of a row of the window lie in channel 0 of their frame, and which of them do.
struct Columns {
    at: array<u32, COLUMNS>,
    inside: array<bool, COLUMNS>,
}

fn columns_at(row: i32, first: i32, step: u32) -> Columns {
    let limit_h = i32(params.in_height << params.upsample_shift);
    let limit_w = i32(params.in_width << params.upsample_shift);
    var columns: Columns;
    for (var i = 0u; i < COLUMNS; i++) {
        let column = first + i32(i * step);
        let inside = row >= 0 && row < limit_h && column >= 0 && column < limit_w;
        let place = u32(row >> params.upsample_shift) * params.in_width
            + u32(column >> params.upsample_shift);
        // Outside, any place of the frame will do: what is read there is dropped.
        columns.at[i] = select(0u, place, inside);
        columns.inside[i] = inside;
    }
    return columns;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let workgroup = params.first_workgroup + workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    let blocks = (params.out_channels + OUT_BLOCK - 1u) / OUT_BLOCK;
    let strips = (params.out_width + PIXELS - 1u) / PIXELS;
    let tiles = (params.out_height * strips + WORKGROUP_SIZE - 1u) / WORKGROUP_SIZE;
    let block = workgroup % blocks;
    let frame = workgroup / blocks / tiles;
    if workgroup >= min(params.end_workgroup, blocks * tiles * params.out_frames) {
        return;
    }
    let strip = workgroup / blocks % tiles * WORKGROUP_SIZE + lane;
    let out_row = strip / strips; // may lie below the frame: then nothing is stored
    let out_column = strip % strips * PIXELS;
    let first_row = i32(out_row * params.stride_h) - i32(params.pad_h);
    let first_column = i32(out_column * params.stride_w) - i32(params.pad_w);
    let shared_lane = lane_of_subgroup() % SHARED_BY;
    let taps = params.kernel_t * PLANE_TAPS;

    var sums: array<f32, OUT_BLOCK * PIXELS>; // by output channel, then pixel
    for (var i = 0u; i < OUT_BLOCK * PIXELS; i++) {
        sums[i] = 0.0;
    }
    for (var first = 0u; first < params.in_channels; first += CHANNEL_RUN) {
        let end = min(first + CHANNEL_RUN, params.in_channels);
        for (var tap = 0u; tap < taps; tap += NEAR_TAPS) {
            let source = frame_at(frame, tap / PLANE_TAPS);
            if !source.exists {
                continue;
            }
            let columns = columns_at(
                first_row + i32(tap / KERNEL_W % KERNEL_H),
                first_column + i32(tap % KERNEL_W),
                select(params.stride_w, 1u, ADJACENT),
            );
            var at = source.start + first * source.channel_stride;
            var weight_at = ((block * taps + tap) * params.in_channels + first) * OUT_BLOCK + shared_lane;
            for (var channel = first; channel < end; channel++) {
                var values: array<f32, COLUMNS>;
                if source.in_history {
                    for (var i = 0u; i < COLUMNS; i++) {
                        values[i] = select(0.0, history[at + columns.at[i]], columns.inside[i]);
                    }
                } else {
                    for (var i = 0u; i < COLUMNS; i++) {
                        values[i] = select(0.0, x[at + columns.at[i]], columns.inside[i]);
                    }
                }
                var held: array<f32, NEAR_TAPS * HELD>;
                for (var i = 0u; i < NEAR_TAPS * HELD; i++) {
                    held[i] = w[weight_at + i / HELD * params.in_channels * OUT_BLOCK + i % HELD * SHARED_BY];
                }
                // Compilers unroll what is not too long: half of the channels at a time.
                for (var o = 0u; o < HALF; o++) {
                    for (var p = 0u; p < PIXELS; p++) {
                        var sum = weight_of(held[o / SHARED_BY], o % SHARED_BY) * values[p];
                        for (var k = 1u; k < NEAR_TAPS; k++) {
                            sum += weight_of(held[k * HELD + o / SHARED_BY], o % SHARED_BY) * values[p + k];
                        }
                        sums[o * PIXELS + p] += sum;
                    }
                }
                for (var o = HALF; o < OUT_BLOCK; o++) {
                    for (var p = 0u; p < PIXELS; p++) {
                        var sum = weight_of(held[o / SHARED_BY], o % SHARED_BY) * values[p];
                        for (var k = 1u; k < NEAR_TAPS; k++) {
                            sum += weight_of(held[k * HELD + o / SHARED_BY], o % SHARED_BY) * values[p + k];
                        }
                        sums[o * PIXELS + p] += sum;
                    }
                }
                at += source.channel_stride;
                weight_at += OUT_BLOCK;
            }
        }
    }
    // Zero, which no compiler knows: unrolled, this takes up to seven times as long to compile.
    let opaque_zero = params.in_frames >> 31u;
    for (var o = 0u; o < OUT_BLOCK; o++) {
        let channel = block * OUT_BLOCK + o;
        if channel >= params.out_channels || out_row >= params.out_height {
            continue;
        }
        let start = ((channel * params.out_frames + frame) * params.out_height + out_row) * params.out_width;
        for (var p = 0u; p < PIXELS + opaque_zero; p++) {
            if out_column + p < params.out_width {
                let i = start + out_column + p;
                let before = select(0.0, y[i], params.accumulate == 1u);
                y[i] = before + bias[channel] + sums[o * PIXELS + p];
            }
        }
    }
}
