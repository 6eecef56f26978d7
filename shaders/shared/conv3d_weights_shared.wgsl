// conv3d_weights_shared — lanes of a subgroup load one weight each and hand it round. Needs:
// subgroups of at least 8 invocations, OUT_BLOCK.

const SHARED_BY: u32 = min(8u, OUT_BLOCK);

// The count of lanes before this one: all are active where it is called.
fn lane_of_subgroup() -> u32 {
    return subgroupExclusiveAdd(1u);
}

// Weight `i` of those that SHARED_BY lanes hold between them, of which this lane holds `held`.
fn weight_of(held: f32, i: u32) -> f32 {
    return subgroupShuffle(held, i);
}
