//! A Wan transformer in plain loops of f64, with any linear layer in place of its own.
//!
//! Nothing here is the library's: it is the yardstick for what is computed with other weights.

use crate::Stored;
use std::collections::BTreeMap;

/// Rows of equal length.
pub(crate) type Matrix = Vec<Vec<f64>>;

/// Computes the layer of that name, without `.weight`.
pub(crate) type LinearFn<'a> = dyn Fn(&str, &Matrix) -> Matrix + 'a;

/// Sizes and parameters that are no linear layers.
pub(crate) struct PlainWan {
    pub(crate) heads: usize,
    pub(crate) freq_dim: usize,
    pub(crate) layers: usize,
    pub(crate) eps: f64,
    tensors: BTreeMap<String, Vec<f64>>,
}

impl PlainWan {
    pub(crate) fn new([heads, freq_dim, layers]: [usize; 3], eps: f64, tensors: &[Stored]) -> Self {
        let values = |tensor: &Stored| tensor.f32().into_iter().map(f64::from).collect();
        let tensors = tensors.iter().map(|tensor| (tensor.name.clone(), values(tensor))).collect();
        Self { heads, freq_dim, layers, eps, tensors }
    }

    fn tensor(&self, name: &str) -> &[f64] {
        self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    fn table(&self, name: &str, added: &[f64]) -> Matrix {
        let values = self.tensor(name);
        let width = values.len() / if name.starts_with("blocks.") { 6 } else { 2 };
        let add = |(i, v): (usize, &f64)| v + added[i % added.len()];
        let sums: Vec<f64> = values.iter().enumerate().map(add).collect();
        sums.chunks(width).map(<[f64]>::to_vec).collect()
    }

    /// The velocity `[channels, frames, height, width]` of a latent of that shape.
    pub(crate) fn forward(
        &self,
        latent: &[f32],
        [channels, frames, height, width]: [usize; 4],
        timestep: f32,
        text: &Matrix,
        linear: &LinearFn<'_>,
    ) -> Vec<f32> {
        let grid = [frames, height / 2, width / 2];
        let at = |c: usize, [t, y, x]: [usize; 3]| ((c * frames + t) * height + y) * width + x;
        let offsets = [[0, 0], [0, 1], [1, 0], [1, 1]];
        let patches = tokens(grid).map(|[t, y, x]| -> Vec<f64> {
            let pixel = |c: usize, [dy, dx]: [usize; 2]| {
                f64::from(latent[at(c, [t, 2 * y + dy, 2 * x + dx])])
            };
            (0..channels).flat_map(|c| offsets.map(|offset| pixel(c, offset))).collect()
        });
        let weight = self.tensor("patch_embedding.weight");
        let bias = self.tensor("patch_embedding.bias");
        let mut hidden: Matrix = patches.map(|patch| product(weight, bias, &patch)).collect();

        let embedder = "condition_embedder";
        let name = |layer: &str| format!("{embedder}.{layer}");
        let sinusoid = vec![sinusoid(timestep, self.freq_dim)];
        let temb = linear(&name("time_embedder.linear_1"), &sinusoid);
        let temb = linear(&name("time_embedder.linear_2"), &map(&temb, silu));
        let modulation = linear(&name("time_proj"), &map(&temb, silu)).remove(0);
        let text = linear(&name("text_embedder.linear_1"), text);
        let text = linear(&name("text_embedder.linear_2"), &map(&text, gelu));

        for block in 0..self.layers {
            self.block(&format!("blocks.{block}"), &mut hidden, &modulation, &text, grid, linear);
        }
        let table = self.table("scale_shift_table", &temb[0]);
        let normed = modulated(&self.layer_norm(&hidden), &table[0], &table[1]);
        let out = linear("proj_out", &normed);
        let mut velocity = vec![0.0; latent.len()];
        for ([t, y, x], patch) in tokens(grid).zip(out) {
            for (pixel, [dy, dx]) in offsets.into_iter().enumerate() {
                for c in 0..channels {
                    let value = patch[pixel * channels + c] as f32;
                    velocity[at(c, [t, 2 * y + dy, 2 * x + dx])] = value;
                }
            }
        }
        velocity
    }

    fn block(
        &self,
        name: &str,
        hidden: &mut Matrix,
        modulation: &[f64],
        text: &Matrix,
        grid: [usize; 3],
        linear: &LinearFn<'_>,
    ) {
        let table = self.table(&format!("{name}.scale_shift_table"), modulation);
        let normed = modulated(&self.layer_norm(hidden), &table[0], &table[1]);
        let attention = format!("{name}.attn1");
        let found = self.attend(&attention, [&normed, &normed], Some(grid), linear);
        add(hidden, &found, Some(&table[2]));

        let (weight, bias) = (format!("{name}.norm2.weight"), format!("{name}.norm2.bias"));
        let mut normed = self.layer_norm(hidden);
        for row in &mut normed {
            let affine = self.tensor(&weight).iter().zip(self.tensor(&bias));
            row.iter_mut().zip(affine).for_each(|(v, (w, b))| *v = *v * w + b);
        }
        let found = self.attend(&format!("{name}.attn2"), [&normed, text], None, linear);
        add(hidden, &found, None);

        let normed = modulated(&self.layer_norm(hidden), &table[3], &table[4]);
        let wide = map(&linear(&format!("{name}.ffn.net.0.proj"), &normed), gelu);
        add(hidden, &linear(&format!("{name}.ffn.net.2"), &wide), Some(&table[5]));
    }

    fn attend(
        &self,
        name: &str,
        [x, y]: [&Matrix; 2],
        grid: Option<[usize; 3]>,
        linear: &LinearFn<'_>,
    ) -> Matrix {
        let normed = |layer: &str, norm: &str, x: &Matrix| {
            let weight = self.tensor(&format!("{name}.{norm}.weight"));
            let mut rows = linear(&format!("{name}.{layer}"), x);
            for (row, position) in rows.iter_mut().zip(positions(grid)) {
                let mean = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
                let scale = 1.0 / (mean + self.eps).sqrt();
                row.iter_mut().zip(weight).for_each(|(v, w)| *v *= scale * w);
                if let Some(position) = position {
                    self.rotate(row, position);
                }
            }
            rows
        };
        let (q, k) = (normed("to_q", "norm_q", x), normed("to_k", "norm_k", y));
        let v = linear(&format!("{name}.to_v"), y);
        let dim = v[0].len() / self.heads;
        let found = q.iter().map(|q| {
            let head = |head: usize| {
                let part = head * dim..(head + 1) * dim;
                let scores: Vec<f64> = k
                    .iter()
                    .map(|k| dot(&q[part.clone()], &k[part.clone()]) / (dim as f64).sqrt())
                    .collect();
                let most = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
                let sum: f64 = weights.iter().sum();
                part.map(|i| v.iter().zip(&weights).map(|(v, w)| v[i] * w / sum).sum())
                    .collect::<Vec<f64>>()
            };
            (0..self.heads).flat_map(head).collect()
        });
        linear(&format!("{name}.to_out.0"), &found.collect())
    }

    /// Turns neighboring channels of every head by the position along one of three axes.
    fn rotate(&self, row: &mut [f64], position: [usize; 3]) {
        let head_dim = row.len() / self.heads;
        let plane = 2 * (head_dim / 6);
        let dims = [head_dim - 2 * plane, plane, plane];
        for head in row.chunks_mut(head_dim) {
            let mut pairs = head.chunks_mut(2);
            for (dim, position) in dims.into_iter().zip(position) {
                for j in 0..dim / 2 {
                    let angle = position as f64 * 10_000_f64.powf(-2.0 * j as f64 / dim as f64);
                    let pair = pairs.next().expect("the axes fill a head");
                    let (a, b) = (pair[0], pair[1]);
                    pair[0] = a * angle.cos() - b * angle.sin();
                    pair[1] = a * angle.sin() + b * angle.cos();
                }
            }
        }
    }

    fn layer_norm(&self, rows: &Matrix) -> Matrix {
        let norm = |row: &Vec<f64>| {
            let mean = row.iter().sum::<f64>() / row.len() as f64;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / row.len() as f64;
            row.iter().map(|v| (v - mean) / (variance + self.eps).sqrt()).collect()
        };
        rows.iter().map(norm).collect()
    }
}

/// `W · x + b`, with the rows of `W` one after the other.
pub(crate) fn product(weight: &[f64], bias: &[f64], x: &[f64]) -> Vec<f64> {
    weight.chunks(x.len()).zip(bias).map(|(w, b)| dot(w, x) + b).collect()
}

fn tokens([frames, rows, columns]: [usize; 3]) -> impl Iterator<Item = [usize; 3]> {
    (0..frames * rows * columns)
        .map(move |i| [i / (rows * columns), i / columns % rows, i % columns])
}

/// The position of each token, for as many as are asked for where there is no grid.
fn positions(grid: Option<[usize; 3]>) -> Box<dyn Iterator<Item = Option<[usize; 3]>>> {
    match grid {
        Some(grid) => Box::new(tokens(grid).map(Some)),
        None => Box::new(std::iter::repeat(None)),
    }
}

fn sinusoid(timestep: f32, dim: usize) -> Vec<f64> {
    let half = dim / 2;
    // In f32, as the published models compute it.
    let angle = |i: usize| {
        let exponent = -(10_000_f64.ln() as f32) * i as f32 / half as f32;
        timestep * exponent.exp()
    };
    let cos = (0..half).map(|i| f64::from(angle(i).cos()));
    cos.chain((0..half).map(|i| f64::from(angle(i).sin()))).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn map(rows: &Matrix, f: fn(f64) -> f64) -> Matrix {
    rows.iter().map(|row| row.iter().map(|&v| f(v)).collect()).collect()
}

fn silu(v: f64) -> f64 {
    v / (1.0 + (-v).exp())
}

fn gelu(v: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044_715 * v.powi(3));
    0.5 * v * (1.0 + inner.tanh())
}

fn modulated(rows: &Matrix, shift: &[f64], scale: &[f64]) -> Matrix {
    let modulate = |row: &Vec<f64>| {
        row.iter().zip(scale.iter().zip(shift)).map(|(v, (c, s))| v * (1.0 + c) + s).collect()
    };
    rows.iter().map(modulate).collect()
}

fn add(rows: &mut Matrix, change: &Matrix, gate: Option<&Vec<f64>>) {
    for (row, change) in rows.iter_mut().zip(change) {
        for (i, (value, change)) in row.iter_mut().zip(change).enumerate() {
            *value += change * gate.map_or(1.0, |gate| gate[i]);
        }
    }
}
