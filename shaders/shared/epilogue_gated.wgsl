// epilogue_gated — what follows a product: bias, gate, and a sum with what bypassed the layer.
// Bindings from EPILOGUE on: bias [N], residual [M, N], gate [N], f32.
//
// Needs: const EPILOGUE, params.n. Gives: finish, EPILOGUE_END.

@group(0) @binding(EPILOGUE) var<storage, read_write> bias: array<f32>;
@group(0) @binding(EPILOGUE + 1u) var<storage, read_write> residual: array<f32>;
@group(0) @binding(EPILOGUE + 2u) var<storage, read_write> gate: array<f32>;

const EPILOGUE_END: u32 = EPILOGUE + 3u;

fn finish(row: u32, column: u32, value: f32) -> f32 {
    return residual[row * params.n + column] + gate[column] * (value + bias[column]);
}
