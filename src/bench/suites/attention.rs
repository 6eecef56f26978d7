//! Softmax attention of all heads, in every precision of this crate's and by Burn's best.

use super::{Selection, check_finite, has_f16, not_run, read};
use crate::bench::random::{self, indices, sampled};
use crate::bench::{Baseline, Entry, Failure, Identity, Job, Suite, Verified, Work};
use crate::kernels::Element;
use crate::kernels::attention::{Form, Params};
use crate::kernels::attention_int8::AttentionInt8;
use crate::kernels::device::OpenDevice;
use crate::nn::{AttentionPrecision, KeysValues, MultiHeadAttention};
use burn::tensor::module::attention as burn_attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Device, Tensor, TensorData};
use rayon::prelude::*;

/// Queries that are recomputed.
const SAMPLES: usize = 6;

#[derive(Clone, Copy, Debug)]
struct Shape {
    queries: usize,
    keys: usize,
    heads: usize,
    head_dim: usize,
}

/// How it is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// By this crate.
    Own(AttentionPrecision),
    /// By Burn, so many heads at once.
    Burn(DType, usize),
}

impl Way {
    /// Kernel and precision in tables.
    fn names(self) -> [&'static str; 2] {
        match self {
            Self::Own(AttentionPrecision::Exact) => ["attention", "f32"],
            Self::Own(AttentionPrecision::F16) => ["attention", "f16"],
            Self::Own(AttentionPrecision::Int8) => ["attention", "int8"],
            Self::Burn(DType::F16, _) => ["burn attention", "f16"],
            Self::Burn(..) => ["burn attention", "f32"],
        }
    }

    /// The type of its operands; they are converted before, as a model's previous operation does.
    fn dtype(self) -> DType {
        match self {
            Self::Own(precision) => precision.dtype(),
            Self::Burn(dtype, _) => dtype,
        }
    }

    /// Largest difference from f64, relative to the largest result.
    ///
    /// f32: rounding of the sums. f16: operands are rounded by 5e-4 at most, which moves scores of
    /// some units by as many thousandths; Burn's f16 also sums in f16. int8: half a step of 8-bit
    /// queries and keys, 0.9 % of the result's root mean square in the mean, and at worst about
    /// nine times that, of results whose largest is three times it.
    fn tolerance(self) -> f64 {
        match self {
            Self::Own(AttentionPrecision::Int8) => 5e-2,
            Self::Own(AttentionPrecision::F16) => 5e-3,
            Self::Burn(DType::F16, _) => 2e-2,
            _ => 1e-3,
        }
    }
}

pub(super) fn entries(selection: &Selection, open: &OpenDevice) -> Vec<Entry> {
    let config = &selection.model.config;
    let (heads, head_dim) = (config.heads(), config.dim() / config.heads());
    let has_f16 = open.adapter.is_some() && has_f16(&open.device);
    let mut entries = Vec::new();
    for &queries in &selection.tokens {
        let mut lengths = vec![queries];
        if !selection.is_quick {
            lengths.push(selection.model.text_tokens);
        }
        lengths.dedup();
        for keys in lengths {
            let shape = Shape { queries, keys, heads, head_dim };
            let own = |precision| entry(shape, Way::Own(precision));
            entries.push(own(AttentionPrecision::Exact).as_baseline(Baseline::F32));
            entries.extend(has_f16.then(|| own(AttentionPrecision::F16)));
            // Other heads are computed exactly.
            let has_int8 = open.adapter.is_some() && AttentionInt8::takes(head_dim);
            entries.extend(has_int8.then(|| own(AttentionPrecision::Int8)));
            // Burn keeps all scores: as many heads at once as the device can bind, in equal parts.
            let most = (open.max_elements() / (queries * keys).max(1)).min(heads);
            let at_once = (1..=most).rev().find(|at_once| heads.is_multiple_of(*at_once));
            let burn = |dtype| entry(shape, Way::Burn(dtype, at_once.unwrap_or(0)));
            entries.push(burn(DType::F32).as_baseline(Baseline::Burn));
            let half = has_f16.then(|| burn(DType::F16).as_baseline(Baseline::BurnF16));
            entries.extend(half);
        }
    }
    entries
}

