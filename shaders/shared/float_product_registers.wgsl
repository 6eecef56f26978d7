// float_product_registers — y = epilogue(x · wᵀ) without workgroup memory: for renderers on a CPU,
// where a load costs ten times a product, whichever lanes it serves.
//
// An invocation computes TOKENS × COLUMNS results, columns WORKGROUP_SIZE apart; four columns of K
// are added up before they reach a sum, which such compilers keep in memory between steps.
// Dispatch: (ceil(N / (COLUMNS · WORKGROUP_SIZE)), ceil(M / TOKENS)) workgroups, in one or several
// dispatches of some rows of them, the first at params.first_tile.
//
// Needs: const TOKENS (a multiple of 8), COLUMNS; x_quad, in_row; WeightRow, weight_row, w_quad;
// finish; y; params.m, n, k, first_tile; float_tokens by import.

#import float_tokens

const FOURS: u32 = TOKENS / 4u;

@compute @workgroup_size(WORKGROUP_SIZE)
fn main(
    @builtin(workgroup_id) workgroup_id: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let m0 = (params.first_tile + workgroup_id.y) * TOKENS;
    let n0 = workgroup_id.x * COLUMNS * WORKGROUP_SIZE + lane;
    var rows: array<WeightRow, COLUMNS>;
    for (var j = 0u; j < COLUMNS; j++) {
        rows[j] = weight_row(min(n0 + j * WORKGROUP_SIZE, params.n - 1u));
    }
    var sums: array<vec4<f32>, FOURS * COLUMNS>;
    for (var quad = 0u; quad < (params.k + 3u) / 4u; quad++) {
        var own: array<vec4<f32>, OWN_TOKENS>;
        for (var i = 0u; i < OWN_TOKENS; i++) {
            let values = x_quad(min(own_token(m0, i, lane), params.m - 1u), quad);
            own[i] = select(vec4<f32>(0.0), values, in_row(quad));
        }
        var w: array<vec4<f32>, COLUMNS>;
        for (var j = 0u; j < COLUMNS; j++) {
            w[j] = w_quad(rows[j], quad);
        }
        for (var four = 0u; four < FOURS; four++) {
            let x0 = four_tokens(&own, four, 0u);
            let x1 = four_tokens(&own, four, 1u);
            let x2 = four_tokens(&own, four, 2u);
            let x3 = four_tokens(&own, four, 3u);
            for (var j = 0u; j < COLUMNS; j++) {
                var sum = fma(x0, vec4<f32>(w[j].x), sums[four * COLUMNS + j]);
                sum = fma(x1, vec4<f32>(w[j].y), sum);
                sum = fma(x2, vec4<f32>(w[j].z), sum);
                sums[four * COLUMNS + j] = fma(x3, vec4<f32>(w[j].w), sum);
            }
        }
    }
    for (var i = 0u; i < TOKENS; i++) {
        for (var j = 0u; j < COLUMNS; j++) {
            let column = n0 + j * WORKGROUP_SIZE;
            if m0 + i < params.m && column < params.n {
                let sum = sums[i / 4u * COLUMNS + j][i % 4u];
                y[(m0 + i) * params.n + column] = finish(m0 + i, column, sum);
            }
        }
    }
}
