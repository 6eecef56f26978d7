//! Low-bit video diffusion on any GPU.
//!
//! Video diffusion transformers need far more memory and time than most people have. This crate
//! runs Wan 2.1 and CogVideoX text-to-video with weights *and* activations of 2 to 8 bits, packed
//! exactly, and multiplied as integers by hand-written WGSL compute shaders, on whatever Vulkan,
//! Metal, DX12 or GL device there is, under Burn's wgpu backend. It quantizes models after training
//! ([`method::ptq`]), reads checkpoints that others quantized ([`pipeline::import`]), and trains
//! models to such widths, by QVGen and the methods it is compared with ([`method::qvgen`],
//! [`train`]).
//!
//! # The map
//!
//! Ten modules and the command line; imports point up this table only, and
//! `tests/architecture.rs` holds them to it.
//!
//! | module | what it decides | may import |
//! |---|---|---|
//! | [`quant`] | what numbers mean: widths, packing, grids, in plain Rust | nothing |
//! | [`kernels`] | how a GPU does it: one shader, binding, twin and test per operation | `quant` |
//! | [`nn`] | layers every model shares; [`nn::Linear`] hides the precision | `kernels`, `quant` |
//! | [`models`] | architectures that read like their papers | `nn` |
//! | [`method`] | how a full-precision model becomes a quantized one | `nn`, `kernels`, `quant` |
//! | [`pipeline`] | files and loops: checkpoints, text, schedulers, videos | all above |
//! | [`world`] | what a small model learns: scenes, captions, and reading them back from pixels | nothing |
//! | [`train`] | full-precision models from nothing, and quantized students of them | all above |
//! | [`evaluate`] | how well a model does what its prompts say, and how far it agrees with another | all above |
//! | [`mod@bench`] | how fast a device is: verified, repeated, as fractions of its own limits | all above but `evaluate` and `world` |
//! | [`cli`] | arguments and printing, nothing else | all above |
//!
//! # One stem
//!
//! `shaders/x.wgsl` is bound by `src/kernels/x.rs`, which also holds its plain-Rust twin and the
//! tensor operation; `tests/kernels/x.rs` compares the two on ragged shapes with guard words. The
//! CPU device runs the twin, or where that is slow [`kernels::cpu`], which the same tests hold to
//! it: any stage of any model runs on either device and can be compared.
//!
//! An operation that hardware wants in several shapes has several *forms* ([`kernels::qmatmul_form`],
//! [`kernels::attention::Form`], the convolutions): shaders of one contract and one twin, so that
//! the choice of one, by the adapter or by measuring there, changes only the time.
//!
//! # How a number travels
//!
//! A weight row `w` becomes codes `q = round(w/s + z)` with a real-valued zero point `z` (QVGen's
//! choice), a token row `x` becomes codes with an integer one. Then
//!
//! ```text
//! y = s_x s_w (Σ q_x q_w − z_x Σ q_w − z_w (Σ q_x − K z_x)) + b
//! ```
//!
//! where the first sum is exact in integers whatever the device, `Σ q_w` is stored with the
//! weights, and `Σ q_x` comes out of the quantizer. Thirty-two codes fill exactly `bits` words, so
//! three bits are 3.0 bits; rows are padded with zero codes, which add nothing to a product.
//!
//! # Where this departs from what one might expect
//!
//! * Operations are defined beside their kernels and not in one central trait: adding a kernel
//!   touches one folder.
//! * Parameters of a shader are a uniform as the last binding, checked against their Rust mirror
//!   by a test; tensors are bound `read_write` throughout, because the runtime hands out slices of
//!   shared buffers.
//! * A model in training is the model of inference: [`train`] hands its parameters to the same
//!   structures through [`nn::WeightSource`], anew for every pass, and gradients come back by name.
//! * The effective weight `Q(W) + (γ ⊙ L) R` is computed once per update, not once per clip, and
//!   its gradient goes through quantizer and Φ once: both are linear in it, so nothing changes but
//!   the time.
//! * What a fake-quantized layer keeps for its backward pass is a handle of its input, not codes
//!   and masks: the exact gradient of the range needs each element's rounding residual, and the
//!   handle is shared by the layers that read the same input.
//! * There is no batch dimension. The second branch of classifier-free guidance is a second call,
//!   which halves the memory.
//! * The device is opened here and not by Burn, so that any adapter of any backend can be chosen,
//!   and is tested before its first use: some software drivers return wrong sums.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

pub mod bench;
pub mod cli;
pub mod evaluate;
pub mod kernels;
pub mod method;
pub mod models;
pub mod nn;
pub mod pipeline;
pub mod quant;
pub mod train;
pub mod world;
