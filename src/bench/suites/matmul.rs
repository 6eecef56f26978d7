//! `y = x · wᵀ + b` in every way this crate computes it, and in Burn's.

use super::{Selection, check_finite, has_f16, not_run, read};
use crate::bench::random::{self, indices, packed_weight, rows_of, sampled};
use crate::bench::{Baseline, Entry, Failure, Identity, Job, Suite, Verified, Work};
use crate::kernels::device::OpenDevice;
use crate::kernels::qmatmul as many;
use crate::kernels::qmatvec::MAX_TOKENS;
use crate::kernels::{Branch, Epilogue, PackedTensor};
use crate::kernels::{qmatmul, qmatmul_float, qmatvec, quantize_tokens};
use crate::nn::{FullLinear, Linear};
use crate::quant::{Bits, PackedRows, Scheme, TokenRange, TokenSpec, words_per_row};
use burn::tensor::{DType, Device, Tensor, TensorData};

/// Rows and columns of the result that are recomputed.
const SAMPLES: usize = 24;
/// Rank of a full-precision branch, that of `SVDQuant`.
const RANK: usize = 32;

/// Tokens, rows and columns of the weight.
#[derive(Clone, Copy, Debug)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
}

/// How it is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    /// Packed tokens, packed weight, bias.
    Packed(Bits),
    /// The same, with the tokens' quantization.
    Linear(Bits),
    /// Packed tokens and weight, and both factors of a branch of rank [`RANK`].
    LowRank(Bits),
    /// Float tokens, packed weight, bias.
    WeightOnly(Bits),
    /// This crate's full precision: product and bias.
    Full,
    /// Burn's product alone.
    Burn(DType),
}

pub(super) fn entries(selection: &Selection, open: &OpenDevice) -> Vec<Entry> {
    let mut entries = Vec::new();
    for &m in &selection.tokens {
        for (n, k) in selection.shapes() {
            let shape = Shape { m, n, k };
            entries.push(entry(shape, Form::Full).as_baseline(Baseline::F32));
            entries.push(entry(shape, Form::Burn(DType::F32)).as_baseline(Baseline::Burn));
            if open.adapter.is_some() && has_f16(&open.device) {
                entries.push(entry(shape, Form::Burn(DType::F16)).as_baseline(Baseline::BurnF16));
            }
            // Two-bit tokens have no kernel.
            let both = selection.bits.iter().copied().filter(|bits| Bits::OF_TOKENS.contains(bits));
            entries.extend(both.map(|bits| entry(shape, Form::Packed(bits))));
        }
        let (n, k) = selection.shapes()[0];
        if let Some(&bits) = selection.bits.iter().find(|&&bits| bits == Bits::B4) {
            entries.push(entry(Shape { m, n, k }, Form::Linear(bits)));
            entries.push(entry(Shape { m, n, k }, Form::LowRank(bits)));
            entries.push(entry(Shape { m, n, k }, Form::WeightOnly(bits)));
        }
    }
    if !selection.is_quick {
        let (n, k) = selection.shapes()[0];
        let single = Shape { m: 1, n, k };
        entries.push(entry(single, Form::Full).as_baseline(Baseline::F32));
        let one = |bits: &Bits| entry(single, Form::WeightOnly(*bits));
        entries.extend(selection.bits.iter().map(one));
    }
    entries
}

fn entry(shape: Shape, form: Form) -> Entry {
    let Shape { m, n, k } = shape;
    let (kernel, precision) = match form {
        Form::Packed(bits) => ("qmatmul", format!("w{bits}a{bits}")),
        Form::Linear(bits) => ("quantize+qmatmul", format!("w{bits}a{bits}")),
        Form::LowRank(bits) => ("qmatmul+low_rank", format!("w{bits}a{bits}")),
        Form::WeightOnly(bits) if m <= MAX_TOKENS => ("qmatvec", format!("w{bits}a16")),
        Form::WeightOnly(bits) => ("qmatmul_float", format!("w{bits}a16")),
        Form::Full => ("full", "f32".to_owned()),
        Form::Burn(DType::F16) => ("burn matmul", "f16".to_owned()),
        Form::Burn(_) => ("burn matmul", "f32".to_owned()),
    };
    let parameters = [("tokens", m), ("out_features", n), ("in_features", k)];
    let case = format!("{m} x {n} x {k}");
    let identity = Identity::new(Suite::Matmul, case, kernel, precision, &parameters);
    let largest = (m * n).max(m * k).max(n * k);
    Entry::new(identity, work(shape, form), largest, move |device| {
        Product::boxed(shape, form, device)
    })
}

