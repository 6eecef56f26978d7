// affine_rows — (value − offset) · factor, by channel. Bindings from AFFINE on: offset [K],
// factor [K], f32.
//
// Needs: const AFFINE, alias Row (f32, or a vector of four where K allows it), and factor_quad and
// offset_quad of rows_vector or rows_scalar. Gives: affine, AFFINE_END.

@group(0) @binding(AFFINE) var<storage, read_write> offset: array<Row>;
@group(0) @binding(AFFINE + 1u) var<storage, read_write> factor: array<Row>;

const AFFINE_END: u32 = AFFINE + 2u;

#import rows

fn affine(values: vec4<f32>, quad: u32) -> vec4<f32> {
    return (values - offset_quad(quad)) * factor_quad(quad);
}
