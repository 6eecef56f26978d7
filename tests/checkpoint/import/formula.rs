//! The quantizers of the released QVGen code (`training/quant/quant.py`), and a tiny checkpoint in
//! its format.
//!
//! ```text
//! weights, per row:   q = clamp(round(w / s + z), 0, P)                  Qw = s · (q − z)
//! tokens, per token:  max = 0.95 · σ(U[k]) · amax(x), min likewise with D
//!                     s = max((max − min) / P, 1e-9), z = clamp(−round(min / s), 0, P)
//!                     q = clamp(round(x / s) + z, 0, P)                  Qa = s · (q − z)
//! ```

use super::plain_wan::Matrix;
use crate::{Stored, read_reference, wan, write_reference};
use half::bf16;
use qvgen::pipeline::model::VideoModel;
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Clips of a layer.
pub(crate) const GROUPS: usize = 50;

/// Stores values under a name in some type.
pub(crate) type StoreFn = fn(&str, &[usize], &[f32]) -> Stored;

pub(crate) fn bf16s(name: &str, shape: &[usize], values: &[f32]) -> Stored {
    let bytes = values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect();
    Stored::new(name, Dtype::BF16, shape, bytes)
}

pub(crate) fn f32s(name: &str, shape: &[usize], values: &[f32]) -> Stored {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Stored::new(name, Dtype::F32, shape, bytes)
}

pub(crate) fn logit(p: f32) -> f32 {
    (p / (1.0 - p)).ln()
}

/// `top − count`, but at least 0.
pub(crate) fn at_most(top: usize, count: usize) -> usize {
    top.saturating_sub(count)
}

/// A quantized layer before rounding.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) bits: u32,
    pub(crate) weight: Vec<Vec<f32>>,
    pub(crate) bias: Vec<f32>,
    pub(crate) scale: Vec<f32>,
    pub(crate) zero_point: Vec<f32>,
    pub(crate) upper: Vec<f32>,
    pub(crate) lower: Vec<f32>,
}

impl Layer {
    fn top(&self) -> f32 {
        ((1 << self.bits) - 1) as f32
    }

    pub(crate) fn codes(&self, row: usize) -> Vec<u32> {
        let code = |&w: &f32| {
            (w / self.scale[row] + self.zero_point[row]).round_ties_even().clamp(0.0, self.top())
        };
        self.weight[row].iter().map(|w| code(w) as u32).collect()
    }

    pub(crate) fn dequantized(&self, row: usize) -> Vec<f64> {
        let (s, z) = (f64::from(self.scale[row]), f64::from(self.zero_point[row]));
        self.codes(row).into_iter().map(|q| s * (f64::from(q) - z)).collect()
    }

    /// Factors of maximum and minimum in group `k`.
    pub(crate) fn clip(&self, k: usize) -> [f64; 2] {
        [&self.upper, &self.lower].map(|logits| 0.95 / (1.0 + (-f64::from(logits[k])).exp()))
    }
}

/// Tokens as codes.
pub(crate) struct Tokens {
    pub(crate) codes: Vec<Vec<u32>>,
    pub(crate) scales: Vec<f32>,
    pub(crate) zero_points: Vec<f32>,
}

impl Tokens {
    fn row(&self, token: usize) -> Vec<f64> {
        let (s, z) = (f64::from(self.scales[token]), f64::from(self.zero_points[token]));
        self.codes[token].iter().map(|&q| s * (f64::from(q) - z)).collect()
    }
}

/// A trained transformer: the tiny model, every weight on a grid of its own.
#[derive(Clone)]
pub(crate) struct Official {
    bits: u32,
    layers: BTreeMap<String, Layer>,
    /// Everything else, as stored in bf16.
    others: Vec<Stored>,
}

fn rounded(value: f32) -> f32 {
    bf16::from_f32(value).to_f32()
}

impl Official {
    /// The transformer of Wan's fixture; see [`Official::of`].
    pub(crate) fn of_fixture(bits: u32, is_quantized: impl Fn(&str) -> bool) -> Self {
        Self::of(&wan(), bits, is_quantized)
    }