fn work(Shape { m, n, k }: Shape, form: Form) -> Work {
    let ops = 2.0 * m as f64 * n as f64 * k as f64;
    let packed = |bits, rows| rows as f64 * (4 * words_per_row(bits, k) + 12) as f64;
    let (x, y) = (4.0 * (m * k) as f64, 4.0 * (m * n) as f64);
    let work = Work { f32_ops: 0.0, f16_ops: 0.0, integer_ops: 0.0, bytes: 0.0 };
    match form {
        Form::Packed(bits) => {
            Work { integer_ops: ops, bytes: packed(bits, m) + packed(bits, n) + y, ..work }
        }
        Form::Linear(bits) => Work { integer_ops: ops, bytes: x + packed(bits, n) + y, ..work },
        Form::LowRank(bits) => Work {
            integer_ops: ops,
            f32_ops: 2.0 * (m * RANK) as f64 * (n + k) as f64,
            bytes: x + packed(bits, m) + packed(bits, n) + 4.0 * (RANK * (n + k)) as f64 + y,
            ..work
        },
        Form::WeightOnly(bits) => Work { f32_ops: ops, bytes: x + packed(bits, n) + y, ..work },
        Form::Burn(DType::F16) => {
            Work { f16_ops: ops, bytes: (x + y) / 2.0 + 2.0 * (n * k) as f64, ..work }
        }
        Form::Full | Form::Burn(_) => {
            Work { f32_ops: ops, bytes: x + y + 4.0 * (n * k) as f64, ..work }
        }
    }
}

fn token_spec(bits: Bits) -> TokenSpec {
    TokenSpec { bits, scheme: Scheme::Asymmetric, range: TokenRange::FULL }
}

/// Operands on the device.
#[expect(clippy::large_enum_variant, reason = "one value per entry; tensors are handles")]
enum Operands {
    Packed { x: PackedTensor, w: PackedTensor, bias: Tensor<1> },
    Linear { x: Tensor<2>, w: PackedTensor, bias: Tensor<1>, spec: TokenSpec },
    LowRank { x: Tensor<2>, codes: PackedTensor, w: PackedTensor, bias: Tensor<1>, branch: LowRank },
    WeightOnly { x: Tensor<2>, w: PackedTensor, bias: Tensor<1> },
    Full { x: Tensor<2>, layer: Box<Linear> },
    Burn { x: Tensor<2>, w: Tensor<2> },
}

/// Factors of a branch, `[in_features, RANK]` and `[out_features, RANK]`.
struct LowRank {
    down: Tensor<2>,
    up: Tensor<2>,
}

struct Product {
    operands: Operands,
    /// The sampled rows and columns, and what the twin makes of them.
    rows: Vec<usize>,
    columns: Vec<usize>,
    expected: Vec<f32>,
    tolerance: f64,
    y: Option<Tensor<2>>,
}

impl Product {
    fn boxed(shape: Shape, form: Form, device: &Device) -> Result<Box<dyn Job>, Failure> {
        let Shape { m, n, k } = shape;
        let (rows, columns) = (sampled(m, SAMPLES, 1), sampled(n, SAMPLES, 2));
        let values = random::values(m * k, 3, 1.0);
        let x = Tensor::<2>::from_data(TensorData::new(values.clone(), [m, k]), device);
        let chosen = |values: &[f32], rows: &[usize]| -> Vec<f32> {
            rows.iter().flat_map(|row| &values[row * k..(row + 1) * k]).copied().collect()
        };
        let bias_values = random::values(n, 5, 1.0);
        let bias = Tensor::<1>::from_data(TensorData::new(bias_values.clone(), [n]), device);
        let some_bias: Vec<f32> = columns.iter().map(|&column| bias_values[column]).collect();
        let some_x = chosen(&values, &rows);
        let scale = (3.0 / k as f32).sqrt();
        let weight = |bits| packed_weight(bits, n, k, 7, scale);
        let (operands, expected, tolerance) = match form {
            Form::Packed(bits) | Form::Linear(bits) => {
                let (w, spec) = (weight(bits), token_spec(bits));
                let packed = quantize_tokens(x.clone(), spec);
                // The device's own codes: a tie may round either way in the quantizer.
                let codes = select(&packed, &rows);
                let expected = many::reference(&codes, &rows_of(&w, &columns), &some_bias);
                let w = PackedTensor::from_rows(&w, device);
                let operands = if matches!(form, Form::Packed(_)) {
                    Operands::Packed { x: packed, w, bias }
                } else {
                    Operands::Linear { x, w, bias, spec }
                };
                (operands, expected, 1e-4)
            }
            Form::LowRank(bits) => {
                let w = weight(bits);
                let packed = quantize_tokens(x.clone(), token_spec(bits));
                let codes = select(&packed, &rows);
                let plain = many::reference(&codes, &rows_of(&w, &columns), &some_bias);
                let factors = [(k, 11), (n, 13)].map(|(rows, seed)| {
                    (rows, random::values(rows * RANK, seed, (3.0 / RANK as f32).sqrt()))
                });
                let expected = with_branch(plain, &some_x, &factors[0].1, &factors[1].1, &columns);
                let [down, up] = factors.map(|(rows, values)| {
                    Tensor::from_data(TensorData::new(values, [rows, RANK]), device)
                });
                let (w, branch) = (PackedTensor::from_rows(&w, device), LowRank { down, up });
                (Operands::LowRank { x, codes: packed, w, bias, branch }, expected, 1e-4)
            }
            Form::WeightOnly(bits) => {
                let w = weight(bits);
                let some_w = rows_of(&w, &columns).values();
                let expected = product(&some_x, &some_w, k, &some_bias);
                (
                    Operands::WeightOnly { x, w: PackedTensor::from_rows(&w, device), bias },
                    expected,
                    1e-4,
                )
            }
            Form::Full => {
                let w = random::values(n * k, 7, scale);
                let expected = product(&some_x, &chosen(&w, &columns), k, &some_bias);
                let full = FullLinear::new(&w, Some(bias_values), k, usize::MAX, device);
                (Operands::Full { x, layer: Box::new(Linear::Full(full)) }, expected, 1e-4)
            }
            Form::Burn(dtype) => {
                let w = random::values(n * k, 7, scale);
                let zeros = vec![0.0; columns.len()];
                let expected = product(&some_x, &chosen(&w, &columns), k, &zeros);
                let w = Tensor::<2>::from_data(TensorData::new(w, [n, k]), device).transpose();
                let [x, w] = [x, w].map(|t| if dtype == DType::F32 { t } else { t.cast(dtype) });
                (Operands::Burn { x, w }, expected, if dtype == DType::F32 { 1e-4 } else { 2e-2 })
            }
        };
        Ok(Box::new(Self { operands, rows, columns, expected, tolerance, y: None }))
    }
}

