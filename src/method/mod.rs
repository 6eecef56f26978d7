//! Papers as code: how a full-precision model becomes a quantized one.

mod jacobi;
mod low_rank;
pub mod ptq;
pub mod qvgen;
mod rounding;
mod scope;

pub use low_rank::{LowRank, rebalance, truncated_svd};
pub use rounding::{LayerSpec, Rounding};
pub use scope::{ParseRuleError, Rule, Scope};
