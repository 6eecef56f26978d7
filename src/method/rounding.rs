//! Rounding to the nearest code: post-training quantization without data.
//!
//! Weights get one grid per output channel or group, by min-max or by the MSE search that also
//! starts QVGen's training; activations are quantized per token from their live range.

use super::Scope;
use crate::quant::{Bits, Calibration, Precision, Scheme, TokenRange, TokenSpec, WeightSpec};

/// How weights and activations are rounded, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Rounding {
    /// Widths by layer.
    pub scope: Scope,
    /// Range to grid of the weights.
    pub weight_scheme: Scheme,
    /// Elements of a row that share a grid; `None` for one grid per output channel.
    pub group_size: Option<usize>,
    /// How the range of a weight is found.
    pub calibration: Calibration,
    /// Range to grid of the activations.
    pub token_scheme: Scheme,
    /// Where the range of the activations comes from.
    pub token_range: TokenRange,
}

/// How one layer is quantized.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerSpec {
    /// The weight.
    pub weights: WeightSpec,
    /// The activations; `None` for weight-only.
    pub activations: Option<TokenSpec>,
}

impl Rounding {
    /// QVGen's grids (real zero points found by the MSE search), per channel and per token.
    pub fn new(scope: Scope) -> Self {
        Self {
            scope,
            weight_scheme: Scheme::AsymmetricReal,
            group_size: None,
            calibration: Calibration::Mse,
            token_scheme: Scheme::Asymmetric,
            token_range: TokenRange::FULL,
        }
    }

    /// How layer `name` is quantized; `None` if it stays in full precision.
    pub fn layer(&self, name: &str) -> Option<LayerSpec> {
        let precision = self.scope.of(name);
        let activations =
            |bits: Bits| TokenSpec { bits, scheme: self.token_scheme, range: self.token_range };
        precision.weights.map(|bits| LayerSpec {
            weights: WeightSpec {
                bits,
                scheme: self.weight_scheme,
                group_size: self.group_size,
                calibration: self.calibration,
            },
            activations: precision.activations.map(activations),
        })
    }
}

impl Rounding {
    /// The precision of the quantized layers among `names`: one, `mixed (…)`, or `full`.
    pub fn precision_of<'a>(&self, names: impl Iterator<Item = &'a str>) -> String {
        Precision::summary(names.map(|name| self.scope.of(name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_follow_the_scope() {
        let rounding = Rounding::new(Scope::recommended("w3a4".parse().unwrap(), &["proj_out"]));
        let spec = rounding.layer("blocks.0.attn1.to_q").unwrap();
        assert_eq!(spec.weights.bits, Bits::B3);
        assert_eq!(spec.activations.unwrap().bits, Bits::B4);
        assert_eq!(rounding.layer("proj_out"), None);
    }

    #[test]
    fn the_precision_is_that_of_the_quantized_layers() {
        let mut scope = Scope::recommended("w4a4".parse().unwrap(), &["proj_out"]);
        let names = ["blocks.0.a", "blocks.1.a", "proj_out"];
        let of = |scope: &Scope| Rounding::new(scope.clone()).precision_of(names.into_iter());
        assert_eq!(of(&scope), "w4a4");
        scope.rules.push("blocks.1.*=w8a8".parse().unwrap());
        assert_eq!(of(&scope), "mixed (w4a4, w8a8)");
        assert_eq!(of(&Scope::every_layer("full".parse().unwrap())), "full");
    }

    #[test]
    fn weight_only_leaves_activations_alone() {
        let rounding = Rounding::new(Scope::every_layer("w4a16".parse().unwrap()));
        assert_eq!(rounding.layer("x").unwrap().activations, None);
    }
}