/// Some rows of packed tokens, downloaded.
fn select(packed: &PackedTensor, rows: &[usize]) -> PackedRows {
    let rows = indices(rows, &packed.codes.device());
    let codes = packed.codes.clone().select(0, rows.clone());
    let grid = packed.grid.clone().select(0, rows);
    PackedTensor { codes, grid, ..packed.clone() }.to_rows()
}

/// `y + (x · down) · upᵀ`, the rows `columns` of `up`, in f64.
fn with_branch(y: Vec<f32>, x: &[f32], down: &[f32], up: &[f32], columns: &[usize]) -> Vec<f32> {
    let small = |x: &[f32]| -> Vec<f64> {
        let mut small = vec![0.0; RANK];
        for (x, row) in x.iter().zip(down.chunks(RANK)) {
            small.iter_mut().zip(row).for_each(|(sum, d)| *sum += f64::from(*x) * f64::from(*d));
        }
        small
    };
    let add = |(y, x): (&[f32], &[f32])| -> Vec<f32> {
        let small = small(x);
        let branch = |column: usize| -> f64 {
            small.iter().zip(&up[column * RANK..]).map(|(s, u)| s * f64::from(*u)).sum()
        };
        y.iter().zip(columns).map(|(y, &c)| (f64::from(*y) + branch(c)) as f32).collect()
    };
    y.chunks(columns.len()).zip(x.chunks(down.len() / RANK)).flat_map(add).collect()
}

/// `x · wᵀ + bias` in f64.
fn product(x: &[f32], w: &[f32], k: usize, bias: &[f32]) -> Vec<f32> {
    let dot = |x: &[f32], w: &[f32]| -> f64 {
        x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum()
    };
    x.chunks(k)
        .flat_map(|x| {
            w.chunks(k).zip(bias).map(move |(w, bias)| (dot(x, w) + f64::from(*bias)) as f32)
        })
        .collect()
}

impl Job for Product {
    fn run(&mut self) {
        self.y = None; // so that its memory can be used again
        self.y = Some(match &self.operands {
            Operands::Packed { x, w, bias } => qmatmul(x, w, bias.clone()),
            Operands::Linear { x, w, bias, spec } => {
                qmatmul(&quantize_tokens(x.clone(), *spec), w, bias.clone())
            }
            Operands::LowRank { x, codes, w, bias, branch } => {
                let small = x.clone().matmul(branch.down.clone());
                let branch = Some(Branch { small, up: branch.up.clone() });
                qmatmul(codes, w, Epilogue { bias: bias.clone(), branch, residual: None })
            }
            Operands::WeightOnly { x, w, bias } if x.dims()[0] <= MAX_TOKENS => {
                qmatvec(x.clone(), w, bias.clone())
            }
            Operands::WeightOnly { x, w, bias } => qmatmul_float(x.clone(), w, bias.clone()),
            Operands::Full { x, layer } => layer.forward(x.clone()),
            Operands::Burn { x, w } => x.clone().matmul(w.clone()),
        });
    }

    fn verify(&mut self) -> Result<Verified, Failure> {
        let y = self.y.clone().ok_or_else(not_run)?;
        let device = y.device();
        let (rows, columns) = (indices(&self.rows, &device), indices(&self.columns, &device));
        let sample = read(y.clone().select(0, rows).select(1, columns))?;
        let verified = Verified::compare(&sample, &self.expected, self.tolerance)?;
        if y.dtype() == DType::F32 {
            check_finite(y)?;
        }
        Ok(verified)
    }
    fn form(&self) -> Option<String> {
        match &self.operands {
            Operands::Packed { x, w, .. } => Some(many::form_name(x, w)),
            Operands::LowRank { codes, w, .. } => Some(many::form_name(codes, w)),
            Operands::Linear { x, w, spec, .. } => {
                Some(many::form_name(&quantize_tokens(x.clone(), *spec), w))
            }
            _ => None,
        }
    }
}
