// conv3d_matrix — conv3d on matrix units: a product of weights and windows, gathered on the fly, of f16
// factors with f32 sums.
//
//   x        [C, T, H, W]         f32   input; read as if nearest-upsampled 2× where upsample_shift is 1
//   history  [C, history_frames, H, W]  frames just before x; earlier ones are zero
//   w        [B, TAPS, C, OUT_BLOCK]    f16   blocks of output channels, the last zero-padded
//   bias     [O]                  f32
//   y        [O, T', H', W']      f32   result; added to what it holds where params.accumulate is 1
//
// x and history are rounded to f16 on entering workgroup memory; what f16 cannot hold becomes infinite.
// A workgroup is eight subgroups, 2 × 4 of them, that compute 2·ROWS·SIZE channels × 8·SIZE pixels
// of one output frame; a subgroup has ROWS × 2 matrices. Tiles of DEPTH input channels of one tap pass
// through workgroup memory. An invocation loads one pixel, so that neighbours read neighbouring
// values, and works out once per tap where it finds it. Rows of tiles are 16 bytes longer than
// they need be, so that they begin in different banks.
// Workgroup memory at SIZE 16 and ROWS 4: 8 704 bytes each for pixels and weights, 8 192 for reading
// the matrices back.
//
// Constants: KERNEL_T, KERNEL_H, KERNEL_W, OUT_BLOCK (multiple of 4), ROWS (1 to 4), SIZE, Matrix*
//            (types), SUBGROUP (its size, at least SIZE), WORKGROUP_SIZE (8·SUBGROUP), GRID_WIDTH.
// Dispatch:  ceil(O / (2·ROWS·SIZE)) · ceil(H'·W' / (8·SIZE)) · T' workgroups from
//            params.first_workgroup to params.end_workgroup, folded into x then y; output channels vary fastest,
//            because they share their input.
// Twin:      kernels::conv3d::reference of rounded x, history and w

#import conv3d_tiles

const DEPTH: u32 = 32u;
const CHANNELS: u32 = 2u * ROWS * SIZE; // of a workgroup
const PIXELS: u32 = 8u * SIZE;
const X_STRIDE: u32 = PIXELS + 8u;
const W_STRIDE: u32 = CHANNELS + 8u;
const AREA: u32 = SIZE * SIZE;

var<workgroup> sh_x: array<Elem, DEPTH * X_STRIDE>; // by input channel, then pixel
var<workgroup> sh_w: array<Elem, DEPTH * W_STRIDE>; // by input channel, then output channel
var<workgroup> results: array<f32, 8u * AREA>;

// The corner of a pixel's window, in upsampled rows and columns.
fn corner_of(pixel: u32) -> vec2<i32> {
    let row = i32(pixel / params.out_width * params.stride_h) - i32(params.pad_h);
    let column = i32(pixel % params.out_width * params.stride_w) - i32(params.pad_w);
    return vec2(select(OUTSIDE, row, pixel < params.out_height * params.out_width), column);
}

// This invocation's pixel, in DEPTH input channels from `first` on, as tap `tap` reads it.
fn load_pixels(frame: Frame, corner: vec2<i32>, tap: u32, first: u32, lane: u32) {
    let row = corner.x + i32(tap / KERNEL_W % KERNEL_H);
    let column = corner.y + i32(tap % KERNEL_W);
    let shift = params.upsample_shift;
    let inside = row >= 0 && row < i32(params.in_height << shift)
        && column >= 0 && column < i32(params.in_width << shift);
    // Outside, any place of the frame will do: what is read there is dropped.
    let place = select(0u, u32(row >> shift) * params.in_width + u32(column >> shift), inside);
    for (var depth = lane / PIXELS; depth < DEPTH; depth += WORKGROUP_SIZE / PIXELS) {
        let exists = first + depth < params.in_channels;
        let at = frame.start + place + select(0u, first + depth, exists) * frame.channel_stride;
        var value: f32;
        if frame.in_history {
            value = history[at];
        } else {
            value = x[at];
        }
        sh_x[depth * X_STRIDE + lane % PIXELS] = Elem(select(0.0, value, inside && exists));
    }
}

// Weights of DEPTH input channels from `first` on, for the output channels from `out_channel` on.
fn load_weights(out_channel: u32, tap: u32, first: u32, lane: u32) {
    for (var i = lane; i < DEPTH * (CHANNELS / 4u); i += WORKGROUP_SIZE) {
        let depth = i / (CHANNELS / 4u);
        let o = i % (CHANNELS / 4u) * 4u;
        let block = (out_channel + o) / OUT_BLOCK;
        var value = vec4<Elem>();
        if first + depth < params.in_channels && block * OUT_BLOCK < params.out_channels {
            let row = (block * TAPS + tap) * params.in_channels + first + depth;
            value = w[row * (OUT_BLOCK / 4u) + (out_channel + o) % OUT_BLOCK / 4u];
        }
        let at = depth * W_STRIDE + o;
        sh_w[at] = value.x;
        sh_w[at + 1u] = value.y;
        sh_w[at + 2u] = value.z;
        sh_w[at + 3u] = value.w;
    }
}

