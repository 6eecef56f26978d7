// head_norm_rope — y = rope((x − mean) / √(variance + eps) · weight + bias) per head of a token.
//
//   text    [L, H·D]      f32   tokens in front, without positions; one value where L is 0
//   video   [M, H·D]      f32   tokens behind them; H heads of D channels
//   affine  [2, D]        f32   weight, then bias, the same for all heads
//   cos     [M, D/2]      f32   of the angle of pair j = channels 2j and 2j+1; one value where not ROTATE
//   sin     [M, D/2]      f32
//   y       [L + M, H·D]  Elem  what attention reads, text first
//
// The heads of all tokens are rows of D channels. HEAD_LANES invocations own a row: they read it
// twice for mean and variance and a third time for the result, from the cache. Separate operations
// read or write the tokens fourteen times, and twice more to join text and video.
//
// Constants: ROTATE, Elem, HEAD_LANES (divides WORKGROUP_SIZE), WORKGROUP_SIZE, GRID_WIDTH.
// Memory:    4·WORKGROUP_SIZE bytes per workgroup.
// Dispatch:  ceil((L + M)·H·HEAD_LANES / WORKGROUP_SIZE) workgroups, folded into x then y.
// Twin:      kernels::head_norm_rope::reference

struct Params {
    text_tokens: u32,
    tokens: u32,
    heads: u32,
    pairs: u32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read_write> text: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read_write> video: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> affine: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read_write> cos: array<f32>;
@group(0) @binding(4) var<storage, read_write> sin: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<vec2<Elem>>;
@group(0) @binding(6) var<uniform> params: Params;

const ROWS: u32 = WORKGROUP_SIZE / HEAD_LANES;

var<workgroup> sums: array<f32, WORKGROUP_SIZE>;

// The sum over the invocations of a row. All must call, in uniform control flow.
fn row_sum(value: vec2<f32>, lane: u32) -> f32 {
    sums[lane] = value.x + value.y;
    workgroupBarrier();
    let first = lane - lane % HEAD_LANES;
    var sum = 0.0;
    for (var i = 0u; i < HEAD_LANES; i++) {
        sum += sums[first + i];
    }
    workgroupBarrier();
    return sum;
}

fn pair_of(row: u32, text_rows: u32, pair: u32) -> vec2<f32> {
    if row < text_rows {
        return text[row * params.pairs + pair];
    }
    return video[(row - text_rows) * params.pairs + pair];
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let text_rows = params.text_tokens * params.heads;
    let rows = text_rows + params.tokens * params.heads;
    let first_row = (workgroup_id.y * GRID_WIDTH + workgroup_id.x) * ROWS;
    if first_row >= rows {
        return;
    }
    let row = first_row + lane / HEAD_LANES;
    // Rows beyond the last take part in the barriers without any channels.
    let pairs = select(0u, params.pairs, row < rows);
    let first = lane % HEAD_LANES;
    let width = f32(2u * params.pairs);

    var total = vec2<f32>(0.0);
    for (var i = first; i < pairs; i += HEAD_LANES) {
        total += pair_of(row, text_rows, i);
    }
    let mean = row_sum(total, lane) / width;
    var squares = vec2<f32>(0.0);
    for (var i = first; i < pairs; i += HEAD_LANES) {
        let difference = pair_of(row, text_rows, i) - mean;
        squares += difference * difference;
    }
    let factor = 1.0 / sqrt(row_sum(squares, lane) / width + params.eps);

    for (var i = first; i < pairs; i += HEAD_LANES) {
        let normal = (pair_of(row, text_rows, i) - mean) * factor;
        var value = normal * affine[i] + affine[params.pairs + i];
        if ROTATE {
            if row >= text_rows {
                let angle = (row - text_rows) / params.heads * params.pairs + i;
                let c = cos[angle];
                let s = sin[angle];
                value = vec2<f32>(value.x * c - value.y * s, value.x * s + value.y * c);
            }
        } else {
            _ = &cos;
            _ = &sin;
        }
        y[row * params.pairs + i] = vec2<Elem>(value);
    }
}
