use crate::common::{assert_close, assert_matches, devices};
use crate::run;
use crate::{floats, values, words};
use burn::tensor::{Device, Tensor, TensorData};
use qvgen::kernels::attention::{Attention, Params, attention, merge_attention, reference};
use qvgen::nn::{KeysValues, MultiHeadAttention};

/// `(queries, keys, heads)`: single rows, less than a tile, ragged tiles of both layouts.
pub(crate) const SHAPES: [(u32, u32, u32); 5] =
    [(1, 1, 1), (1, 40, 2), (17, 33, 3), (33, 1, 2), (65, 130, 2)];
/// Below a vector, the models', and a wide one as the single head of an autoencoder.
const HEAD_DIMS: [u32; 3] = [5, 128, 384];

/// Softmax attention in f64, written independently of the twin.
pub(crate) fn exact(
    kernel: Attention,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    params: Params,
) -> [Vec<f32>; 2] {
    let (d, heads) = (kernel.head_dim as usize, params.heads as usize);
    let (mut o, mut lse) = (Vec::new(), Vec::new());
    for row in 0..params.queries as usize {
        for head in 0..heads {
            let at = |x: &[f32], row: usize, c: usize| f64::from(x[(row * heads + head) * d + c]);
            let scores: Vec<f64> = (0..params.keys as usize)
                .map(|key| {
                    let dot: f64 = (0..d).map(|c| at(q, row, c) * at(k, key, c)).sum();
                    dot * f64::from(params.scale)
                })
                .collect();
            let maximum = scores.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = scores.iter().map(|s| (s - maximum).exp()).sum();
            for c in 0..d {
                let sum: f64 = scores
                    .iter()
                    .enumerate()
                    .map(|(key, s)| (s - maximum).exp() * at(v, key, c))
                    .sum();
                o.push((sum / total) as f32);
            }
            lse.push((maximum + total.ln()) as f32);
        }
    }
    [o, lse]
}

pub(crate) struct Case {
    pub(crate) kernel: Attention,
    pub(crate) params: Params,
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
}

impl Case {
    pub(crate) fn new(head_dim: u32, (queries, keys, heads): (u32, u32, u32), scale: f32) -> Self {
        let len = |tokens: u32| (tokens * heads * head_dim) as usize;
        Self {
            kernel: Attention { head_dim },
            params: Params { queries, keys, heads, scale },
            q: values(len(queries), 1),
            k: values(len(keys), 2),
            v: values(len(keys), 3),
        }
    }

    pub(crate) fn on_gpu(&self) -> [Vec<f32>; 2] {
        let rows = (self.params.queries * self.params.heads) as usize;
        let outputs = run(
            self.kernel,
            &[words(&self.q), words(&self.k), words(&self.v)],
            &[self.q.len(), rows],
            self.params,
            self.kernel.grid(self.params),
        );
        [floats(&outputs[0]).to_vec(), floats(&outputs[1]).to_vec()]
    }

    pub(crate) fn twin(&self) -> [Vec<f32>; 2] {
        let (o, lse) = reference(self.kernel, &self.q, &self.k, &self.v, self.params);
        [o, lse]
    }

    pub(crate) fn label(&self, what: &str) -> String {
        format!("{what} {:?} {:?}", self.kernel, self.params)
    }
}

#[test]
fn attention_matches_its_twin() {
    for head_dim in HEAD_DIMS {
        for shape in SHAPES {
            let case = Case::new(head_dim, shape, 1.7 / (head_dim as f32).sqrt());
            let ([o, lse], [twin_o, twin_lse]) = (case.on_gpu(), case.twin());
            assert_close(&case.label("o"), &o, &twin_o, 1e-5, 1e-5);
            assert_close(&case.label("lse"), &lse, &twin_lse, 1e-5, 1e-5);
        }
    }
}

#[test]
fn attention_twin_is_a_softmax_over_the_keys() {
    for (head_dim, shape) in [(5, (17, 33, 3)), (24, (3, 70, 2)), (384, (2, 9, 1))] {
        let case = Case::new(head_dim, shape, 0.9);
        let ([o, lse], Case { kernel, q, k, v, params }) = (case.twin(), &case);
        let [exact_o, exact_lse] = exact(*kernel, q, k, v, *params);
        assert_matches(&case.label("o"), &o, &exact_o, 1e-5);
        assert_matches(&case.label("lse"), &lse, &exact_lse, 1e-5);
    }
}

