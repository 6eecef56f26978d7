// channel_statistics — what is known of the channels of an activation, with some more of its tokens.
//
//   x           [M, K]  f32   tokens
//   previous    [5, K]  f32   the statistics before them
//   statistics  [5, K]  f32   per channel: smallest and largest value, moving average of the largest
//                             magnitude, sum, sum of squares
//
// The moving average is DECAY · before + (1 − DECAY) · max |x| of these tokens; one below zero in
// `previous` says that there was nothing before. A workgroup owns CHANNELS channels; its rows of
// invocations walk the tokens side by side and are joined at the end, so that a token is read in
// whole cache lines.
// Workgroup memory: 16·WORKGROUP_SIZE bytes.
// Constants: WORKGROUP_SIZE, GRID_WIDTH.
// Dispatch:  ceil(K / CHANNELS) workgroups, folded into x then y.
// Twin:      kernels::channel_statistics::reference
//
// Floor: 4·M·K bytes, read once.

struct Params {
    m: u32,
    k: u32,
    decay: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> previous: array<f32>;
@group(0) @binding(2) var<storage, read_write> statistics: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

const CHANNELS: u32 = 32u;
const ROWS: u32 = WORKGROUP_SIZE / CHANNELS;
const F32_HIGHEST: f32 = 3.4028234e38;

// Smallest, largest, sum, sum of squares.
var<workgroup> partials: array<vec4<f32>, WORKGROUP_SIZE>;

fn joined(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(min(a.x, b.x), max(a.y, b.y), a.z + b.z, a.w + b.w);
}

fn of_tokens(channel: u32, row: u32) -> vec4<f32> {
    var own = vec4<f32>(F32_HIGHEST, -F32_HIGHEST, 0.0, 0.0);
    for (var token = row; token < params.m; token += ROWS) {
        let value = x[token * params.k + channel];
        own = joined(own, vec4<f32>(value, value, value, value * value));
    }
    return own;
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let k = params.k;
    let first = (workgroup_id.y * GRID_WIDTH + workgroup_id.x) * CHANNELS;
    if first >= k {
        return;
    }
    let channel = first + lane % CHANNELS;
    if channel < k {
        partials[lane] = of_tokens(channel, lane / CHANNELS);
    }
    workgroupBarrier();
    if lane >= CHANNELS || channel >= k {
        return;
    }
    var own = partials[lane];
    for (var row = 1u; row < ROWS; row++) {
        own = joined(own, partials[row * CHANNELS + lane]);
    }
    let magnitude = max(-own.x, own.y);
    let average = previous[2u * k + channel];
    own = joined(own, vec4<f32>(
        previous[channel], previous[k + channel],
        previous[3u * k + channel], previous[4u * k + channel],
    ));
    statistics[channel] = own.x;
    statistics[k + channel] = own.y;
    if average < 0.0 {
        statistics[2u * k + channel] = magnitude;
    } else {
        statistics[2u * k + channel] = params.decay * average + (1.0 - params.decay) * magnitude;
    }
    statistics[3u * k + channel] = own.z;
    statistics[4u * k + channel] = own.w;
}
