//! The CPU device: the operations of the kernels on all processors, in vector instructions.
//!
//! What the vectors are is found out when the program runs: a [`Form`] is a set of instructions
//! that this processor has. All forms compute the same integers, and [`qmatmul`] the same floats as
//! the plain twin to the last bit. The instructions for integers are written out, one file per kind
//! in `tile`, the only code here that the compiler does not check; everything else are loops over
//! arrays, compiled for each form.
//!
//! A product of codes expands the weight of 64 channels to bytes, 16 channels side by side with four
//! codes each in a cache line, and multiplies them with the tokens, tile by tile: 6 tokens × 64
//! channels of sums stay in registers. The weight is expanded anew in each call, which costs the
//! time of 10 tokens and no memory; kept as bytes it would take twice to four times its size.
//!
//! The floor on the machine of these numbers, an AMD EPYC (Zen 4), is 64 products of bytes a cycle
//! and core, 2.6 ms for 256 × 1536 × 1536 at 3.6 GHz. Core-milliseconds of `cpu_products`, among the
//! examples, against ONNX Runtime 1.31 (`MatMulInteger`; `MatMulNBits` of accuracy level 4):
//!
//! | tokens × out × in  | W8A8 | W4A4 | W3A3 | ORT int8 | ORT 4 bits | Flex f32 | ORT f32 |
//! |--------------------|------|------|------|----------|------------|----------|---------|
//! | 256 × 1536 × 1536  | 3.8  | 3.7  | 3.5  | 2.7      | 6.4        | 12.2     | 11.1    |
//! | 256 × 8960 × 1536  | 25.8 | 22.7 | 22.9 | 17.0     | 36.3       | 72.2     | 66.0    |
//! | 256 × 1536 × 8960  | 21.0 | 19.5 | 18.8 | 17.2     | 37.3       | 71.8     | 64.4    |
//!
//! With AVX2 alone 256 × 1536 × 1536 takes 9 ms, in the portable form (SSE2) 42. Weight-only it is
//! 12.7 ms (95 GFLOP/s), attention runs at 70 GFLOP/s with heads of 128 channels and no memory
//! beyond its inputs' size. Up to four tokens are multiplied along the rows of the weight, without
//! bringing rows side by side: one token of 1536 × 1536 took 0.10, 0.09 and 0.27 ms at 8, 4 and 3 bits
//! where Flex took 0.39 in f32, all in one run of `cpu_products 1 1536 1536` on a busy machine.
//!
//! Tried without gain: AVX-512 for the loops over arrays (the compiler gathers where it should
//! shuffle; up to three times slower) and tiles of f32 sums beyond 6 × 16 (it spills them). Words of
//! 16 rows brought side by side one by one, not in squares of 8 × 8, took a single token up to twice
//! as long.

mod attention;
mod float_product;
mod form;
mod parallel;
mod product;
mod quantize;
mod rope;
mod row_product;
mod rows;
mod tile;
mod transform;

pub use attention::attention;
pub use float_product::{dequantize, qmatmul_float};
pub use form::Form;
pub use product::qmatmul;
pub use quantize::{quantize_tokens, quantize_weight};
pub use rope::rope;
pub use rows::{Rows, RowsBuffer};
pub use transform::transform;
