// qmatmul_float — y = epilogue(x · ŵᵀ) of float tokens and a packed weight (weight-only).
//
//   x        [M, K]                  Elem  f32 or f16, four at a time where K allows
//   w_codes  [N, ceil(K/32)·W_BITS]  u32   packed codes of the weight
//   w_grid   [N, G, 3]               u32   scale (f32), zero point (f32), code sum (i32), as bits
//   bias …                                 see shared/epilogue_*.wgsl
//   y        [M, N]                  f32   accumulated in f32, K in ascending order in every form
//
// Four codes become floats where matmul loads four of them; the forms are those of matmul, as
// imports: float_product_registers and float_product_tiles say who computes what, the dispatch and
// the workgroup memory. Codes behind K are zero, and meet x = 0.
// Constants: W_BITS, GROUPED, Elem, those of the form; the form, the quads, the epilogue by import.
// Twin:      kernels::qmatmul_float::reference

#import bytes
#import quads

struct Params {
    m: u32,
    n: u32,
    k: u32,
    group_size: u32,
    first_tile: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<Elem>;
@group(0) @binding(1) var<storage, read_write> w_codes: array<u32>;
@group(0) @binding(2) var<storage, read_write> w_grid: array<u32>;
const EPILOGUE: u32 = 3u;
#import epilogue
@group(0) @binding(EPILOGUE_END) var<storage, read_write> y: array<f32>;
@group(0) @binding(EPILOGUE_END + 1u) var<uniform> params: Params;

struct WeightRow {
    first_word: u32,
    first_grid: u32,  // word
    scale: f32,       // of the row's first group
    zero_point: f32,
}

fn weight_row(n: u32) -> WeightRow {
    let groups = (params.k + params.group_size - 1u) / params.group_size;
    let grid = n * groups * 3u;
    return WeightRow(
        n * ((params.k + 31u) / 32u) * W_BITS,
        grid,
        bitcast<f32>(w_grid[grid]),
        bitcast<f32>(w_grid[grid + 1u]),
    );
}

// The values of four codes.
fn w_quad(row: WeightRow, quad: u32) -> vec4<f32> {
    let bit = quad * 4u * W_BITS;
    let word = row.first_word + bit / 32u;
    let shift = bit % 32u;
    var packed = w_codes[word] >> shift;
    if straddles(shift, W_BITS) {
        packed |= w_codes[word + 1u] << (32u - shift);
    }
    let bytes = spread_to_bytes(packed, W_BITS);
    let codes = vec4<f32>(vec4<u32>(
        bytes & 255u, (bytes >> 8u) & 255u, (bytes >> 16u) & 255u, bytes >> 24u,
    ));
    if GROUPED {
        let grid = row.first_grid + quad * 4u / params.group_size * 3u;
        return bitcast<f32>(w_grid[grid]) * (codes - bitcast<f32>(w_grid[grid + 1u]));
    }
    return row.scale * (codes - row.zero_point);
}

#import float_product
