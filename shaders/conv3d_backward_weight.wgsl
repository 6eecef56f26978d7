// conv3d_backward_weight — the gradients of conv3d's weight and bias: dw[o, c, tap] = Σ dy[o, p] ·
// x[c, what the tap reads at p] and d_bias[o] = Σ dy[o, p] over all places p of the result.
//
//   x        [C, T, H, W]               f32   as conv3d reads them
//   history  [C, history_frames, H, W]  f32
//   dy       [O, T', H', W']            f32   gradient of conv3d's result
//   dw       [B, TAPS, C, OUT_BLOCK]    f32   zero where the last block is padded
//   d_bias   [O]                        f32
//
// A workgroup computes 4 output channels × IN_TILE input channels of one tap. Its invocations walk
// over every WORKGROUP_SIZE-th pixel of all frames; then one invocation per sum adds up the parts, in
// their order. (A tree with its barriers kept lavapipe's compiler busy for most of a minute.)
// Workgroup memory: 16·(IN_TILE + 1)·WORKGROUP_SIZE bytes.
// Constants: KERNEL_T, KERNEL_H, KERNEL_W, OUT_BLOCK (multiple of 4), IN_TILE (below
//            WORKGROUP_SIZE), WORKGROUP_SIZE, GRID_WIDTH.
// Dispatch:  ceil(O / OUT_BLOCK) · OUT_BLOCK / 4 · ceil(C / IN_TILE) · TAPS workgroups, folded into
//            x then y; output channels vary fastest.
// Twin:      kernels::conv3d_backward_weight::reference

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> history: array<f32>;
@group(0) @binding(2) var<storage, read_write> dy: array<f32>;
@group(0) @binding(3) var<storage, read_write> dw: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> d_bias: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

#import conv3d_frames

const TAPS: u32 = KERNEL_T * KERNEL_H * KERNEL_W;
const VECTORS: u32 = OUT_BLOCK / 4u;

const SUMS: u32 = IN_TILE + 1u; // the last is the bias

// Per invocation: its part of each sum.
var<workgroup> parts: array<vec4<f32>, SUMS * WORKGROUP_SIZE>;

// Output channels `channel` to `channel + 3` of dy at `place`.
fn four_gradients(channel: u32, place: u32) -> vec4<f32> {
    let stride = params.out_frames * params.out_height * params.out_width;
    let last = params.out_channels - 1u;
    let channels = vec4(channel) + vec4(0u, 1u, 2u, 3u);
    let at = min(channels, vec4(last)) * stride + place;
    let value = vec4(dy[at.x], dy[at.y], dy[at.z], dy[at.w]);
    return select(vec4(0.0), value, channels <= vec4(last));
}

// The pixel of a frame that tap `tap` of output pixel `pixel` reads, or −1 beyond the borders.
fn source_pixel(pixel: u32, tap: u32) -> i32 {
    let row = i32(pixel / params.out_width * params.stride_h + tap / KERNEL_W % KERNEL_H)
        - i32(params.pad_h);
    let column = i32(pixel % params.out_width * params.stride_w + tap % KERNEL_W)
        - i32(params.pad_w);
    let limit_h = i32(params.in_height << params.upsample_shift);
    let limit_w = i32(params.in_width << params.upsample_shift);
    if row < 0 || row >= limit_h || column < 0 || column >= limit_w {
        return -1;
    }
    let shift = params.upsample_shift;
    return (row >> shift) * i32(params.in_width) + (column >> shift);
}

fn load(at: u32, in_history: bool) -> f32 {
    if in_history {
        return history[at];
    }
    return x[at];
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let workgroup = params.first_workgroup + workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    let vectors = (params.out_channels + OUT_BLOCK - 1u) / OUT_BLOCK * VECTORS;
    let tiles = (params.in_channels + IN_TILE - 1u) / IN_TILE;
    let vector = workgroup % vectors;
    let first = workgroup / vectors % tiles * IN_TILE;
    let tap = workgroup / vectors / tiles;
    if tap >= TAPS || workgroup >= params.end_workgroup {
        return;
    }
    var sums: array<vec4<f32>, IN_TILE>; // per input channel: the four output channels
    for (var c = 0u; c < IN_TILE; c++) {
        sums[c] = vec4(0.0);
    }
    var bias_sum = vec4(0.0);
    let out_plane = params.out_height * params.out_width;
    for (var frame = 0u; frame < params.out_frames; frame++) {
        let source = frame_at(frame, tap / (KERNEL_H * KERNEL_W));
        for (var pixel = lane; pixel < out_plane; pixel += WORKGROUP_SIZE) {
            let gradients = four_gradients(vector * 4u, frame * out_plane + pixel);
            bias_sum += gradients;
            let offset = source_pixel(pixel, tap);
            if !source.exists || offset < 0 {
                continue;
            }
            for (var c = 0u; c < IN_TILE; c++) {
                let channel = min(first + c, params.in_channels - 1u);
                let at = source.start + channel * source.channel_stride + u32(offset);
                sums[c] += gradients * load(at, source.in_history);
            }
        }
    }
    for (var c = 0u; c < IN_TILE; c++) {
        parts[lane * SUMS + c] = sums[c];
    }
    parts[lane * SUMS + IN_TILE] = bias_sum;
    workgroupBarrier();
    if lane >= SUMS {
        return;
    }
    var sum = vec4(0.0);
    for (var i = 0u; i < WORKGROUP_SIZE; i++) {
        sum += parts[i * SUMS + lane];
    }
    let out_channel = vector * 4u;
    let channels = vec4(out_channel) + vec4(0u, 1u, 2u, 3u);
    if lane < IN_TILE && first + lane < params.in_channels {
        let row = (vector / VECTORS * TAPS + tap) * params.in_channels + first + lane;
        dw[row * VECTORS + vector % VECTORS] =
            select(vec4(0.0), sum, channels < vec4(params.out_channels));
    }
    if lane == IN_TILE && tap == 0u && first == 0u {
        for (var o = 0u; o < 4u; o++) {
            if channels[o] < params.out_channels {
                d_bias[channels[o]] = sum[o];
            }
        }
    }
}
