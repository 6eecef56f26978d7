//! Timing kernels so that the numbers can be believed.
//!
//! An entry is verified against its plain-Rust twin before it is timed; unverified means no
//! number. Work is repeated until a stated time is spent, and what is reported is the median with
//! its spread, so that one interruption changes nothing. The clock is a trait, so that all of this
//! is tested without a device and without waiting.

mod matmul;
mod measure;
mod stats;

pub use matmul::{MatmulCase, Measured, Unverified, measure_matmul};
pub use measure::{Clock, Repeats, WallClock, measure};
pub use stats::Summary;
