//! The Wan 2.1 text-to-video transformer (Wan Team, arXiv:2503.20314).

mod block;
mod config;
mod denoiser;
mod embedder;
mod family;
mod head;
mod stages;
mod transformer;

pub use block::{BlockTimestep, WanBlock};
pub use config::WanConfig;
pub use embedder::{WanEmbedder, rotations};
pub use family::Wan;
pub use head::WanHead;
pub use transformer::{TextContext, TimestepContext, WanTransformer};
