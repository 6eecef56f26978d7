//! What the numbers mean: bit widths, packing and quantization arithmetic, in plain Rust.
//!
//! Everything else is measured against this module: a kernel's twin calls it, a test compares
//! with it, and the file format stores what it defines. No Burn and no GPU here.

mod activation;
mod bits;
mod hadamard;
mod layer;
mod log;
mod low_rank;
mod packed;
mod precision;
mod transform;
mod uniform;

pub use activation::{ActivationQuantizer, ByStep, PerFrame, RunStep, StepRule};
pub use bits::{Bits, CODES_PER_BLOCK, pack_rows, padded_len, unpack_rows, words_per_row};
pub(crate) use hadamard::hadamard_block;
pub use hadamard::{HADAMARD_BLOCKS, hadamard, hadamard_factor};
pub use layer::QuantizedLayer;
pub use log::LogSpec;
pub use low_rank::LowRankBranch;
pub use packed::{
    PackedRows, TokenRange, TokenSpec, WeightSpec, packed_bytes, quantize_tokens, quantize_weight,
};
pub use precision::{ParsePrecisionError, Precision};
pub use transform::{InputTransform, affine_hadamard, check_hadamard};
pub use uniform::{
    Calibration, Grid, MIN_RANGE, MIN_SCALE, MSE_CANDIDATES, MSE_POWER, Scheme, calibrate,
    mse_error, mse_shrink, range,
};
