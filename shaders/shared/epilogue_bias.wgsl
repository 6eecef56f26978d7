// epilogue_bias — what follows a product: the bias. Binding EPILOGUE: bias [N] f32.
//
// Needs: const EPILOGUE, the first binding. Gives: finish, EPILOGUE_END.

@group(0) @binding(EPILOGUE) var<storage, read_write> bias: array<f32>;

const EPILOGUE_END: u32 = EPILOGUE + 1u;

fn finish(row: u32, column: u32, value: f32) -> f32 {
    return value + bias[column];
}
