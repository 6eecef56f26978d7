// channel_norm — y = act(x / max(‖x‖₂, 1e-12) · √C · gamma), the norm over the channels of a pixel.
//
//   x      [C, P]  f32   P pixels of all frames
//   gamma  [C]     f32
//   y      [C, P]  f32   result
//
// act is silu where SILU, else the identity. An invocation owns one pixel and walks its channels
// twice: neighbouring invocations read neighbouring values.
//
// Constants: SILU, WORKGROUP_SIZE, GRID_WIDTH.
// Dispatch:  ceil(P / WORKGROUP_SIZE) workgroups, folded into x then y.
// Twin:      kernels::channel_norm::reference

struct Params {
    channels: u32,
    pixels: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> gamma: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

// The exponent is capped because `exp` must not reach infinity; there silu is zero anyway.
fn silu(value: f32) -> f32 {
    return value / (1.0 + exp(min(-value, 80.0)));
}

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let pixel = (workgroup_id.y * GRID_WIDTH + workgroup_id.x) * WORKGROUP_SIZE + lane;
    if pixel >= params.pixels {
        return;
    }
    var squares = 0.0;
    for (var channel = 0u; channel < params.channels; channel++) {
        let value = x[channel * params.pixels + pixel];
        squares += value * value;
    }
    let factor = sqrt(f32(params.channels)) / max(sqrt(squares), 1e-12);
    for (var channel = 0u; channel < params.channels; channel++) {
        let i = channel * params.pixels + pixel;
        let value = x[i] * factor * gamma[channel];
        if SILU {
            y[i] = silu(value);
        } else {
            y[i] = value;
        }
    }
}
