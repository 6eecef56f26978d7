// activation — an activation function applied to values as they are loaded.
//
// Needs: const ACTIVATION (Activation::index). Exponents are capped because `exp` must not reach
// infinity; there both functions are zero anyway.

const SILU: u32 = 1u;
const GELU_TANH: u32 = 2u;

fn activate(x: vec4<f32>) -> vec4<f32> {
    if ACTIVATION == SILU {
        return x / (exp(min(-x, vec4<f32>(88.0))) + 1.0);
    }
    if ACTIVATION == GELU_TANH {
        // x · sigmoid(2u): the tanh of some drivers is NaN for large arguments.
        let exponent = x * (x * x * -0.07135481627 - 1.5957691216);
        return x / (exp(min(exponent, vec4<f32>(88.0))) + 1.0);
    }
    return x;
}
