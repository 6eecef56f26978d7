//! The Wan 2.1 text-to-video transformer (Wan Team, arXiv:2503.20314).

mod block;
mod config;
mod transformer;

pub use config::WanConfig;
pub use transformer::{TextContext, WanTransformer};
