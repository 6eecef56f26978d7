//! Papers as code: how a full-precision model becomes a quantized one.

mod rounding;
mod scope;

pub use rounding::{LayerSpec, Rounding};
pub use scope::{ParseRuleError, Rule, Scope};
