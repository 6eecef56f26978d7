//! What an entry is, and what it takes at least.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A group of entries that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Suite {
    /// Products of tokens and a weight.
    Matmul,
    /// Softmax attention.
    Attention,
    /// Tokens to packed codes.
    Quantize,
    /// Steps between products that are passes of their own.
    Passes,
    /// Convolutions of the video decoder.
    Conv,
    /// Low-rank factors of a weight.
    Svd,
    /// One transformer block.
    Block,
    /// One denoising step of a whole model.
    Step,
    /// A step of training a block.
    TrainStep,
}

impl Suite {
    /// Every suite, cheap ones first.
    pub const ALL: [Self; 9] = [
        Self::Matmul,
        Self::Attention,
        Self::Quantize,
        Self::Passes,
        Self::Conv,
        Self::Svd,
        Self::Block,
        Self::Step,
        Self::TrainStep,
    ];

    /// Name on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Matmul => "matmul",
            Self::Attention => "attention",
            Self::Quantize => "quantize",
            Self::Passes => "passes",
            Self::Conv => "conv",
            Self::Svd => "svd",
            Self::Block => "block",
            Self::Step => "step",
            Self::TrainStep => "train-step",
        }
    }

    /// The suite of that name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.name() == name)
    }

    /// What it runs, in a line.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Matmul => "packed, weight-only and full-precision products, and Burn's own",
            Self::Attention => "attention of a model's heads by precision, and Burn's own",
            Self::Quantize => "activations to packed codes, with the step before it in one pass",
            Self::Passes => "norms, rotations and other steps that are passes of their own",
            Self::Conv => "3-D convolutions of the Wan video decoder",
            Self::Svd => "rank-32 factors of a weight, as training computes them",
            Self::Block => "one transformer block of true size, by precision",
            Self::Step => "a whole denoising step with random weights, with its time by kernel",
            Self::TrainStep => "forward and backward pass of a block in training, by method",
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an entry is; equal values on two machines are the same work.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// Group.
    pub suite: Suite,
    /// What is computed, without saying how: a shape such as `256x1536x1536` or a model and size.
    pub case: String,
    /// Which kernel, layer or method computes it.
    pub kernel: String,
    /// Precision of its operands: `f32`, `f16`, `full`, `w4a4`, …
    pub precision: String,
    /// Every size, by name.
    pub parameters: BTreeMap<String, u64>,
}

impl Identity {
    /// An identity; parameters are `(name, size)`.
    pub fn new(
        suite: Suite,
        case: impl Into<String>,
        kernel: &str,
        precision: impl Into<String>,
        parameters: &[(&str, usize)],
    ) -> Self {
        Self {
            suite,
            case: case.into(),
            kernel: kernel.to_owned(),
            precision: precision.into(),
            parameters: parameters
                .iter()
                .map(|(name, size)| ((*name).to_owned(), *size as u64))
                .collect(),
        }
    }

    /// Whether both compute the same, maybe in other ways.
    pub fn is_comparable(&self, other: &Self) -> bool {
        (self.suite, &self.case, &self.parameters) == (other.suite, &other.case, &other.parameters)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.suite, self.kernel, self.precision, self.case)
    }
}

/// The least that an entry's result takes, whatever computes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Multiplications and additions of 32-bit floats, two per product.
    pub f32_ops: f64,
    /// The same of 16-bit floats.
    pub f16_ops: f64,
    /// Multiplications and additions of codes, two per product.
    pub integer_ops: f64,
    /// Bytes read once and written once.
    pub bytes: f64,
}

impl Work {
    /// All operations.
    pub fn ops(&self) -> f64 {
        self.f32_ops + self.f16_ops + self.integer_ops
    }
}

/// What others are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// This crate's own full precision.
    F32,
    /// Burn's operation in f32.
    Burn,
    /// Burn's operation in f16.
    BurnF16,
}

impl Baseline {
    /// Name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Burn => "burn",
            Self::BurnF16 => "burn f16",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_is_found_by_its_name() {
        for suite in Suite::ALL {
            assert_eq!(Suite::of(suite.name()), Some(suite));
            assert_eq!(serde_json::to_value(suite).unwrap(), suite.name());
        }
        assert_eq!(Suite::of("matmuls"), None);
    }
}
