// epilogue_residual — what follows a product: the bias, then a sum with what bypassed the layer.
// Bindings from EPILOGUE on: bias [N], residual [M, N], f32.
//
// Needs: const EPILOGUE, params.n. Gives: finish, EPILOGUE_END.

@group(0) @binding(EPILOGUE) var<storage, read_write> bias: array<f32>;
@group(0) @binding(EPILOGUE + 1u) var<storage, read_write> residual: array<f32>;

const EPILOGUE_END: u32 = EPILOGUE + 2u;

fn finish(row: u32, column: u32, value: f32) -> f32 {
    return residual[row * params.n + column] + (value + bias[column]);
}
