//! A branch of low rank beside a quantized weight (`SVDQuant`, arXiv 2411.05007):
//!
//! ```text
//! y = Q(x̂)·Q(R)ᵀ + (x̂·downᵀ)·upᵀ
//! ```

use super::{InputTransform, affine_hadamard};
use half::f16;
use rayon::prelude::*;

/// A branch of low rank beside a quantized weight.
///
/// Its values are computed with in f32. [`Self::rounded`] makes them such that f16 holds them, as
/// they are stored.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRankBranch {
    /// Rank.
    pub rank: usize,
    /// `[rank, in_features]`, row-major.
    pub down: Vec<f32>,
    /// `[out_features, rank]`, row-major.
    pub up: Vec<f32>,
}

impl LowRankBranch {
    /// Bytes of a stored value.
    pub const VALUE_BYTES: usize = 2;

    /// The branch with the nearest factors that f16 holds.
    ///
    /// First each row of `down` and its column of `up` are scaled against each other by the power of
    /// two that makes their largest values most alike, which leaves the product as it is: so only a
    /// product of more than 2³¹ becomes infinite, and as few values as can be become too small.
    ///
    /// # Panics
    ///
    /// If a length does not fit.
    #[must_use]
    pub fn rounded(&self) -> Self {
        let k = self.down.len() / self.rank;
        let (mut down, mut up) = (self.down.clone(), self.up.clone());
        for (r, row) in down.chunks_exact_mut(k).enumerate() {
            let most = [largest(row.iter()), largest(up.iter().skip(r).step_by(self.rank))];
            let factor = balance(most);
            row.iter_mut().for_each(|value| *value = half(f64::from(*value) * factor));
            let column = up.iter_mut().skip(r).step_by(self.rank);
            column.for_each(|value| *value = half(f64::from(*value) / factor));
        }
        Self { rank: self.rank, down, up }
    }

    /// The branch of tokens that `transform` has not yet been applied to, and what its shift adds to
    /// the bias: `x̂·downᵀ = x·dᵀ − shift·dᵀ` with `d = down·H·diag(1/scale)`.
    ///
    /// # Panics
    ///
    /// If a length does not fit.
    pub fn before(&self, transform: &InputTransform) -> (Self, Option<Vec<f32>>) {
        let k = self.down.len() / self.rank;
        let mut down = self.down.clone();
        affine_hadamard(&mut down, k, None, None, transform.hadamard);
        affine_hadamard(&mut down, k, None, transform.factor().as_deref(), None);
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let bias = transform.shift.as_ref().map(|shift| {
            let small: Vec<f32> = down.chunks_exact(k).map(|row| -dot(row, shift) as f32).collect();
            self.up.chunks_exact(self.rank).map(|row| dot(row, &small) as f32).collect()
        });
        (Self { down, up: self.up.clone(), rank: self.rank }, bias)
    }

    /// Adds the branch's part of tokens `x` `[tokens, in_features]`, transformed but not quantized,
    /// to `y` `[tokens, out_features]`.
    ///
    /// # Panics
    ///
    /// If a length does not fit.
    pub fn add(&self, x: &[f32], y: &mut [f32]) {
        let (k, n) = (self.down.len() / self.rank, self.up.len() / self.rank);
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        x.par_chunks_exact(k).zip(y.par_chunks_exact_mut(n)).for_each(|(x, y)| {
            let small: Vec<f32> = self.down.chunks_exact(k).map(|row| dot(x, row)).collect();
            for (y, row) in y.iter_mut().zip(self.up.chunks_exact(self.rank)) {
                *y += dot(&small, row);
            }
        });
    }
}

fn largest<'a>(values: impl Iterator<Item = &'a f32>) -> f64 {
    f64::from(values.fold(0.0_f32, |most, value| most.max(value.abs())))
}

/// The power of two by which a row is multiplied, and its column divided, so that their largest
/// values are most alike; one where there is none.
fn balance([row, column]: [f64; 2]) -> f64 {
    let exponent = (column.log2() - row.log2()) / 2.0;
    if exponent.is_finite() { exponent.round().exp2() } else { 1.0 }
}

