// packed_product — parameters and bindings of packed tokens times a packed weight, in all forms: the
// tokens' codes and grids, the weight's, what the epilogue reads, the result.

struct Params {
    m: u32,
    n: u32,
    k: u32,
    group_size: u32,
}

@group(0) @binding(0) var<storage, read_write> x_codes: array<u32>;
@group(0) @binding(1) var<storage, read_write> x_grid: array<u32>;
@group(0) @binding(2) var<storage, read_write> w_codes: array<u32>;
@group(0) @binding(3) var<storage, read_write> w_grid: array<u32>;
const EPILOGUE: u32 = 4u;
#import epilogue
@group(0) @binding(EPILOGUE_END) var<storage, read_write> y: array<f32>;
@group(0) @binding(EPILOGUE_END + 1u) var<uniform> params: Params;
