use crate::common::{assert_close, assert_matches, devices};
use crate::{floats, matrix, run, values, words};
use burn::tensor::{Device, Tensor};
use qvgen::kernels::attention::{self, Attention, Params, attention};
use qvgen::kernels::attention_backward::{AttentionBackward, Inputs, Side, reference};
use qvgen::nn::{KeysValues, MultiHeadAttention};

/// `(queries, keys, heads)`: single rows, less than a tile, ragged tiles of both layouts.
const SHAPES: [(u32, u32, u32); 5] = [(1, 1, 1), (2, 40, 2), (17, 33, 3), (33, 1, 2), (65, 130, 2)];
/// Below a vector, the largest of the narrow layout, two chunks of the wide one.
const HEAD_DIMS: [u32; 3] = [5, 128, 144];

/// A problem with the forward results that a backward pass reads.
struct Case {
    kernel: Attention,
    params: Params,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// Gradients of `o` and `lse`.
    d_o: Vec<f32>,
    d_lse: Vec<f32>,
}

impl Case {
    fn new(head_dim: u32, (queries, keys, heads): (u32, u32, u32)) -> Self {
        let len = |tokens: u32| (tokens * heads * head_dim) as usize;
        Self {
            kernel: Attention { head_dim },
            params: Params { queries, keys, heads, scale: 1.7 / (head_dim as f32).sqrt() },
            q: values(len(queries), 1),
            k: values(len(keys), 2),
            v: values(len(keys), 3),
            d_o: values(len(queries), 4),
            d_lse: values((queries * heads) as usize, 5),
        }
    }

    fn label(&self) -> String {
        format!("{:?} {:?}", self.kernel, self.params)
    }

    /// What the kernel reads beside the tensors: `lse` and `delta`.
    fn statistics(&self) -> [Vec<f32>; 2] {
        let (o, lse) = attention::reference(self.kernel, &self.q, &self.k, &self.v, self.params);
        let d = self.kernel.head_dim as usize;
        let delta = o.chunks(d).zip(self.d_o.chunks(d)).zip(&self.d_lse);
        let dot = |(o, d_o): (&[f32], &[f32])| o.iter().zip(d_o).map(|(a, b)| a * b).sum::<f32>();
        let delta = delta.map(|(rows, d_lse)| dot(rows) - d_lse).collect();
        [lse, delta]
    }

    fn twin(&self) -> [Vec<f32>; 3] {
        let [lse, delta] = &self.statistics();
        let Self { q, k, v, d_o, .. } = self;
        reference(self.kernel, Inputs { q, k, v, d_o, lse, delta }, self.params)
    }

    /// The gradients of one side; several dispatches for a small budget of operations.
    fn side_on_gpu(&self, side: Side, max_ops: u64) -> Vec<Vec<f32>> {
        let [lse, delta] = &self.statistics();
        let (queries, keys) = ([&self.q, &self.d_o], [&self.k, &self.v]);
        let (own, walk, lens) = match side {
            Side::Queries => (queries, keys, [self.q.len(), 1]),
            Side::Keys => (keys, queries, [self.k.len(), self.v.len()]),
        };
        let kernel = AttentionBackward { head_dim: self.kernel.head_dim, side };
        let inputs = [own[0], own[1], walk[0], walk[1], lse, delta].map(|x| words(x));
        let dispatches = kernel.dispatches(self.params, max_ops).into_iter().map(|part| {
            let outputs = run(kernel, &inputs, &lens, part, part.grid());
            outputs.iter().map(|words| floats(words).to_vec()).collect()
        });
        dispatches.reduce(merge).expect("a dispatch")
    }

    fn on_gpu(&self, max_ops: u64) -> [Vec<f32>; 3] {
        let mut gradients = self.side_on_gpu(Side::Queries, max_ops);
        gradients.truncate(1);
        gradients.extend(self.side_on_gpu(Side::Keys, max_ops));
        gradients.try_into().expect("three gradients")
    }
}

/// What two dispatches wrote together: the sentinel stays where neither did.
fn merge(a: Vec<Vec<f32>>, b: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    let untouched = f32::from_bits(0xDEAD_BEEF);
    let element = |(a, b): (&f32, &f32)| if *a == untouched { *b } else { *a };
    let merged = |(a, b): (&Vec<f32>, &Vec<f32>)| a.iter().zip(b).map(element).collect();
    a.iter().zip(&b).map(merged).collect()
}

/// One head's loss `Σ d_o · o + Σ d_lse · lse` and its gradients in q, k and v, in f64, from
/// `[tokens][channels]` matrices; by the formulas of the full matrices.
struct Exact {
    loss: f64,
    gradients: [Vec<f64>; 3],
}