fn entry(shape: Shape, way: Way) -> Entry {
    let Shape { queries, keys, heads, head_dim } = shape;
    let parameters =
        [("queries", queries), ("keys", keys), ("heads", heads), ("head_dim", head_dim)];
    let case = format!("{queries} x {keys} x {heads} x {head_dim}");
    let [kernel, precision] = way.names();
    let identity = Identity::new(Suite::Attention, case, kernel, precision, &parameters);
    let scores = match way {
        Way::Burn(_, at_once) => at_once.max(1) * queries * keys,
        Way::Own(_) => 0,
    };
    let largest = (queries.max(keys) * heads * head_dim).max(scores);
    Entry::new(identity, work(shape, way), largest, move |device| Attend::boxed(shape, way, device))
}

/// The least that it takes; the result of this crate's is f32 in every precision.
fn work(Shape { queries, keys, heads, head_dim }: Shape, way: Way) -> Work {
    let width = (heads * head_dim) as f64;
    let product = 2.0 * queries as f64 * keys as f64 * width;
    let [inputs, result] = [(queries + 2 * keys) as f64 * width, queries as f64 * width];
    let work = Work::default();
    match way {
        Way::Own(AttentionPrecision::Int8) => {
            Work { integer_ops: product, f32_ops: product, bytes: 4.0 * (inputs + result), ..work }
        }
        Way::Own(AttentionPrecision::F16) => {
            Work { f16_ops: 2.0 * product, bytes: 2.0 * inputs + 4.0 * result, ..work }
        }
        Way::Burn(DType::F16, _) => {
            Work { f16_ops: 2.0 * product, bytes: 2.0 * (inputs + result), ..work }
        }
        _ => Work { f32_ops: 2.0 * product, bytes: 4.0 * (inputs + result), ..work },
    }
}

struct Attend {
    shape: Shape,
    way: Way,
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    rows: Vec<usize>,
    expected: Vec<f32>,
    y: Option<Tensor<2>>,
}

impl Attend {
    fn boxed(shape: Shape, way: Way, device: &Device) -> Result<Box<dyn Job>, Failure> {
        let width = shape.heads * shape.head_dim;
        let rows = sampled(shape.queries, SAMPLES, 1);
        // Wide enough that some keys matter more than others.
        let [q, k, v] = [(shape.queries, 1), (shape.keys, 2), (shape.keys, 3)]
            .map(|(len, seed)| random::values(len * width, seed, 2.0));
        let expected =
            rows.iter().flat_map(|row| exact(shape, &q[row * width..(row + 1) * width], &k, &v));
        let expected = expected.collect();
        let upload = |values: Vec<f32>| {
            let shape = [values.len() / width, width];
            let values = Tensor::<2>::from_data(TensorData::new(values, shape), device);
            if way.dtype() == DType::F32 { values } else { values.cast(way.dtype()) }
        };
        let (q, k, v) = (upload(q), upload(k), upload(v));
        Ok(Box::new(Self { shape, way, q, k, v, rows, expected, y: None }))
    }

    fn scale(&self) -> f64 {
        1.0 / (self.shape.head_dim as f64).sqrt()
    }

    fn burn(&self, at_once: usize) -> Tensor<2> {
        let Shape { heads, head_dim, .. } = self.shape;
        let split = |t: &Tensor<2>, first: usize| {
            let rows = t.dims()[0];
            let t = t.clone().narrow(1, first * head_dim, at_once * head_dim);
            t.reshape([1, rows, at_once, head_dim]).swap_dims(1, 2)
        };
        let parts = (0..heads).step_by(at_once).map(|first| {
            let [q, k, v] = [&self.q, &self.k, &self.v].map(|t| split(t, first));
            let options =
                AttentionModuleOptions { scale: Some(self.scale()), ..Default::default() };
            let o = burn_attention(q, k, v, None, None, options);
            let queries = self.shape.queries;
            o.swap_dims(1, 2).reshape([queries, at_once * head_dim])
        });
        Tensor::cat(parts.collect(), 1)
    }
}

