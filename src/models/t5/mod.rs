//! T5 v1.1, the text encoder of `CogVideoX`, and UMT5, that of Wan.
//!
//! Architecture of T5 v1.1 (arXiv:1910.10683 with the gated layers of arXiv:2002.05202). UMT5 (Chung
//! et al., arXiv:2304.09151) has relative positions of its own in every block, T5 one table for all.
//! What comes in between is computed in 32-bit floats: T5's values exceed those of 16 bits.

mod block;
mod config;
mod encoder;

pub use config::{T5Config, T5Variant};
pub use encoder::{EncodeError, TokenIds, encode};