fn exact(case: &Case, [q, k, v]: [&[f64]; 3]) -> Exact {
    let (d, heads) = (case.kernel.head_dim as usize, case.params.heads as usize);
    let (queries, keys) = (case.params.queries as usize, case.params.keys as usize);
    let scale = f64::from(case.params.scale);
    let mut loss = 0.0;
    let mut gradients = [vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]];
    for head in 0..heads {
        for i in 0..queries {
            let at = |token: usize, c: usize| (token * heads + head) * d + c;
            let d_o = |c| f64::from(case.d_o[at(i, c)]);
            let dot = |j: usize| (0..d).map(|c| q[at(i, c)] * k[at(j, c)]).sum::<f64>();
            let scores: Vec<f64> = (0..keys).map(|j| scale * dot(j)).collect();
            let maximum = scores.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = scores.iter().map(|s| (s - maximum).exp()).sum();
            let p: Vec<f64> = scores.iter().map(|s| (s - maximum).exp() / total).collect();
            let d_p = |j: usize| (0..d).map(|c| d_o(c) * v[at(j, c)]).sum::<f64>();
            let d_p: Vec<f64> = (0..keys).map(d_p).collect();
            let mean: f64 = p.iter().zip(&d_p).map(|(p, d_p)| p * d_p).sum();
            let d_lse = f64::from(case.d_lse[i * heads + head]);
            loss += mean + d_lse * (maximum + total.ln());
            for j in 0..keys {
                let d_s = scale * p[j] * (d_p[j] - mean + d_lse);
                for c in 0..d {
                    gradients[0][at(i, c)] += d_s * k[at(j, c)];
                    gradients[1][at(j, c)] += d_s * q[at(i, c)];
                    gradients[2][at(j, c)] += p[j] * d_o(c);
                }
            }
        }
    }
    Exact { loss, gradients }
}

fn exact_gradients(case: &Case) -> [Vec<f32>; 3] {
    let [q, k, v] = [&case.q, &case.k, &case.v].map(|x| widened(x));
    exact(case, [&q, &k, &v]).gradients.map(|x| x.into_iter().map(|x| x as f32).collect())
}

fn widened(x: &[f32]) -> Vec<f64> {
    x.iter().copied().map(f64::from).collect()
}

#[test]
fn the_formulas_of_the_gradients_are_the_slopes_of_the_loss() {
    let case = Case::new(3, (4, 5, 2));
    let inputs = [&case.q, &case.k, &case.v].map(|x| widened(x));
    let loss = |inputs: &[Vec<f64>; 3]| {
        let [q, k, v] = inputs;
        exact(&case, [q, k, v]).loss
    };
    let gradients = exact(&case, [&inputs[0], &inputs[1], &inputs[2]]).gradients;
    for (which, gradient) in gradients.iter().enumerate() {
        for (i, gradient) in gradient.iter().enumerate() {
            let moved = |step: f64| {
                let mut inputs = inputs.clone();
                inputs[which][i] += step;
                loss(&inputs)
            };
            let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((slope - gradient).abs() < 1e-8, "{which} [{i}]: {slope} against {gradient}");
        }
    }
}

#[test]
fn attention_backward_matches_its_twin() {
    for head_dim in HEAD_DIMS {
        for shape in SHAPES {
            let case = Case::new(head_dim, shape);
            for (actual, twin) in case.on_gpu(u64::MAX).iter().zip(&case.twin()) {
                assert_close(&case.label(), actual, twin, 1e-5, 1e-5);
            }
        }
    }
}

#[test]
fn attention_backward_split_over_dispatches_equals_the_whole_exactly() {
    for head_dim in [5, 144] {
        let case = Case::new(head_dim, (37, 70, 3));
        let whole = case.on_gpu(u64::MAX);
        // One workgroup a dispatch, then a few.
        for max_ops in [1, 8 * 70 * 32 * u64::from(head_dim) * 4] {
            assert_eq!(case.on_gpu(max_ops), whole, "at most {max_ops} operations");
        }
    }
    let forward = Params { queries: 100, keys: 7, heads: 2, scale: 1.0 };
    let kernel = AttentionBackward { head_dim: 16, side: Side::Queries };
    let parts = kernel.dispatches(forward, 3 * 6 * 7 * 16 * 32);
    let ranges: Vec<_> = parts.iter().map(|part| (part.first, part.end)).collect();
    assert_eq!(ranges, [(0, 3), (3, 6), (6, 8)]);
}

#[test]
fn attention_backward_reaches_the_last_workgroup_of_a_folded_grid() {
    let heads = qvgen::kernels::GRID_WIDTH + 3;
    let case = Case::new(1, (1, 2, heads));
    let kernel = AttentionBackward { head_dim: 1, side: Side::Queries };
    let grid = kernel.dispatches(case.params, u64::MAX)[0].grid();
    assert_eq!(grid, [qvgen::kernels::GRID_WIDTH, 2, 1]);
    let end = |x: &[f32]| x[x.len() - 8..].to_vec();
    let actual = &case.side_on_gpu(Side::Queries, u64::MAX)[0];
    assert_close(&case.label(), &end(actual), &end(&case.twin()[0]), 1e-5, 1e-5);
}

#[test]
fn attention_backward_twin_gives_the_gradients_of_a_softmax() {
    for (head_dim, shape) in [(5, (17, 33, 3)), (24, (48, 70, 2)), (384, (2, 9, 1)), (1, (1, 1, 1))]
    {
        let case = Case::new(head_dim, shape);
        for (actual, expected) in case.twin().iter().zip(&exact_gradients(&case)) {
            // Of one key, the gradient of the scores is that of the log-sum-exp alone.
            assert_matches(&case.label(), actual, expected, 2e-5);
        }
    }
}

