// adamw — one step of Adam with decoupled weight decay, in one pass over a flat parameter.
//
//   param, grad, m, v         [L]  f32   parameter, gradient, first and second moment
//   new_param, new_m, new_v   [L]  f32   results
//
//   g = grad_scale · grad;  m' = beta1 · m + rest1 · g;  v' = beta2 · v + rest2 · g²
//   param' = keep · param − rate · m' / (root · √v' + eps)
//
// rate is learning rate / (1 − beta1^t), root 1 / √(1 − beta2^t), keep 1 − learning rate · decay.
// Constants: WORKGROUP_SIZE, GRID_WIDTH.
// Dispatch:  ceil(L / WORKGROUP_SIZE) workgroups, folded into x then y.
// Twin:      kernels::adamw::reference

struct Params {
    len: u32,
    grad_scale: f32,
    beta1: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    rate: f32,
    root: f32,
    eps: f32,
    keep: f32,
}

@group(0) @binding(0) var<storage, read_write> param: array<f32>;
@group(0) @binding(1) var<storage, read_write> grad: array<f32>;
@group(0) @binding(2) var<storage, read_write> m: array<f32>;
@group(0) @binding(3) var<storage, read_write> v: array<f32>;
@group(0) @binding(4) var<storage, read_write> new_param: array<f32>;
@group(0) @binding(5) var<storage, read_write> new_m: array<f32>;
@group(0) @binding(6) var<storage, read_write> new_v: array<f32>;
@group(0) @binding(7) var<uniform> params: Params;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let i = (workgroup_id.y * GRID_WIDTH + workgroup_id.x) * WORKGROUP_SIZE + lane;
    if i >= params.len {
        return;
    }
    let g = params.grad_scale * grad[i];
    let first = params.beta1 * m[i] + params.rest1 * g;
    let second = params.beta2 * v[i] + params.rest2 * g * g;
    let step = params.rate * first / (params.root * sqrt(second) + params.eps);
    new_param[i] = params.keep * param[i] - step;
    new_m[i] = first;
    new_v[i] = second;
}