    /// The transformer of the model in `folder` with the linear layers that `is_quantized` on grids
    /// of `bits`.
    pub(crate) fn of(folder: &Path, bits: u32, is_quantized: impl Fn(&str) -> bool) -> Self {
        let linears = VideoModel::open(folder).unwrap().transformer.linears();
        let mut others: BTreeMap<String, Stored> =
            read_reference(&folder.join("transformer/diffusion_pytorch_model.safetensors"))
                .into_iter()
                .map(|tensor| (tensor.name.clone(), tensor))
                .collect();
        let mut layers = BTreeMap::new();
        for (number, linear) in linears.iter().filter(|l| is_quantized(&l.name)).enumerate() {
            let mut take = |part: &str| others.remove(&format!("{}.{part}", linear.name)).unwrap();
            let weight: Vec<Vec<f32>> =
                take("weight").f32().chunks(linear.in_features).map(<[f32]>::to_vec).collect();
            let bias = take("bias").f32();
            layers.insert(linear.name.clone(), Layer::trained(bits, number, weight, &bias));
        }
        // Without any quantized layer, the model itself.
        let others = others.into_values().map(|tensor| {
            if layers.is_empty() {
                tensor
            } else {
                bf16s(&tensor.name, &tensor.shape, &tensor.f32())
            }
        });
        Self { bits, others: others.collect(), layers }
    }

    pub(crate) fn layer(&self, name: &str) -> &Layer {
        &self.layers[name]
    }

    pub(crate) fn edit(&mut self, name: &str, change: impl FnOnce(&mut Layer)) {
        change(self.layers.get_mut(name).unwrap());
    }

    /// Every tensor of the checkpoint; what quantizes a layer is stored by `store`.
    pub(crate) fn tensors(&self, store: StoreFn) -> Vec<Stored> {
        let mut tensors = self.others.clone();
        for (name, layer) in &self.layers {
            let (n, k) = (layer.weight.len(), layer.weight[0].len());
            let mut add = |part: &str, shape: &[usize], values: &[f32]| {
                tensors.push(store(&format!("{name}.{part}"), shape, values));
            };
            add("w", &[n, k], &layer.weight.concat());
            add("b", &[n], &layer.bias);
            add("wquantizer.scale", &[n, 1], &layer.scale);
            add("wquantizer.zero_point", &[n, 1], &layer.zero_point);
            add("aquantizer.upper", &[GROUPS], &layer.upper);
            add("aquantizer.lower", &[GROUPS], &layer.lower);
        }
        tensors
    }

    pub(crate) fn write(&self, folder: &Path) {
        self.write_with(folder, bf16s);
    }

    pub(crate) fn write_with(&self, folder: &Path, store: StoreFn) {
        let folder = folder.join("transformer");
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("diffusion_pytorch_model.safetensors");
        write_reference(&file, &self.tensors(store));
    }

    /// The tensors that are no quantized layers, in f32.
    pub(crate) fn plain_tensors(&self) -> Vec<Stored> {
        let to_f32 = |tensor: &Stored| match tensor.dtype {
            Dtype::F32 => tensor.clone(),
            _ => f32s(&tensor.name, &tensor.shape, &of_bf16(tensor)),
        };
        self.others.iter().map(to_f32).collect()
    }

