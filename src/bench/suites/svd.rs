//! Low-rank factors, as QVGen computes them at the start and whenever it halves the rank.

use super::{Selection, not_run, read};
use crate::bench::{Entry, Failure, Identity, Job, Suite, Verified, Work};
use crate::method::{LowRank, truncated_svd};
use burn::tensor::{Device, Tensor, TensorData};

const RANK: usize = 32;
/// Vectors of the iteration, and products with the matrix and its transpose.
const PANEL: usize = RANK + 16;
const PRODUCTS: usize = 13;
/// The error may exceed the smallest possible by this part.
const EXCESS: f64 = 0.01;

pub(super) fn entries(selection: &Selection) -> Vec<Entry> {
    let shapes = match (selection.is_quick, selection.model.is_pocket()) {
        (true, true) => vec![[160, 192]],
        (true, _) => vec![[1536, 1536]],
        (false, _) if selection.block_tokens < 1000 => vec![[512, 1536]],
        (false, _) => vec![[1536, 1536], [1536, 8960]],
    };
    shapes.into_iter().map(entry).collect()
}

fn entry([rows, columns]: [usize; 2]) -> Entry {
    let parameters = [("rows", rows), ("columns", columns), ("rank", RANK)];
    let case = format!("{rows} x {columns}, rank {RANK}");
    let identity = Identity::new(Suite::Svd, case, "truncated_svd", "f32", &parameters);
    let len = (rows * columns) as f64;
    let work = Work {
        f32_ops: 2.0 * len * (PANEL * PRODUCTS) as f64,
        bytes: 4.0 * len * PRODUCTS as f64,
        ..Work::default()
    };
    Entry::new(identity, work, rows * columns, move |device| {
        Ok(Box::new(Factor::new([rows, columns], device)))
    })
}

struct Factor {
    w: Tensor<2>,
    /// The smallest possible error.
    optimum: f64,
    y: Option<LowRank>,
}

impl Factor {
    fn new(shape: [usize; 2], device: &Device) -> Self {
        let count = shape[0].min(shape[1]);
        // Slowly declining values, as those of a rounding error: the hard case.
        let s: Vec<f32> = (0..count).map(|i| 1.0 - 0.9 * i as f32 / count as f32).collect();
        let optimum = s.iter().skip(RANK).map(|&s| f64::from(s * s)).sum::<f64>().sqrt();
        let mut w = vec![0.0; shape[0] * shape[1]];
        s.iter().enumerate().for_each(|(i, s)| w[i * shape[1] + i] = *s);
        let mut w = Tensor::<2>::from_data(TensorData::new(w, shape), device);
        for seed in 0..3 {
            w = reflect(reflect(w, seed).transpose(), seed + 5).transpose();
        }
        Self { w, optimum, y: None }
    }
}

/// `w − 2 u (uᵀ w)` with a unit vector `u` as long as the columns: singular values stay.
fn reflect(w: Tensor<2>, seed: usize) -> Tensor<2> {
    let [rows, _] = w.dims();
    let u: Vec<f32> = (0..rows).map(|i| ((i * (2 * seed + 1)) as f32 * 0.7).sin()).collect();
    let u = Tensor::<2>::from_data(TensorData::new(u, [rows, 1]), &w.device());
    let squared = u.clone().square().sum_dim(0);
    let projected = u.clone().transpose().matmul(w.clone()) / squared;
    w - u.matmul(projected) * 2.0
}

impl Job for Factor {
    fn run(&mut self) {
        self.y = Some(truncated_svd(self.w.clone(), RANK, 0).0);
    }

    fn verify(&mut self) -> Result<Verified, Failure> {
        let factors = self.y.as_ref().ok_or_else(not_run)?;
        let rest = self.w.clone() - factors.product();
        let squares = read(rest.square().sum_dim(1))?;
        let error = squares.into_iter().map(f64::from).sum::<f64>().sqrt();
        Verified::within((error / self.optimum - 1.0).max(0.0), EXCESS)
    }
}
