//! What the numbers mean: bit widths, packing and quantization arithmetic, in plain Rust.
//!
//! Everything else is measured against this module: a kernel's twin calls it, a test compares
//! with it, and the file format stores what it defines. No Burn and no GPU here.

mod bits;
mod packed;
mod precision;
mod uniform;

pub use bits::{Bits, CODES_PER_BLOCK, pack_rows, padded_len, unpack_rows, words_per_row};
pub use packed::{PackedRows, TokenRange, TokenSpec, WeightSpec, quantize_tokens, quantize_weight};
pub use precision::{ParsePrecisionError, Precision};
pub use uniform::{
    Calibration, Grid, MIN_RANGE, MIN_SCALE, MSE_CANDIDATES, MSE_POWER, Scheme, calibrate,
    mse_error, mse_shrink, range,
};
