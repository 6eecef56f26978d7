// conv3d_tile — conv3d as a matrix product of windows, gathered on the fly, and weights.
//
//   x        [C, T, H, W]         f32   input; read as if nearest-upsampled 2× where upsample_shift is 1
//   history  [C, history_frames, H, W]  frames just before x; earlier ones are zero
//   w        [B, TAPS, C, OUT_BLOCK]    Elem  blocks of output channels, the last zero-padded
//   bias     [O]                  f32
//   y        [O, T', H', W']      f32   result; added to what it holds where params.accumulate is 1
//
// A workgroup computes 32 · OUT_VECTORS channels × 128 pixels of one output frame, an invocation
// 4 · OUT_VECTORS channels × 4 neighbouring pixels. Tiles of DEPTH input channels of one tap pass
// through workgroup memory; where a pixel finds its input is worked out once per tap. Where Elem is
// f16, so are the tiles: x and history are rounded on entering them, and what f16 cannot hold becomes
// infinite; products and sums are f32.
//
// Constants: Elem (f32 or f16), KERNEL_T, KERNEL_H, KERNEL_W, OUT_BLOCK (multiple of 4), OUT_VECTORS (1 to 3),
//            WORKGROUP_SIZE (256), GRID_WIDTH.
// Dispatch:  ceil(O / (32·OUT_VECTORS)) · ceil(H'·W' / 128) · T' workgroups from
//            params.first_workgroup to params.end_workgroup, folded into x then y; output channels vary fastest,
//            because they share their input.
// Twin:      kernels::conv3d::reference, of rounded x, history and w where Elem is f16

#import conv3d_tiles

const DEPTH: u32 = 16u;
const QUADS: u32 = 32u;         // of four pixels, in a tile
const VECTORS: u32 = 8u * OUT_VECTORS; // of four output channels, in a tile

var<workgroup> sh_x: array<vec4<Elem>, DEPTH * QUADS>;   // by input channel, then pixels
var<workgroup> sh_w: array<vec4<Elem>, DEPTH * VECTORS>; // by input channel, then output channels

// Four neighbouring pixels of a tile: their place, and the corners of their windows in upsampled
// rows and columns.
struct Pixels {
    index: vec4<u32>,
    row: vec4<i32>,
    column: vec4<i32>,
}

fn pixels_at(tile: u32, quad: u32) -> Pixels {
    let index = vec4((tile * QUADS + quad) * 4u) + vec4(0u, 1u, 2u, 3u);
    let row = vec4<i32>(index / params.out_width * params.stride_h) - i32(params.pad_h);
    let column = vec4<i32>(index % params.out_width * params.stride_w) - i32(params.pad_w);
    let exists = index < vec4(params.out_height * params.out_width);
    return Pixels(index, select(vec4(OUTSIDE), row, exists), column);
}

// What one tap reads for four pixels: the places in channel 0 of a frame, and which are inside.
struct Source {
    at: vec4<u32>,
    inside: vec4<bool>,
}

fn source_at(pixels: Pixels, tap: u32) -> Source {
    let row = pixels.row + i32(tap / KERNEL_W % KERNEL_H);
    let column = pixels.column + i32(tap % KERNEL_W);
    let limit_h = i32(params.in_height << params.upsample_shift);
    let limit_w = i32(params.in_width << params.upsample_shift);
    let inside = (row >= vec4(0)) & (row < vec4(limit_h))
        & (column >= vec4(0)) & (column < vec4(limit_w));
    let shift = vec4(params.upsample_shift);
    let place = vec4<u32>(row >> shift) * params.in_width + vec4<u32>(column >> shift);
    // Outside, any place of the frame will do: what is read there is dropped.
    return Source(select(vec4(0u), place, inside), inside);
}

fn load(frame: Frame, channel: u32, source: Source) -> vec4<f32> {
    if channel >= params.in_channels {
        return vec4(0.0);
    }
    let at = source.at + frame.start + channel * frame.channel_stride;
    if frame.in_history {
        let value = vec4(history[at.x], history[at.y], history[at.z], history[at.w]);
        return select(vec4(0.0), value, source.inside);
    }
    return select(vec4(0.0), vec4(x[at.x], x[at.y], x[at.z], x[at.w]), source.inside);
}

// Four weights of input channel `channel`: those of the output channels from 4 · `vector` on.
fn load_weight(vector: u32, tap: u32, channel: u32) -> vec4<Elem> {
    let block = vector * 4u / OUT_BLOCK;
    if channel >= params.in_channels || block * OUT_BLOCK >= params.out_channels {
        return vec4<Elem>();
    }
    return w[((block * TAPS + tap) * params.in_channels + channel) * (OUT_BLOCK / 4u)
        + vector % (OUT_BLOCK / 4u)];
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let workgroup = params.first_workgroup + workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    let blocks = (params.out_channels + 4u * VECTORS - 1u) / (4u * VECTORS);
    let out_plane = params.out_height * params.out_width;
    let tiles = (out_plane + 4u * QUADS - 1u) / (4u * QUADS);
    let block = workgroup % blocks;
    let frame = workgroup / blocks / tiles;
    if workgroup >= min(params.end_workgroup, blocks * tiles * params.out_frames) {
        return;
    }
    let tile = workgroup / blocks % tiles;
    let loaded = pixels_at(tile, lane % QUADS);
    let vector = lane % 8u;
    let quad = lane / 8u;

    var sums: array<vec4<f32>, 4u * OUT_VECTORS>; // per output channel: the four pixels
    for (var o = 0u; o < 4u * OUT_VECTORS; o++) {
        sums[o] = vec4(0.0);
    }
    for (var first = 0u; first < params.in_channels; first += DEPTH) {
        for (var tap = 0u; tap < TAPS; tap++) {
            let source_frame = frame_at(frame, tap / (KERNEL_H * KERNEL_W));
            if !source_frame.exists {
                continue;
            }
            let source = source_at(loaded, tap);
            for (var i = lane; i < DEPTH * QUADS; i += WORKGROUP_SIZE) {
                sh_x[i] = vec4<Elem>(load(source_frame, first + i / QUADS, source));
            }
            for (var i = lane; i < DEPTH * VECTORS; i += WORKGROUP_SIZE) {
                sh_w[i] = load_weight(block * VECTORS + i % VECTORS, tap, first + i / VECTORS);
            }
            workgroupBarrier();
            for (var depth = 0u; depth < DEPTH; depth++) {
                let value = vec4<f32>(sh_x[depth * QUADS + quad]);
                for (var v = 0u; v < OUT_VECTORS; v++) {
                    let weight = vec4<f32>(sh_w[depth * VECTORS + v * 8u + vector]);
                    sums[4u * v] += weight.x * value;
                    sums[4u * v + 1u] += weight.y * value;
                    sums[4u * v + 2u] += weight.z * value;
                    sums[4u * v + 3u] += weight.w * value;
                }
            }
            workgroupBarrier();
        }
    }
    let index = pixels_at(tile, quad).index;
    for (var o = 0u; o < 4u * OUT_VECTORS; o++) {
        let channel = (block * VECTORS + o / 4u * 8u + vector) * 4u + o % 4u;
        let start = (channel * params.out_frames + frame) * out_plane;
        for (var p = 0u; p < 4u; p++) {
            if channel < params.out_channels && index[p] < out_plane {
                let i = start + index[p];
                let before = select(0.0, y[i], params.accumulate == 1u);
                y[i] = before + bias[channel] + sums[o][p];
            }
        }
    }
}
