//! Activations to packed codes, as they are and with the step before in the same pass.

use super::{Selection, not_run};
use crate::bench::random::{self, indices, sampled};
use crate::bench::{Entry, Failure, Identity, Job, Suite, Verified, Work};
use crate::kernels::{
    Activation, PackedTensor, TokenTransform, activate, layer_norm, layer_norm_quantize,
    transform_quantize,
};
use crate::quant::{self, Bits, PackedRows, Scheme, TokenRange, TokenSpec};
use crate::quant::{check_hadamard, hadamard, unpack_rows, words_per_row};
use burn::tensor::{Device, Tensor, TensorData};

/// Rows that are recomputed.
const SAMPLES: usize = 24;
/// Width of the blocks of a transform.
const BLOCK: usize = 128;
const EPS: f32 = 1e-6;
/// Codes that may differ by one, where a value lies at a tie to within rounding.
const TIES: f64 = 0.002;

/// What happens to tokens on the way to their codes.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    Gelu,
    Norm,
    Hadamard,
}

impl Before {
    const ALL: [Self; 4] = [Self::Nothing, Self::Gelu, Self::Norm, Self::Hadamard];

    /// Name with the kernel.
    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "quantize_tokens",
            Self::Gelu => "gelu+quantize_tokens",
            Self::Norm => "layer_norm_quantize",
            Self::Hadamard => "hadamard+quantize_tokens",
        }
    }

    /// Whether it is possible, and a step of a model, on rows of `k`, `is_dim` if that is the
    /// model's width.
    fn fits(self, k: usize, is_dim: bool) -> bool {
        match self {
            Self::Nothing | Self::Gelu => true,
            Self::Norm => is_dim,
            Self::Hadamard => check_hadamard(BLOCK, k).is_ok(),
        }
    }

    /// Its plain-Rust twin.
    fn twin(self, mut values: Vec<f32>, [factor, offset]: &[Vec<f32>; 2]) -> Vec<f32> {
        match self {
            Self::Nothing => values,
            Self::Gelu => activate::reference(Activation::GeluTanh, &values),
            Self::Norm => layer_norm::reference(&values, factor, offset, EPS),
            Self::Hadamard => {
                hadamard(&mut values, BLOCK);
                values
            }
        }
    }
}

pub(super) fn entries(selection: &Selection) -> Vec<Entry> {
    let dim = selection.model.config.dim();
    let mut widths: Vec<usize> = selection.shapes().into_iter().map(|(_, k)| k).collect();
    widths.sort_unstable();
    widths.dedup();
    let mut entries = Vec::new();
    for &tokens in &selection.tokens {
        for &k in &widths {
            let bits = selection.bits.iter().filter(|bits| Bits::OF_TOKENS.contains(bits));
            for &bits in bits {
                let before = Before::ALL.into_iter().filter(|before| before.fits(k, k == dim));
                entries.extend(before.map(|before| entry(tokens, k, bits, before)));
            }
        }
    }
    entries
}

fn entry(tokens: usize, k: usize, bits: Bits, before: Before) -> Entry {
    let parameters = [("tokens", tokens), ("in_features", k)];
    let case = format!("{tokens} x {k}");
    let precision = format!("a{bits}");
    let identity = Identity::new(Suite::Quantize, case, before.name(), precision, &parameters);
    let bytes = tokens as f64 * (4 * k + 4 * words_per_row(bits, k) + 12) as f64;
    let work = Work { bytes, ..Work::default() };
    Entry::new(identity, work, tokens * k, move |device| {
        Ok(Box::new(Quantize::new([tokens, k], bits, before, device)))
    })
}

struct Quantize {
    x: Tensor<2>,
    before: Before,
    /// Factor and offset of a norm.
    modulation: [Tensor<1>; 2],
    spec: TokenSpec,
    rows: Vec<usize>,
    expected: PackedRows,
    y: Option<PackedTensor>,
}

