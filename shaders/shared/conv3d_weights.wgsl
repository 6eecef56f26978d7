// conv3d_weights — every invocation loads all weights of its channels. Needs: nothing.

const SHARED_BY: u32 = 1u;

fn lane_of_subgroup() -> u32 {
    return 0u;
}

// Weight `i` of those that SHARED_BY lanes hold between them, of which this lane holds `held`.
fn weight_of(held: f32, i: u32) -> f32 {
    return held;
}
