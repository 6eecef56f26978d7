//! What a layer does to its tokens before they are quantized, and to its weight so that nothing
//! but the rounding changes.
//!
//! ```text
//! x̂ = H · ((x − shift) / scale)      Ŵ = W · diag(scale) · Hᵀ      b̂ = b + W · shift
//! x̂ · Ŵᵀ + b̂ = x · Wᵀ + b
//! ```
//!
//! `scale` alone is `SmoothQuant` (arXiv 2211.10438), with `shift` Outlier Suppression+ (arXiv
//! 2304.09145), `H` alone `QuaRot` (arXiv 2404.00456) in blocks.

use super::{HADAMARD_BLOCKS, hadamard};
use rayon::prelude::*;

/// The map of a token to what is quantized.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InputTransform {
    /// `[in_features]`, subtracted from a token.
    pub shift: Option<Vec<f32>>,
    /// `[in_features]`, what a token is divided by.
    pub scale: Option<Vec<f32>>,
    /// Width of the blocks of a Walsh–Hadamard transform, one of [`HADAMARD_BLOCKS`].
    pub hadamard: Option<usize>,
}

impl InputTransform {
    /// Tokens as they are.
    pub const NONE: Self = Self { shift: None, scale: None, hadamard: None };

    /// Whether tokens stay as they are.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// Whether tokens of `in_features` values can be transformed and back.
    ///
    /// # Errors
    ///
    /// Says what does not fit.
    pub fn check(&self, in_features: usize) -> Result<(), String> {
        for (name, row) in [("input_shift", &self.shift), ("input_scale", &self.scale)] {
            let len = row.as_ref().map_or(in_features, Vec::len);
            if len != in_features {
                return Err(format!("{name} has {len} values for {in_features} in_features"));
            }
        }
        let is_usable = |scale: &f32| scale.is_normal() && (1.0 / scale).is_normal();
        if let Some(scale) = self.scale.iter().flatten().find(|scale| !is_usable(scale)) {
            return Err(format!("input_scale holds {scale}, which nothing can be divided by"));
        }
        if let Some(shift) = self.shift.iter().flatten().find(|shift| !shift.is_finite()) {
            return Err(format!("input_shift holds {shift}"));
        }
        match self.hadamard {
            Some(block) => check_hadamard(block, in_features),
            None => Ok(()),
        }
    }

    /// What `scale` divides by, as the factors that kernels multiply with.
    pub fn factor(&self) -> Option<Vec<f32>> {
        self.scale.as_ref().map(|scale| scale.iter().map(|scale| 1.0 / scale).collect())
    }

    /// Transforms tokens `[tokens, in_features]`.
    ///
    /// # Panics
    ///
    /// If a length does not fit.
    pub fn apply(&self, x: &mut [f32], in_features: usize) {
        affine_hadamard(
            x,
            in_features,
            self.shift.as_deref(),
            self.factor().as_deref(),
            self.hadamard,
        );
    }

    /// Transforms a weight `[out_features, in_features]` so that the product stays the same.
    ///
    /// # Panics
    ///
    /// If a length does not fit.
    pub fn fold_weight(&self, weight: &mut [f32], in_features: usize) {
        affine_hadamard(weight, in_features, None, self.scale.as_deref(), self.hadamard);
    }

    /// The bias beside a folded weight; `weight` `[out_features, in_features]` is the original.
    ///
    /// # Panics
    ///
    /// If a length does not fit.
    pub fn fold_bias(&self, weight: &[f32], bias: Option<Vec<f32>>) -> Option<Vec<f32>> {
        let Some(shift) = &self.shift else { return bias };
        let rows = weight.len() / shift.len();
        let bias = bias.unwrap_or_else(|| vec![0.0; rows]);
        assert_eq!(weight.len(), bias.len() * shift.len(), "weight of {} rows", bias.len());
        let add = |(row, bias): (&[f32], f32)| {
            let pairs = row.iter().zip(shift);
            let sum: f64 = pairs.map(|(w, z)| f64::from(*w) * f64::from(*z)).sum();
            (f64::from(bias) + sum) as f32
        };
        Some(weight.chunks_exact(shift.len()).zip(bias).map(add).collect())
    }
}

