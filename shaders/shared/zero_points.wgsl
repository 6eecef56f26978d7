// zero_points — from integer sums of codes to the sum of what the codes stand for.
//
// A zero point z is split into a whole part a within the codes, corrected in integers, and the
// rest r, so that 8-bit sums beyond 2^24 lose nothing to f32 and no integer exceeds
// (2^X_BITS−1)(2^W_BITS−1)·K in absolute value, however far from the codes z lies.
// Integers may wrap in between, the result does not.
// Needs: const X_BITS, W_BITS; bindings x_grid, w_grid.

struct TokenZero {
    whole: i32,
    rest: f32,
    centered: i32, // Σ (q_x − a_x)
}

struct WeightZero {
    scale: f32,
    whole: i32,
    rest: f32,
    sum: i32,      // Σ q_w
    centered: f32, // Σ (q_w − z_w)
}

// The token at `row`, whose codes of a group of `k` add up to `sum`.
fn token_zero(row: u32, sum: i32, k: i32) -> TokenZero {
    let zero = bitcast<f32>(x_grid[row * 3u + 1u]);
    let whole = clamp(round(zero), 0.0, f32((1u << X_BITS) - 1u));
    return TokenZero(i32(whole), zero - whole, sum - k * i32(whole));
}

// The weight's group of `k` codes whose grid begins at word `at`.
fn weight_zero(at: u32, k: i32) -> WeightZero {
    let zero = bitcast<f32>(w_grid[at + 1u]);
    let sum = bitcast<i32>(w_grid[at + 2u]);
    let whole = clamp(round(zero), 0.0, f32((1u << W_BITS) - 1u));
    let rest = zero - whole;
    let centered = f32(sum - k * i32(whole)) - f32(k) * rest;
    return WeightZero(bitcast<f32>(w_grid[at]), i32(whole), rest, sum, centered);
}

// s_w Σ (q_x − z_x)(q_w − z_w) from Σ q_x q_w: Σ (q_x − a_x)(q_w − a_w) in integers, then
// − r_w Σ (q_x − a_x) − r_x (Σ (q_w − a_w) − k r_w). The token's scale comes later.
fn corrected(sum: i32, x: TokenZero, w: WeightZero) -> f32 {
    let product = sum - x.whole * w.sum - w.whole * x.centered;
    return w.scale * (f32(product) - w.rest * f32(x.centered) - x.rest * w.centered);
}
