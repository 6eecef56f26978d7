// row_whole — a row of tokens as it is loaded, with nothing to prepare.
//
// Needs: fn source_quad(token, quad) -> vec4<f32>. Gives: ROW_TILE, prepare_quads, quad_at.

// Quads that are prepared at once: more than a row has.
const ROW_TILE: u32 = 1u << 30u;

fn prepare_quads(token: u32, first: u32, lane: u32) {}

fn quad_at(token: u32, quad: u32) -> vec4<f32> {
    return source_quad(token, quad);
}