/// One query's result for every head, in f64.
fn exact(shape: Shape, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
    let Shape { heads, head_dim, .. } = shape;
    let (width, scale) = (heads * head_dim, 1.0 / (head_dim as f64).sqrt());
    (0..heads)
        .into_par_iter()
        .flat_map_iter(|head| {
            let of_head =
                |row: usize| row * width + head * head_dim..row * width + (head + 1) * head_dim;
            let q = &q[head * head_dim..(head + 1) * head_dim];
            let dot = |k: &[f32]| -> f64 {
                q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum()
            };
            let scores: Vec<f64> =
                (0..shape.keys).map(|key| scale * dot(&k[of_head(key)])).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut result = vec![0.0_f64; head_dim];
            for (key, weight) in weights.iter().enumerate() {
                for (sum, v) in result.iter_mut().zip(&v[of_head(key)]) {
                    *sum += weight * f64::from(*v);
                }
            }
            result.into_iter().map(move |sum| (sum / total) as f32)
        })
        .collect()
}

impl Job for Attend {
    fn run(&mut self) {
        self.y = None;
        self.y = Some(match self.way {
            Way::Burn(_, at_once) => self.burn(at_once.max(1)),
            Way::Own(precision) => {
                let Shape { heads, head_dim, .. } = self.shape;
                let parts = [KeysValues { k: self.k.clone(), v: self.v.clone() }];
                let attention = MultiHeadAttention::new(heads, head_dim).with_precision(precision);
                attention.forward(self.q.clone(), &parts)
            }
        });
    }

    fn verify(&mut self) -> Result<Verified, Failure> {
        let y = self.y.clone().ok_or_else(not_run)?;
        let sample = read(y.clone().select(0, indices(&self.rows, &y.device())))?;
        let verified = Verified::compare(&sample, &self.expected, self.way.tolerance())?;
        // The sum of a row of f16 values may leave their range.
        check_finite(if y.dtype() == DType::F32 { y } else { y.cast(DType::F32) })?;
        Ok(verified)
    }

    fn form(&self) -> Option<String> {
        match self.way {
            // It has one.
            Way::Own(AttentionPrecision::Int8) | Way::Burn(..) => None,
            Way::Own(precision) => {
                let element = Element::of(precision.dtype());
                let Shape { queries, keys, heads, head_dim } = self.shape;
                let [queries, keys, heads] = [queries, keys, heads].map(|size| size as u32);
                let params = Params { queries, keys, heads, scale: 1.0 };
                Some(Form::preferred_name(&self.q.device(), head_dim, params, element))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_keys_give_the_mean_of_the_values() {
        let shape = Shape { queries: 1, keys: 4, heads: 2, head_dim: 2 };
        let v: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let y = exact(shape, &[1.0; 4], &[0.5; 16], &v);
        assert_eq!(y, [6.0, 7.0, 8.0, 9.0]);
    }

    #[test]
    fn every_precision_has_its_own_tolerance_and_the_same_operations() {
        let shape = Shape { queries: 10, keys: 20, heads: 2, head_dim: 16 };
        let ways = [
            Way::Own(AttentionPrecision::Exact),
            Way::Own(AttentionPrecision::F16),
            Way::Own(AttentionPrecision::Int8),
        ];
        assert!(ways.windows(2).all(|pair| pair[0].tolerance() < pair[1].tolerance()));
        assert!(ways.iter().all(|way| work(shape, *way).ops() == 4.0 * 10.0 * 20.0 * 32.0));
    }
}
