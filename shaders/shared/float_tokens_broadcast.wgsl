// float_tokens_broadcast — float tokens in the first eight lanes of a subgroup of at least eight:
// one load serves all of them.
//
// Needs: const TOKENS, a multiple of 8.

const OWN_TOKENS: u32 = TOKENS / 8u;

// The token that this lane loads as its `index`-th.
fn own_token(m0: u32, index: u32, lane: u32) -> u32 {
    return m0 + index * 8u + lane % 8u;
}

// Column `i` of a quad of four tokens.
fn four_tokens(own: ptr<function, array<vec4<f32>, OWN_TOKENS>>, four: u32, i: u32) -> vec4<f32> {
    let x = (*own)[four / 2u][i];
    if four % 2u == 0u {
        return vec4<f32>(
            subgroupBroadcast(x, 0u), subgroupBroadcast(x, 1u),
            subgroupBroadcast(x, 2u), subgroupBroadcast(x, 3u),
        );
    }
    return vec4<f32>(
        subgroupBroadcast(x, 4u), subgroupBroadcast(x, 5u),
        subgroupBroadcast(x, 6u), subgroupBroadcast(x, 7u),
    );
}
