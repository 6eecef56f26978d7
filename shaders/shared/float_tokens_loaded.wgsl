// float_tokens_loaded — every invocation loads all of its float tokens.
//
// Needs: const TOKENS, a multiple of 4.

const OWN_TOKENS: u32 = TOKENS;

// The token that this lane loads as its `index`-th.
fn own_token(m0: u32, index: u32, lane: u32) -> u32 {
    return m0 + index;
}

// Column `i` of a quad of four tokens.
fn four_tokens(own: ptr<function, array<vec4<f32>, OWN_TOKENS>>, four: u32, i: u32) -> vec4<f32> {
    return vec4<f32>(
        (*own)[four * 4u][i], (*own)[four * 4u + 1u][i],
        (*own)[four * 4u + 2u][i], (*own)[four * 4u + 3u][i],
    );
}
