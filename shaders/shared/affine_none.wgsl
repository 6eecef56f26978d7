// affine_none — values as they are.
//
// Needs: const AFFINE, the first binding that it does not use. Gives: affine, AFFINE_END.

const AFFINE_END: u32 = AFFINE;

fn affine(values: vec4<f32>, quad: u32) -> vec4<f32> {
    return values;
}