// Hands the matrix that this subgroup left in `results` to y; all subgroups do it at once.
fn store(channel: u32, pixel: u32, frame: u32, lane: u32) {
    workgroupBarrier();
    let plane = params.out_height * params.out_width;
    for (var e = lane % SUBGROUP; e < AREA; e += SUBGROUP) {
        let o = channel + e / SIZE;
        let p = pixel + e % SIZE;
        if o < params.out_channels && p < plane {
            let i = (o * params.out_frames + frame) * plane + p;
            let before = select(0.0, y[i], params.accumulate == 1u);
            y[i] = before + bias[o] + results[lane / SUBGROUP * AREA + e];
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let workgroup = params.first_workgroup + workgroup_id.y * GRID_WIDTH + workgroup_id.x;
    let blocks = (params.out_channels + CHANNELS - 1u) / CHANNELS;
    let tiles = (params.out_height * params.out_width + PIXELS - 1u) / PIXELS;
    let frame = workgroup / blocks / tiles;
    if workgroup >= min(params.end_workgroup, blocks * tiles * params.out_frames) {
        return;
    }
    let first_channel = workgroup % blocks * CHANNELS;
    let first_pixel = workgroup / blocks % tiles * PIXELS;
    let corner = corner_of(first_pixel + lane % PIXELS);
    let subgroup = lane / SUBGROUP;
    let sub_o = subgroup / 4u * ROWS * SIZE; // of this subgroup, within the tile
    let sub_p = subgroup % 4u * 2u * SIZE;

    var y00 = MatrixC();
    var y01 = MatrixC();
    var y10 = MatrixC();
    var y11 = MatrixC();
    var y20 = MatrixC();
    var y21 = MatrixC();
    var y30 = MatrixC();
    var y31 = MatrixC();
    for (var first = 0u; first < params.in_channels; first += DEPTH) {
        for (var tap = 0u; tap < TAPS; tap++) {
            let source = frame_at(frame, tap / (KERNEL_H * KERNEL_W));
            if !source.exists {
                continue;
            }
            load_pixels(source, corner, tap, first, lane);
            load_weights(first_channel, tap, first, lane);
            workgroupBarrier();
            for (var k = 0u; k < DEPTH; k += SIZE) {
                let x0 = coopLoadT<MatrixB>(&sh_x[k * X_STRIDE + sub_p], X_STRIDE);
                let x1 = coopLoadT<MatrixB>(&sh_x[k * X_STRIDE + sub_p + SIZE], X_STRIDE);
                let w0 = coopLoad<MatrixA>(&sh_w[k * W_STRIDE + sub_o], W_STRIDE);
                y00 = coopMultiplyAdd(w0, x0, y00);
                y01 = coopMultiplyAdd(w0, x1, y01);
                if ROWS > 1u {
                    let w1 = coopLoad<MatrixA>(&sh_w[k * W_STRIDE + sub_o + SIZE], W_STRIDE);
                    y10 = coopMultiplyAdd(w1, x0, y10);
                    y11 = coopMultiplyAdd(w1, x1, y11);
                }
                if ROWS > 2u {
                    let w2 = coopLoad<MatrixA>(&sh_w[k * W_STRIDE + sub_o + 2u * SIZE], W_STRIDE);
                    y20 = coopMultiplyAdd(w2, x0, y20);
                    y21 = coopMultiplyAdd(w2, x1, y21);
                }
                if ROWS > 3u {
                    let w3 = coopLoad<MatrixA>(&sh_w[k * W_STRIDE + sub_o + 3u * SIZE], W_STRIDE);
                    y30 = coopMultiplyAdd(w3, x0, y30);
                    y31 = coopMultiplyAdd(w3, x1, y31);
                }
            }
            workgroupBarrier();
        }
    }
    let at = subgroup * AREA;
    let o = first_channel + sub_o;
    let p = first_pixel + sub_p;
    coopStoreT(y00, &results[at], SIZE);
    store(o, p, frame, lane);
    coopStoreT(y01, &results[at], SIZE);
    store(o, p + SIZE, frame, lane);
    if ROWS > 1u {
        coopStoreT(y10, &results[at], SIZE);
        store(o + SIZE, p, frame, lane);
        coopStoreT(y11, &results[at], SIZE);
        store(o + SIZE, p + SIZE, frame, lane);
    }
    if ROWS > 2u {
        coopStoreT(y20, &results[at], SIZE);
        store(o + 2u * SIZE, p, frame, lane);
        coopStoreT(y21, &results[at], SIZE);
        store(o + 2u * SIZE, p + SIZE, frame, lane);
    }
    if ROWS > 3u {
        coopStoreT(y30, &results[at], SIZE);
        store(o + 3u * SIZE, p, frame, lane);
        coopStoreT(y31, &results[at], SIZE);
        store(o + 3u * SIZE, p + SIZE, frame, lane);
    }
}
