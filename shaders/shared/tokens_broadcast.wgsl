// tokens_broadcast — eight tokens in the first lanes of a subgroup of at least eight: one load
// and one conversion serve all of them.
//
// Needs: const TOKENS; x_unit, centered_x.

const TOKEN_UNITS: u32 = TOKENS / 8u;

// The unit `index` of this lane's token.
fn token_unit(m0: u32, index: u32, lane: u32, unit: u32) -> vec2<u32> {
    return x_unit(m0 + index * 8u + lane % 8u, unit);
}

// Four tokens' code `i`, centered.
fn four_tokens(units: ptr<function, array<vec2<u32>, TOKEN_UNITS>>, four: u32, i: u32) -> vec4<f32> {
    let x = centered_x((*units)[four / 2u], i);
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