    /// Mean of the clips of every layer, which all have the same logits in other order.
    pub(crate) fn mean_clip(&self) -> [f64; 2] {
        let layer = self.layers.values().next().unwrap();
        let sum =
            (0..GROUPS).map(|k| layer.clip(k)).fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]);
        sum.map(|sum| sum / GROUPS as f64)
    }

    /// `Qa` of the tokens `x` with these factors of maximum and minimum.
    pub(crate) fn tokens(&self, x: &Matrix, clip: [f64; 2]) -> Tokens {
        let top = ((1 << self.bits) - 1) as f32;
        let mut tokens = Tokens { codes: vec![], scales: vec![], zero_points: vec![] };
        for row in x {
            let row: Vec<f32> = row.iter().map(|&v| v as f32).collect();
            let (min, max) = row.iter().fold((row[0], row[0]), |(a, b), &v| (a.min(v), b.max(v)));
            let (max, min) = (clip[0] as f32 * max, clip[1] as f32 * min);
            let scale = ((max - min) / top).max(1e-9);
            let zero_point = (-(min / scale).round_ties_even()).clamp(0.0, top);
            let code =
                |&v: &f32| ((v / scale).round_ties_even() + zero_point).clamp(0.0, top) as u32;
            tokens.codes.push(row.iter().map(code).collect());
            tokens.scales.push(scale);
            tokens.zero_points.push(zero_point);
        }
        tokens
    }

    /// `Qa(x) · Qw(W)ᵀ + b` of layer `name` with these factors of maximum and minimum.
    pub(crate) fn linear(&self, name: &str, x: &Matrix, clip: [f64; 2]) -> Matrix {
        let layer = self.layer(name);
        let tokens = self.tokens(x, clip);
        let weights: Matrix = (0..layer.weight.len()).map(|row| layer.dequantized(row)).collect();
        (0..x.len())
            .map(|token| {
                let x = tokens.row(token);
                let dot = |w: &Vec<f64>| w.iter().zip(&x).map(|(w, x)| w * x).sum::<f64>();
                weights.iter().zip(&layer.bias).map(|(w, &b)| dot(w) + f64::from(b)).collect()
            })
            .collect()
    }

    /// The same with the clips of a group, or with their mean; in full precision where the layer
    /// is not quantized.
    pub(crate) fn linear_in(&self, name: &str, x: &Matrix, group: Option<usize>) -> Matrix {
        let Some(layer) = self.layers.get(name) else { return self.full_linear(name, x) };
        self.linear(name, x, group.map_or_else(|| self.mean_clip(), |k| layer.clip(k)))
    }

    /// `x · Wᵀ + b` of a layer that is not quantized.
    pub(crate) fn full_linear(&self, name: &str, x: &Matrix) -> Matrix {
        let tensor = |part: &str| -> Vec<f64> {
            let name = format!("{name}.{part}");
            let tensors = self.plain_tensors();
            let tensor = tensors.iter().find(|tensor| tensor.name == name).unwrap();
            tensor.f32().into_iter().map(f64::from).collect()
        };
        let (weight, bias) = (tensor("weight"), tensor("bias"));
        x.iter().map(|x| super::plain_wan::product(&weight, &bias, x)).collect()
    }
}

fn of_bf16(tensor: &Stored) -> Vec<f32> {
    tensor.bytes.as_chunks().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32()).collect()
}

impl Layer {
    /// A layer as training might have left it: a grid that cuts a little off both ends, a zero
    /// point between two codes, clips that differ by group; all numbers as bf16 holds them.
    fn trained(bits: u32, number: usize, weight: Vec<Vec<f32>>, bias: &[f32]) -> Self {
        let top = ((1 << bits) - 1) as f32;
        let grid = |row: &Vec<f32>| {
            let (min, max) = row.iter().fold((0.0_f32, 0.0_f32), |(a, b), &w| (a.min(w), b.max(w)));
            let scale = rounded(0.93 * (max - min) / top);
            (scale, rounded(-0.93 * min / scale + 0.2))
        };
        let (scale, zero_point) = weight.iter().map(grid).unzip();
        let clips = |turn: usize| -> Vec<f32> {
            let value = |k: usize| 2.9 + 1.5 * (0.4 * ((k + number + turn) % GROUPS) as f32).sin();
            (0..GROUPS).map(|k| rounded(value(k))).collect()
        };
        Self {
            bits,
            weight: weight.into_iter().map(|row| row.into_iter().map(rounded).collect()).collect(),
            bias: bias.iter().map(|&b| rounded(b)).collect(),
            scale,
            zero_point,
            upper: clips(0),
            lower: clips(17),
        }
    }
}
