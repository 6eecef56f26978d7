// tokens_loaded — every invocation loads all of its tokens.
//
// Needs: const TOKENS; x_unit, centered_x.

const TOKEN_UNITS: u32 = TOKENS;

fn token_unit(m0: u32, index: u32, lane: u32, unit: u32) -> vec2<u32> {
    return x_unit(m0 + index, unit);
}

// Four tokens' code `i`, centered.
fn four_tokens(units: ptr<function, array<vec2<u32>, TOKEN_UNITS>>, four: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(
        centered_x((*units)[four * 4u], i), centered_x((*units)[four * 4u + 1u], i),
        centered_x((*units)[four * 4u + 2u], i), centered_x((*units)[four * 4u + 3u], i),
    );
}