#[test]
#[should_panic(expected = "tolerance 2e-5")]
fn a_gradient_that_ignores_the_log_sum_is_noticed() {
    let mut case = Case::new(16, (9, 11, 2));
    let expected = exact_gradients(&case);
    case.d_lse.fill(0.0);
    assert_matches("d_q", &case.twin()[0], &expected[0], 2e-5);
}

#[test]
fn attention_backward_survives_scores_of_any_magnitude() {
    // Scores of about ±1e4: one key takes all the weight, and rounding moves it a little.
    for head_dim in [5, 144] {
        let mut case = Case::new(head_dim, (33, 70, 2));
        case.params.scale = 1e4 / head_dim as f32;
        let exact = exact_gradients(&case);
        for actual in [case.on_gpu(u64::MAX), case.twin()] {
            assert!(actual.iter().flatten().all(|x| x.is_finite()));
            assert_close(&case.label(), &actual[2], &exact[2], 2e-2, 2e-2);
        }
    }
}

/// Which of q, k and v require a gradient.
type Required = [bool; 3];

struct Graph {
    inputs: [Tensor<2>; 3],
    d_o: Tensor<2>,
    d_lse: Tensor<2>,
}

impl Graph {
    fn new(case: &Case, device: &Device, required: Required) -> Self {
        let width = (case.params.heads * case.kernel.head_dim) as usize;
        let inputs = [(&case.q, 0), (&case.k, 1), (&case.v, 2)].map(|(x, which)| {
            let x = matrix(x, width, device);
            if required[which] { x.require_grad() } else { x }
        });
        let d_o = matrix(&case.d_o, width, device);
        let d_lse = matrix(&case.d_lse, case.params.heads as usize, device);
        Self { inputs, d_o, d_lse }
    }

    fn gradients(&self, loss: Tensor<1>) -> [Option<Vec<f32>>; 3] {
        let gradients = loss.backward();
        self.inputs.each_ref().map(|x| {
            let gradient = x.grad(&gradients)?;
            assert_eq!(gradient.dims(), x.dims());
            Some(gradient.into_data().try_to_vec::<f32>().expect("f32 values"))
        })
    }
}

#[test]
fn attention_is_differentiable_on_all_devices_in_whatever_requires_it() {
    let case = Case::new(16, (19, 41, 3));
    let expected = exact_gradients(&case);
    for (name, device) in devices() {
        for device in [device.clone().autodiff(), device.autodiff().gradient_checkpointing()] {
            for bits in 1..8 {
                let required = [0, 1, 2].map(|which| bits >> which & 1 == 1);
                let graph = Graph::new(&case, &device, required);
                let [q, k, v] = graph.inputs.clone();
                let (o, lse) = attention(q, k, v, 3, case.params.scale);
                let loss = (o * graph.d_o.clone()).sum() + (lse * graph.d_lse.clone()).sum();
                for (i, actual) in graph.gradients(loss).iter().enumerate() {
                    let what = format!("{name}, gradient {i} of {required:?}");
                    assert_eq!(actual.is_some(), required[i], "{what}");
                    if let Some(actual) = actual {
                        assert_matches(&what, actual, &expected[i], 2e-5);
                    }
                }
            }
        }
    }
}

#[test]
fn attention_without_anything_to_differentiate_is_the_plain_one() {
    let case = Case::new(16, (5, 7, 2));
    for (name, device) in devices() {
        let data = |device: &Device| {
            let [q, k, v] = Graph::new(&case, device, [false; 3]).inputs;
            let (o, lse) = attention(q, k, v, 2, 0.3);
            Tensor::cat(vec![o, lse], 1).into_data().try_to_vec::<f32>().expect("f32 values")
        };
        assert_eq!(data(&device.clone().autodiff()), data(&device), "{name}");
    }
}

#[test]
fn gradients_over_chunks_of_queries_and_parts_of_the_keys_are_those_of_the_whole() {
    let mut case = Case::new(16, (70, 50, 2));
    case.params.scale = 0.25;
    case.d_lse.fill(0.0);
    let expected = exact_gradients(&case);
    for (name, device) in devices() {
        let graph = Graph::new(&case, &device.autodiff(), [true; 3]);
        for (chunk, max_ops) in [(50, u64::MAX), (50, 1), (13, u64::MAX), (21, 1)] {
            let [q, k, v] = graph.inputs.clone();
            let parts = k.split(chunk, 0).into_iter().zip(v.split(chunk, 0));
            let parts: Vec<_> = parts.map(|(k, v)| KeysValues { k, v }).collect();
            let o = MultiHeadAttention::new(2, 16).forward_within(q, &parts, max_ops);
            let loss = (o * graph.d_o.clone()).sum();
            let what = format!("{name}, keys by {chunk}, at most {max_ops} operations");
            for (actual, expected) in graph.gradients(loss).iter().zip(&expected) {
                assert_matches(&what, actual.as_ref().expect("a gradient"), expected, 3e-5);
            }
        }
    }
}
