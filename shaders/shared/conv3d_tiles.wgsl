// conv3d_tiles — what the forms of a 3-D convolution share whose workgroups compute tiles of pixels: the
// bindings, with weights in fours, and the window. Needs: Elem, KERNEL_T, KERNEL_H, KERNEL_W.

@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> history: array<f32>;
@group(0) @binding(2) var<storage, read_write> w: array<vec4<Elem>>;
@group(0) @binding(3) var<storage, read_write> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

#import conv3d_frames

const TAPS: u32 = KERNEL_T * KERNEL_H * KERNEL_W;
// The row of a pixel beyond the frame: no tap brings it back inside.
const OUTSIDE: i32 = -0x10000000;
