//! Layers every model shares, and how they get their parameters.
//!
//! A sequence of tokens is a `[tokens, dim]` tensor, or several of them in token order where one
//! would exceed what a device can bind ([`Limits`]). There is no batch dimension: the second
//! branch of classifier-free guidance is a second call.

mod activation;
mod attention;
mod channel_norm;
mod conv;
mod full_linear;
mod fusion;
mod group_norm;
mod head_norm;
mod host_linear;
mod host_weights;
mod limits;
mod linear;
mod linear_input;
mod norm;
mod observed_linear;
mod quant_aware_linear;
mod rope;
mod run_clock;
mod timestep;
mod token_path;
mod trace;
mod transform;
mod weights;

pub use crate::kernels::{MemoryWatch, concatenate, in_a_row, relative_attention};
pub use activation::{gelu_tanh, silu};
pub use attention::{AttentionPrecision, KeysValues, MAX_HEAD_DIM, MultiHeadAttention};
pub use channel_norm::ChannelNorm;
pub use conv::{Conv3d, ConvPrecision, ConvShape};
pub use full_linear::FullLinear;
pub use group_norm::{ChunkPlace, FrameModulation, GroupNorm};
pub use head_norm::HeadNorm;
pub use host_weights::HostWeights;
pub use limits::{Limits, map_token_chunks};
pub use linear::{FakeQuantLinear, Linear, PackedLinear};
pub use linear_input::{FrameTokens, LinearInput};
pub use norm::{LayerNorm, Modulation, RmsNorm};
pub use observed_linear::{InputObserver, ObservedLinear};
pub use quant_aware_linear::QuantAwareLinear;
pub use rope::{RopeAxis, RopeGrid, Rotation};
pub use run_clock::RunClock;
pub use timestep::timestep_sinusoid;
pub use trace::Trace;
pub use weights::{WeightError, WeightSource, Weights};
