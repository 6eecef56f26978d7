// multiply_add_float — four fused multiply-adds. Needs: alias Elem.

fn multiply_add(value: vec4<Elem>, factor: vec4<Elem>, term: vec4<Elem>) -> vec4<Elem> {
    return fma(value, factor, term);
}