impl Quantize {
    fn new([m, k]: [usize; 2], bits: Bits, before: Before, device: &Device) -> Self {
        let spec = TokenSpec { bits, scheme: Scheme::Asymmetric, range: TokenRange::FULL };
        let rows = sampled(m, SAMPLES, 1);
        let values = random::values(m * k, 3, 1.0);
        let modulation = [4, 5].map(|seed| random::values(k, seed, 1.0));
        let some = rows.iter().flat_map(|row| &values[row * k..(row + 1) * k]).copied().collect();
        let some = before.twin(some, &modulation);
        let expected = quant::quantize_tokens(&some, k, spec);
        let modulation = modulation.map(|row| Tensor::from_data(TensorData::new(row, [k]), device));
        let x = Tensor::from_data(TensorData::new(values, [m, k]), device);
        Self { x, before, modulation, spec, rows, expected, y: None }
    }
}

/// The share of codes that differ, if none does by more than one and grids agree; else infinity.
fn difference(actual: &PackedRows, expected: &PackedRows) -> f64 {
    let codes = |rows: &PackedRows| unpack_rows(rows.bits, &rows.codes, rows.in_features);
    let (actual_codes, expected_codes) = (codes(actual), codes(expected));
    let is_grid = actual.grids.len() == expected.grids.len()
        && actual.grids.iter().zip(&expected.grids).all(|(a, e)| {
            (a.scale - e.scale).abs() <= 1e-5 * e.scale && a.zero_point == e.zero_point
        });
    let is_near = actual_codes.iter().zip(&expected_codes).all(|(a, e)| a.abs_diff(*e) <= 1);
    if !is_grid || !is_near || !actual.code_sums_are_right() {
        return f64::INFINITY;
    }
    let different = actual_codes.iter().zip(&expected_codes).filter(|(a, e)| a != e).count();
    different as f64 / expected_codes.len().max(1) as f64
}

impl Job for Quantize {
    fn run(&mut self) {
        self.y = None;
        let (x, spec, none) = (self.x.clone(), self.spec, TokenTransform::default());
        self.y = Some(match self.before {
            Before::Nothing => transform_quantize(x, Activation::Identity, &none, spec),
            Before::Gelu => transform_quantize(x, Activation::GeluTanh, &none, spec),
            Before::Norm => {
                let [factor, offset] = self.modulation.clone();
                layer_norm_quantize(x, factor, offset, EPS, None, spec)
            }
            Before::Hadamard => {
                let blocks = TokenTransform { affine: None, hadamard: Some(BLOCK) };
                transform_quantize(x, Activation::Identity, &blocks, spec)
            }
        });
    }

    fn verify(&mut self) -> Result<Verified, Failure> {
        let y = self.y.clone().ok_or_else(not_run)?;
        let rows = indices(&self.rows, &self.x.device());
        let codes = y.codes.clone().select(0, rows.clone());
        let grid = y.grid.clone().select(0, rows);
        let some = PackedTensor { codes, grid, ..y }.to_rows();
        Verified::within(difference(&some, &self.expected), TIES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::quantize_tokens;

    #[test]
    fn wrong_codes_grids_and_sums_are_noticed() {
        let spec =
            TokenSpec { bits: Bits::B4, scheme: Scheme::Asymmetric, range: TokenRange::FULL };
        let right = quantize_tokens(&random::values(128, 1, 1.0), 64, spec);
        assert_eq!(difference(&right, &right), 0.0);
        let mut wrong = right.clone();
        wrong.codes[3] ^= 0xF0;
        assert_eq!(difference(&wrong, &right), f64::INFINITY);
        let mut wrong = right.clone();
        wrong.grids[1].scale = f32::NAN;
        assert_eq!(difference(&wrong, &right), f64::INFINITY);
        let mut wrong = right.clone();
        wrong.code_sums[0] += 1;
        assert_eq!(difference(&wrong, &right), f64::INFINITY);
    }
}
