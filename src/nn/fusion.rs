//! Which steps around a packed product share its dispatches.
//!
//! A graphics card is bound by memory there: a Hadamard transform while quantizing, or a branch of
//! low rank in the epilogue, saves a pass over the tokens. A software adapter is bound by
//! arithmetic, and runs the invocations of a workgroup in turns at every barrier: on lavapipe the
//! transform takes 2.6 times as long within the quantizer as in front of it, and a product with its
//! branch 1.4 times as long as both after one another (`examples/layer_steps`); a norm with
//! quantizing takes 1.2 times as long as the two (`qvgen bench passes quantize`), and three times as
//! long to compile (`examples/first_use`). GELU apart takes 1.07 times as long, and spares
//! compiling the quantizer a second time.

use crate::kernels::AdapterFacts;
use burn::tensor::Device;

/// Whether steps that could be dispatches of their own are better done on the way on `device`.
pub(super) fn pays_on(device: &Device) -> bool {
    !AdapterFacts::of(device).is_software
}
