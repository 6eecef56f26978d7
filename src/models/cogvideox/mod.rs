//! The `CogVideoX` text-to-video transformer (Yang et al., arXiv:2408.06072; code: diffusers,
//! `CogVideoXTransformer3DModel`): 2B, 5B and 1.5-5B.
//!
//! Text and video are one sequence, text first: they share every weight and attend to each other,
//! but a timestep does other things to each. They are therefore held apart, as parts of the
//! sequence, and meet in the attention only.

mod block;
mod config;
mod denoiser;
mod embedder;
mod family;
mod head;
mod modulation;
mod positions;
mod stages;
mod transformer;

pub use block::{BlockTimestep, CogVideoXBlock};
pub use config::CogVideoXConfig;
pub use embedder::CogVideoXEmbedder;
pub use family::CogVideoX;
pub use head::CogVideoXHead;
pub use modulation::TokenTimestep;
pub use positions::{Positions, positions};
pub use transformer::{CogVideoXTransformer, TextContext, TimestepContext};
