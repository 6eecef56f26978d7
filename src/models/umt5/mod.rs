//! UMT5, the text encoder of Wan (Chung et al., arXiv:2304.09151; architecture of T5 v1.1,
//! arXiv:1910.10683 and 2002.05202, with relative positions of its own in every block).

mod block;
mod config;
mod encoder;

pub use config::Umt5Config;
pub use encoder::{EncodeError, TokenIds, encode};
