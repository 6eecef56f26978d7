// epilogue_branch — what follows a product: the bias, and a branch of low rank beside the weight.
// Bindings from EPILOGUE on: small [M, 4·RANK_QUADS], the tokens times the branch's first factor, and
// columns [N, 4 + 4·RANK_QUADS], the bias, a gate, two zeros, and the second factor, f32.
//
// Two tensors for all that, so that with a residual there are no more than eight buffers.
// Spares a GPU two passes over the result, 12 bytes per value, for RANK_QUADS loads of two vectors.
// On lavapipe a load is worth many products, and separate steps are faster: 256 × 1536 × 1536, W4A4,
// rank 32, processor time of examples/layer_steps.rs: 69 ms without a branch, 122 with it here, 89
// with Burn's products and a sum after it.
// Needs: const EPILOGUE, RANK_QUADS. Gives: finish, EPILOGUE_END.

@group(0) @binding(EPILOGUE) var<storage, read_write> small: array<vec4<f32>>;
@group(0) @binding(EPILOGUE + 1u) var<storage, read_write> columns: array<vec4<f32>>;

const EPILOGUE_END: u32 = EPILOGUE + 2u;

fn finish(row: u32, column: u32, value: f32) -> f32 {
    let at = column * (RANK_QUADS + 1u);
    var sum = vec4<f32>();
    for (var i = 0u; i < RANK_QUADS; i++) {
        sum += small[row * RANK_QUADS + i] * columns[at + 1u + i];
    }
    return value + columns[at].x + ((sum.x + sum.y) + (sum.z + sum.w));
}