/// Whether rows of `in_features` consist of blocks of `block` that kernels have.
///
/// # Errors
///
/// Says what does not fit.
pub fn check_hadamard(block: usize, in_features: usize) -> Result<(), String> {
    if !HADAMARD_BLOCKS.contains(&block) {
        return Err(format!("hadamard is {block}, expected one of {HADAMARD_BLOCKS:?}"));
    }
    if !in_features.is_multiple_of(block) {
        return Err(format!("{in_features} in_features are no multiple of hadamard {block}"));
    }
    Ok(())
}

/// `H · ((x − shift) · factor)` of every row, in place: the twin of `shaders/hadamard.wgsl`.
///
/// # Panics
///
/// If a length does not fit.
pub fn affine_hadamard(
    x: &mut [f32],
    in_features: usize,
    shift: Option<&[f32]>,
    factor: Option<&[f32]>,
    block: Option<usize>,
) {
    let lengths = [shift, factor].map(|row| row.map_or(in_features, <[f32]>::len));
    assert_eq!(lengths, [in_features; 2], "lengths of shift and factor");
    x.par_chunks_exact_mut(in_features).for_each(|row| {
        if let Some(shift) = shift {
            row.iter_mut().zip(shift).for_each(|(value, shift)| *value -= shift);
        }
        if let Some(factor) = factor {
            row.iter_mut().zip(factor).for_each(|(value, factor)| *value *= factor);
        }
        if let Some(block) = block {
            hadamard(row, block);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(len: usize, step: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * step).sin() * (1.0 + (i % 5) as f32)).collect()
    }

    fn product(x: &[f32], w: &[f32], bias: &[f32], k: usize) -> Vec<f32> {
        let row = |token: &[f32]| -> Vec<f32> {
            let dot = |w: &[f32]| token.iter().zip(w).map(|(x, w)| x * w).sum::<f32>();
            w.chunks(k).zip(bias).map(|(w, b)| dot(w) + b).collect()
        };
        x.chunks(k).flat_map(row).collect()
    }

    #[test]
    fn without_rounding_nothing_changes() {
        let (m, n, k) = (3, 7, 128);
        let (x, w, bias) = (values(m * k, 0.7), values(n * k, 0.3), values(n, 0.9));
        let expected = product(&x, &w, &bias, k);
        let shift = Some(values(k, 0.11));
        let scale = Some((0..k).map(|i| 0.25 + (i % 9) as f32).collect::<Vec<_>>());
        for hadamard in [None, Some(64), Some(128)] {
            for shift in [None, shift.clone()] {
                for scale in [None, scale.clone()] {
                    let transform =
                        InputTransform { shift: shift.clone(), scale: scale.clone(), hadamard };
                    transform.check(k).unwrap();
                    let (mut x, mut folded) = (x.clone(), w.clone());
                    transform.apply(&mut x, k);
                    transform.fold_weight(&mut folded, k);
                    let bias = transform.fold_bias(&w, Some(bias.clone())).unwrap();
                    let actual = product(&x, &folded, &bias, k);
                    let close = |(a, e): (&f32, &f32)| (a - e).abs() < 2e-3 * (1.0 + e.abs());
                    assert!(actual.iter().zip(&expected).all(close), "{hadamard:?}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_undone_is_refused() {
        let with =
            |scale: f32| InputTransform { scale: Some(vec![scale; 64]), ..Default::default() };
        assert_eq!(with(2.0).check(64), Ok(()));
        for scale in [0.0, f32::NAN, f32::INFINITY, 1e-44, 3e38] {
            assert!(with(scale).check(64).unwrap_err().contains("input_scale"), "{scale}");
        }
        assert!(with(1.0).check(65).unwrap_err().contains("65"));
        let rotation = |block| InputTransform { hadamard: Some(block), ..Default::default() };
        assert!(rotation(32).check(64).unwrap_err().contains("[64, 128]"));
        assert!(rotation(128).check(192).unwrap_err().contains("no multiple"));
    }
}
