// matmul — y = epilogue(x · wᵀ) of floats.
//
//   x        [M, K]  Elem   f32 or f16, four at a time where K allows
//   w        [N, K]  Elem
//   bias …                  see shared/epilogue_*.wgsl
//   y        [M, N]  f32    accumulated in f32, K in ascending order in every form
//
// The forms are imports: float_product_registers and float_product_tiles say who computes what, the
// dispatch and the workgroup memory. qmatmul_float is the same with a packed weight.
// Constants: Elem, those of the form; the form, the quads and the epilogue by import.
// Twin:      kernels::matmul::reference

#import quads
#import weight_quads

struct Params {
    m: u32,
    n: u32,
    k: u32,
    first_tile: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<Elem>;
@group(0) @binding(1) var<storage, read_write> w: array<Elem>;
const EPILOGUE: u32 = 2u;
#import epilogue
@group(0) @binding(EPILOGUE_END) var<storage, read_write> y: array<f32>;
@group(0) @binding(EPILOGUE_END + 1u) var<uniform> params: Params;

#import float_product
