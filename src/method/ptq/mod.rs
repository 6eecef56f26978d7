//! Post-training quantization: from a full-precision layer and what it was seen to read to codes,
//! without training.
//!
//! | method | paper | stores beside codes and grids | at run time | data |
//! |---|---|---|---|---|
//! | [`minmax`] | — | — | — | — |
//! | [`mse`] | QVGen's initial ranges, arXiv 2505.11497 | — | — | — |
//! | [`bgr`] | `DVD-Quant`, arXiv 2505.18663 | — | — | — |
//! | [`gptq`] | arXiv 2210.17323 §3 | — | — | tokens |
//! | [`smoothquant`] | arXiv 2211.10438 §4 | a scale per channel | a product per value | tokens |
//! | `smoothquant-shift` | the same with the shift of arXiv 2304.09145 | scale and shift | a product and a sum per value | tokens |
//! | [`vidit_q`] | arXiv 2406.02540, static-dynamic | a scale per channel | a product and a rotation | statistics |
//! | [`hadamard`] | `QuaRot`, arXiv 2404.00456, in blocks | — | a rotation: 6 or 7 sums per value | — |
//! | [`svdquant`] | arXiv 2411.05007 §4 | scale, two factors in 16 bits | two thin products | tokens |
//! | [`qvd`] | arXiv 2407.11585, in parts reconstructed | scale and shift, or a log quantizer | a product and a sum, or a table | tokens |
//! | [`auto`] | measured choice among those above | as chosen | as chosen | tokens |
//!
//! Each file reads like its paper and says where it departs. Methods see a layer as a [`Problem`]:
//! its weight, what it shall become, and what is known of its input ([`Observed`]); they return a
//! [`QuantizedLayer`]. Wherever a method searches, it compares the layer's *output*, activations
//! and weights quantized, on three quarters of the tokens; errors that are reported, and by which
//! [`auto`] chooses, are measured on the other quarter.

mod activations;
pub mod auto;
pub mod bgr;
mod cholesky;
pub mod gptq;
mod grids;
pub mod hadamard;
mod measure;
pub mod minmax;
pub mod mse;
mod observed;
mod problem;
pub mod qvd;
mod smoothing;
pub mod smoothquant;
pub mod svdquant;
pub mod td_score_recon;
pub mod vidit_q;

pub use activations::{ActivationGoal, ActivationMode};
pub use measure::{Measures, RangeError, TemporalReport};
pub use observed::{
    ChannelStatistics, Observed, Origin, Place, TIMESTEP_RANGES, range_bounds, timestep_range,
};
pub use problem::{Goal, Problem};
pub use td_score_recon::TdScoreRecon;

use crate::quant::QuantizedLayer;
use serde::Serialize;
use std::fmt;

/// A way to quantize a layer after training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(into = "&'static str")]
pub enum Method {
    /// Ranges are the extremes.
    MinMax,
    /// Ranges of least error.
    #[default]
    Mse,
    /// Grids refined by least squares.
    Bgr,
    /// Errors compensated by later columns.
    Gptq,
    /// Outliers moved from activations to weights.
    SmoothQuant,
    /// The same, and channels centered.
    SmoothQuantShift,
    /// Balanced over timesteps, and rotated.
    ViditQ,
    /// Rotated.
    Hadamard,
    /// With a branch of low rank.
    SvdQuant,
    /// Logarithms of temporal features, channels integrated; reconstructed in parts.
    Qvd,
    /// Whatever is measured to be best.
    Auto,
}

impl Method {
    /// Every method, in the order of the documentation.
    pub const ALL: [Self; 11] = [
        Self::MinMax,
        Self::Mse,
        Self::Bgr,
        Self::Gptq,
        Self::SmoothQuant,
        Self::SmoothQuantShift,
        Self::ViditQ,
        Self::Hadamard,
        Self::SvdQuant,
        Self::Qvd,
        Self::Auto,
    ];

    /// Name on the command line, in files and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MinMax => "minmax",
            Self::Mse => "mse",
            Self::Bgr => "bgr",
            Self::Gptq => "gptq",
            Self::SmoothQuant => "smoothquant",
            Self::SmoothQuantShift => "smoothquant-shift",
            Self::ViditQ => "vidit-q",
            Self::Hadamard => "hadamard",
            Self::SvdQuant => "svdquant",
            Self::Qvd => "qvd",
            Self::Auto => "auto",
        }
    }

    /// One line about it, for help texts.
    pub const fn summary(self) -> &'static str {
        match self {
            Self::MinMax => "Ranges of the weights are their extremes",
            Self::Mse => "Ranges of the weights are those of least error, out of 80",
            Self::Bgr => "Grids of the weights refined by least squares (DVD-Quant)",
            Self::Gptq => "Errors of a column made up for by the columns after it",
            Self::SmoothQuant => "Outliers moved from the activations to the weights",
            Self::SmoothQuantShift => "The same, and channels centered",
            Self::ViditQ => "Channels balanced over all timesteps, then rotated",
            Self::Hadamard => "Activations rotated in blocks of 64 or 128 (QuaRot)",
            Self::SvdQuant => "Smoothed, with a branch of low rank in 16 bits",
            Self::Qvd => {
                "Logarithmic codes for timestep features and integrated channels; the score and the \
                 integration are our reconstructions (td_score_recon, scri_recon)"
            }
            Self::Auto => "Every method measured on every layer, and the best taken",
        }
    }

    /// Whether it looks at the layer's input.
    pub const fn needs_data(self) -> bool {
        !matches!(self, Self::MinMax | Self::Mse | Self::Bgr | Self::Hadamard)
    }

    /// Tokens of each layer's input that it wants to see: a Gram matrix needs more of them.
    pub const fn samples(self) -> usize {
        match self {
            Self::Gptq | Self::Auto => 1024,
            _ => 256,
        }
    }

    /// The layer by this method; [`Method::Auto`] takes the least error on tokens held out.
    ///
    /// # Panics
    ///
    /// If the device fails.
    pub fn solve(self, problem: &Problem<'_>) -> QuantizedLayer {
        match self {
            Self::MinMax => minmax::solve(problem),
            Self::Mse => mse::solve(problem),
            Self::Bgr => bgr::solve(problem),
            Self::Gptq => gptq::solve(problem),
            Self::SmoothQuant => smoothquant::solve(problem, false),
            Self::SmoothQuantShift => smoothquant::solve(problem, true),
            Self::ViditQ => vidit_q::solve(problem),
            Self::Hadamard => hadamard::solve(problem),
            Self::SvdQuant => svdquant::solve(problem),
            Self::Qvd => qvd::solve(problem),
            Self::Auto => auto::solve(problem),
        }
    }
}

impl From<Method> for &'static str {
    fn from(method: Method) -> Self {
        method.name()
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no method has; the message lists those there are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{name}\" is no method: use {}", Method::ALL.map(Method::name).join(", "))]
pub struct ParseMethodError {
    /// The word.
    pub name: String,
}

impl std::str::FromStr for Method {
    type Err = ParseMethodError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|method| method.name() == text.to_lowercase());
        found.ok_or_else(|| ParseMethodError { name: text.to_owned() })
    }
}
