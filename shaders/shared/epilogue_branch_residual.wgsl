// epilogue_branch_residual — what follows a product: the bias, a branch of low rank beside the weight,
// a gate, and a sum with what bypassed the layer. Bindings from EPILOGUE on: as in epilogue_branch,
// then residual [M, N], f32.
//
// Needs: const EPILOGUE, RANK_QUADS, params.n. Gives: finish, EPILOGUE_END.

@group(0) @binding(EPILOGUE) var<storage, read_write> small: array<vec4<f32>>;
@group(0) @binding(EPILOGUE + 1u) var<storage, read_write> columns: array<vec4<f32>>;
@group(0) @binding(EPILOGUE + 2u) var<storage, read_write> residual: array<f32>;

const EPILOGUE_END: u32 = EPILOGUE + 3u;

fn finish(row: u32, column: u32, value: f32) -> f32 {
    let at = column * (RANK_QUADS + 1u);
    var sum = vec4<f32>();
    for (var i = 0u; i < RANK_QUADS; i++) {
        sum += small[row * RANK_QUADS + i] * columns[at + 1u + i];
    }
    let layer = value + columns[at].x + ((sum.x + sum.y) + (sum.z + sum.w));
    return residual[row * params.n + column] + columns[at].y * layer;
}