#[test]
fn attention_survives_scores_of_any_magnitude() {
    // Scores of about ±1e4: one key takes all the weight, in the first tile or in a later one.
    for head_dim in [16, 128, 144] {
        let mut case = Case::new(head_dim, (33, 130, 2), 1.0);
        let magnitude = 1e4 / (head_dim as f32).sqrt();
        case.q.iter_mut().for_each(|q| *q *= magnitude);
        let ([o, lse], Case { kernel, q, k, v, params }) = (case.on_gpu(), &case);
        let [exact_o, exact_lse] = exact(*kernel, q, k, v, *params);
        assert!(exact_lse.iter().any(|lse| lse.abs() > 5e3), "the scores are not large");
        assert_close(&case.label("lse"), &lse, &exact_lse, 1e-5, 1e-2);
        // Rounding a score of 1e4 moves a weight by about 1e-3.
        assert_close(&case.label("o"), &o, &exact_o, 1e-2, 1e-2);
    }
}

#[test]
fn attention_of_equal_keys_is_the_mean_of_the_values_however_small_the_scores() {
    for offset in [-1e4, 0.0, 1e4] {
        let mut case = Case::new(1, (3, 100, 1), 1.0);
        case.q.fill(1.0);
        case.k.fill(offset);
        let mean = case.v.iter().sum::<f32>() / 100.0;
        let [o, lse] = case.on_gpu();
        assert_close("o", &o, &[mean; 3], 1e-5, 1e-6);
        assert_close("lse", &lse, &[offset + 100.0_f32.ln(); 3], 1e-6, 1e-5);
    }
}

fn tensor(rows: usize, width: usize, seed: u32, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values(rows * width, seed), [rows, width]), device)
}

fn data(x: Tensor<2>) -> Vec<f32> {
    x.into_data().try_to_vec::<f32>().expect("f32 values")
}

#[test]
fn attention_agrees_on_all_devices_for_slices_of_larger_tensors() {
    let (queries, keys, heads, head_dim) = (19, 41, 3, 16);
    let width = heads * head_dim;
    let [cpu, wgpu] = devices().map(|(_, device)| {
        let sliced = |rows, seed| tensor(rows + 5, width, seed, &device).narrow(0, 3, rows);
        let (o, lse) = attention(sliced(queries, 1), sliced(keys, 2), sliced(keys, 3), heads, 0.3);
        assert_eq!((o.dims(), lse.dims()), ([queries, width], [queries, heads]));
        data(Tensor::cat(vec![o, lse], 1))
    });
    assert_close("o and lse", &wgpu, &cpu, 1e-5, 1e-5);
}

#[test]
fn merged_key_chunks_equal_the_whole() {
    let (queries, keys, heads, head_dim) = (7, 50, 2, 16);
    for (name, device) in devices() {
        let width = heads * head_dim;
        let (q, k, v) = (
            tensor(queries, width, 1, &device) * 5.0,
            tensor(keys, width, 2, &device) * 5.0,
            tensor(keys, width, 3, &device),
        );
        let (whole, _) = attention(q.clone(), k.clone(), v.clone(), heads, 1.0);
        for chunk in [1, 13, 50] {
            let parts = k.clone().split(chunk, 0).into_iter().zip(v.clone().split(chunk, 0));
            let parts = parts.map(|(k, v)| attention(q.clone(), k, v, heads, 1.0));
            let merged = merge_attention(parts);
            let what = format!("{name}, chunks of {chunk}");
            assert_close(&what, &data(merged), &data(whole.clone()), 1e-5, 1e-5);
        }
    }
}

#[test]
fn attention_split_over_dispatches_equals_the_whole_exactly() {
    let (queries, heads, head_dim) = (101, 3, 16);
    let width = heads * head_dim;
    for (name, device) in devices() {
        let q = tensor(queries, width, 1, &device);
        let part = |keys, seed| KeysValues {
            k: tensor(keys, width, seed, &device),
            v: tensor(keys, width, seed + 1, &device),
        };
        let parts = [part(40, 2), part(9, 4)];
        let attention = MultiHeadAttention::new(heads, head_dim);
        let run = |max_ops| data(attention.forward_within(q.clone(), &parts, max_ops));
        let whole = run(u64::MAX);
        assert_eq!(data(attention.forward(q.clone(), &parts)), whole, "{name}");
        // One tile a dispatch, then two.
        for max_ops in [1, 4 * 40 * width as u64 * 70] {
            assert_eq!(run(max_ops), whole, "{name}, at most {max_ops} operations");
        }
    }
}