fn half(value: f64) -> f32 {
    f16::from_f64(value).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(len: usize, step: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * step).sin() * (1.0 + (i % 5) as f32)).collect()
    }

    /// `up·down`, `[out_features, in_features]`.
    fn product(branch: &LowRankBranch) -> Vec<f64> {
        let k = branch.down.len() / branch.rank;
        let entry = |row: &[f32], c: usize| -> f64 {
            let terms = row.iter().zip(branch.down.chunks_exact(k));
            terms.map(|(up, down)| f64::from(*up) * f64::from(down[c])).sum()
        };
        let rows = branch.up.chunks_exact(branch.rank);
        rows.flat_map(|row| (0..k).map(move |c| entry(row, c))).collect()
    }

    fn distance(a: &LowRankBranch, b: &LowRankBranch) -> f64 {
        let (a, b) = (product(a), product(b));
        let most = b.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
        a.iter().zip(&b).fold(0.0_f64, |worst, (a, b)| worst.max((a - b).abs())) / most
    }

    #[test]
    fn rounded_factors_are_those_that_f16_holds() {
        let (rank, k, n) = (3, 40, 11);
        // A row, or its column, far beyond what f16 holds, or below: the product is usual.
        let branch = |scale: f32| {
            let down = values(rank * k, 0.05).into_iter().map(|value| value * scale).collect();
            let up = values(n * rank, 0.2).into_iter().map(|value| value / scale).collect();
            LowRankBranch { rank, down, up }
        };
        let is_half = |value: &f32| half(f64::from(*value)) == *value;
        for scale in [1.0, 1e-7, 1e9, 1e30] {
            let (original, rounded) = (branch(scale), branch(scale).rounded());
            assert!(rounded.down.iter().chain(&rounded.up).all(is_half), "{scale}");
            let error = distance(&rounded, &original);
            assert!(error < 2e-3, "{scale}: {error}");
            assert_eq!(rounded.rounded(), rounded, "{scale}");
        }
    }

    #[test]
    fn what_f16_cannot_hold_becomes_zero_or_infinite_and_nothing_else() {
        let branch = |down: f32, up: f32| LowRankBranch { rank: 1, down: vec![down], up: vec![up] };
        assert_eq!(branch(0.0, 5.0).rounded(), branch(0.0, 5.0));
        assert_eq!(branch(1e-20, 1e-20).rounded(), branch(0.0, 0.0));
        let large = branch(2e20, 1e-11);
        assert!(distance(&large.rounded(), &large) < 1e-3);
        assert!(branch(1e10, 1e10).rounded().down[0].is_infinite());
    }

    #[test]
    fn a_branch_may_come_before_the_transform() {
        let (m, n, k, rank) = (3, 7, 128, 2);
        let transform = InputTransform {
            shift: Some(values(k, 0.11)),
            scale: Some((0..k).map(|i| 0.25 + (i % 9) as f32).collect()),
            hadamard: Some(64),
        };
        let branch =
            LowRankBranch { rank, down: values(rank * k, 0.05), up: values(n * rank, 0.2) };
        let x = values(m * k, 0.7);
        let (mut transformed, mut expected) = (x.clone(), vec![0.0; m * n]);
        transform.apply(&mut transformed, k);
        branch.add(&transformed, &mut expected);
        let (before, bias) = branch.before(&transform);
        let mut actual = bias.unwrap().repeat(m);
        before.add(&x, &mut actual);
        let close = |(a, e): (&f32, &f32)| (a - e).abs() < 1e-3 * (1.0 + e.abs());
        assert!(actual.iter().zip(&expected).all(close), "{actual:?} {expected:?}");
    }

    #[test]
    fn a_branch_adds_the_product_of_its_factors() {
        let branch = LowRankBranch {
            rank: 2,
            down: vec![1.0, 2.0, 0.0, -1.0, 0.5, 1.0],
            up: vec![1.0, 0.0, 2.0, 3.0],
        };
        let mut y = vec![10.0, 20.0];
        branch.add(&[1.0, 1.0, 2.0], &mut y);
        // down · x = [3, 1.5]
        assert_eq!(y, [13.0, 20.0 + 6.0 + 4.5]);
    }
}
