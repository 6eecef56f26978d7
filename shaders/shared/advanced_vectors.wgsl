// advanced_vectors — v = v · factor + term, for eight vectors of four that do not wait for each other.
//
// With factor −1 floats stay small integers: the result is exact whether or not a product is
// rounded before its sum, and in f16 as well.
// Needs: alias Elem (f32, f16 or u32), multiply_add by import, seed, params.

#import multiply_add

fn start(chain: u32, lane: u32) -> vec4<Elem> {
    let first = seed[0] + lane % 16u + 4u * chain;
    return vec4<Elem>(Elem(first), Elem(first + 1u), Elem(first + 2u), Elem(first + 3u));
}

// The compiler of AMD and Apple keeps arrays out of registers; named values it cannot.
fn advanced(lane: u32) -> i32 {
    let factor = vec4<Elem>(Elem(params.factor));
    let term = vec4<Elem>(Elem(params.term));
    var a = start(0u, lane);
    var b = start(1u, lane);
    var c = start(2u, lane);
    var d = start(3u, lane);
    var e = start(4u, lane);
    var f = start(5u, lane);
    var g = start(6u, lane);
    var h = start(7u, lane);
    for (var step = 0u; step < params.steps; step++) {
        a = multiply_add(a, factor, term);
        b = multiply_add(b, factor, term);
        c = multiply_add(c, factor, term);
        d = multiply_add(d, factor, term);
        e = multiply_add(e, factor, term);
        f = multiply_add(f, factor, term);
        g = multiply_add(g, factor, term);
        h = multiply_add(h, factor, term);
    }
    let total = vec4<i32>(a) + vec4<i32>(b) + vec4<i32>(c) + vec4<i32>(d)
        + vec4<i32>(e) + vec4<i32>(f) + vec4<i32>(g) + vec4<i32>(h);
    return total.x + total.y + total.z + total.w;
}
