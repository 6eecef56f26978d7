//! Every method that is compared, as settings of one trainer.

use super::Annealing;
use crate::quant::Scheme;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What the student's prediction is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// The velocity `ε − x₀` of the data; no teacher is needed.
    GroundTruth,
    /// The full-precision model's prediction.
    Distillation,
    /// `λ(t)` times the second and `1 − λ(t)` times the first, with
    /// `λ(t) = (exp(a(1 − t)) − 1) / (exp(a) − 1)` and `t` from 0 (noise) to 1 (data): `DSAQuant`.
    Mixed {
        /// `a`; 5 in the paper.
        sharpness: f64,
    },
}

impl Loss {
    /// Weight of the teacher's prediction at noise level `sigma` in 0..1.
    pub fn teacher_weight(self, sigma: f64) -> f64 {
        match self {
            Self::GroundTruth => 0.0,
            Self::Distillation => 1.0,
            Self::Mixed { sharpness } => (sharpness * sigma).exp_m1() / sharpness.exp_m1(),
        }
    }
}

/// What is trained beside the quantized weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Auxiliary {
    /// Nothing.
    None,
    /// Φ with rank decay.
    Phi {
        /// Ranks, one per phase.
        ranks: Vec<usize>,
        /// How a rank goes.
        annealing: Annealing,
        /// Whether a phase starts with a new decomposition.
        redecompose: bool,
    },
    /// Low-rank factors inside the quantizer; the weight itself stays as it was.
    Lora {
        /// Rank.
        rank: usize,
    },
}

/// How a student is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    /// What is compared.
    pub loss: Loss,
    /// What is trained besides.
    pub auxiliary: Auxiliary,
    /// Grid of the weights: whether it is symmetric.
    pub symmetric_weights: bool,
    /// Share of the last sampling steps that leave the negative prompt out.
    pub late_guidance_drop: f64,
}

/// The methods by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Learned step sizes against the data (LSQ+).
    Lsq,
    /// Learned step sizes against a teacher (Q-DM without its timestep-wise normalization).
    QDm,
    /// A mergeable LoRA inside the quantizer, against a teacher.
    EfficientDm,
    /// Φ and rank decay.
    Qvgen,
    /// QVGen whose Φ stays: the upper bound that inference would pay for.
    QvgenKept,
    /// QVGen that removes Φ in one phase (λ = 1).
    QvgenOneShot,
    /// QVGen without re-decomposition, as the released setup behaves.
    QvgenStale,
    /// QVGen with symmetric weights.
    QvgenSymmetric,
    /// QVGen with `u` falling linearly.
    QvgenLinear,
    /// The mixed loss, symmetric weights and late guidance drop; no Φ.
    DsaQuant,
    /// QVGen with the mixed loss and late guidance drop of `DSAQuant`.
    QvgenMixed,
}

impl Method {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 11] = [
        Self::Lsq,
        Self::QDm,
        Self::EfficientDm,
        Self::QvgenKept,
        Self::Qvgen,
        Self::QvgenOneShot,
        Self::QvgenStale,
        Self::QvgenLinear,
        Self::QvgenSymmetric,
        Self::DsaQuant,
        Self::QvgenMixed,
    ];

    /// Name in files and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lsq => "lsq",
            Self::QDm => "q-dm",
            Self::EfficientDm => "efficient-dm",
            Self::Qvgen => "qvgen",
            Self::QvgenKept => "qvgen-kept",
            Self::QvgenOneShot => "qvgen-one-shot",
            Self::QvgenStale => "qvgen-stale",
            Self::QvgenSymmetric => "qvgen-symmetric",
            Self::QvgenLinear => "qvgen-linear",
            Self::DsaQuant => "dsa-quant",
            Self::QvgenMixed => "qvgen-mixed",
        }
    }

    /// The settings, with Φ (or the LoRA) of rank `rank` and the share `lambda` of it dropped per
    /// phase.
    pub fn recipe(self, rank: usize, lambda: f64) -> Recipe {
        let phi = |annealing, redecompose| Auxiliary::Phi {
            ranks: super::RankSchedule::ranks_from(rank, lambda),
            annealing,
            redecompose,
        };
        let decaying = phi(Annealing::Cosine, true);
        let mixed = Loss::Mixed { sharpness: 5.0 };
        let (loss, auxiliary) = match self {
            Self::Lsq => (Loss::GroundTruth, Auxiliary::None),
            Self::QDm => (Loss::Distillation, Auxiliary::None),
            Self::EfficientDm => (Loss::Distillation, Auxiliary::Lora { rank }),
            Self::Qvgen | Self::QvgenSymmetric => (Loss::Distillation, decaying),
            Self::QvgenKept => {
                let ranks = vec![rank];
                let annealing = Annealing::Never;
                (Loss::Distillation, Auxiliary::Phi { ranks, annealing, redecompose: true })
            }
            Self::QvgenOneShot => {
                let (ranks, annealing) = (vec![rank], Annealing::Cosine);
                (Loss::Distillation, Auxiliary::Phi { ranks, annealing, redecompose: true })
            }
            Self::QvgenStale => (Loss::Distillation, phi(Annealing::Cosine, false)),
            Self::QvgenLinear => (Loss::Distillation, phi(Annealing::Linear, true)),
            Self::DsaQuant => (mixed, Auxiliary::None),
            Self::QvgenMixed => (mixed, decaying),
        };
        Recipe {
            loss,
            auxiliary,
            symmetric_weights: matches!(self, Self::DsaQuant | Self::QvgenSymmetric),
            late_guidance_drop: if matches!(self, Self::DsaQuant | Self::QvgenMixed) {
                0.18
            } else {
                0.0
            },
        }
    }
}

impl Recipe {
    /// Grid of the weights.
    pub fn weight_scheme(&self) -> Scheme {
        if self.symmetric_weights { Scheme::Symmetric } else { Scheme::AsymmetricReal }
    }

    /// Whether a full-precision model has to predict as well.
    pub fn needs_teacher(&self) -> bool {
        self.loss != Loss::GroundTruth
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no method's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no training method; there are {names}", names = Method::ALL.map(Method::name).join(", "))]
pub struct ParseMethodError(String);

impl FromStr for Method {
    type Err = ParseMethodError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|method| method.name() == text);
        found.ok_or_else(|| ParseMethodError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for method in Method::ALL {
            assert_eq!(method.name().parse(), Ok(method));
        }
        assert!("qvgn".parse::<Method>().unwrap_err().to_string().contains("qvgen-one-shot"));
    }

    #[test]
    fn the_mixed_loss_trusts_the_teacher_in_noise_and_the_data_at_the_end() {
        let loss = Loss::Mixed { sharpness: 5.0 };
        assert!(loss.teacher_weight(0.0).abs() < 1e-12);
        assert!((loss.teacher_weight(1.0) - 1.0).abs() < 1e-12);
        assert!((loss.teacher_weight(0.5) - 0.0759).abs() < 1e-3);
        assert!(!Method::Lsq.recipe(32, 0.5).needs_teacher());
    }
}
