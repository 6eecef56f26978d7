use crate::common::{assert_close, devices};
use crate::{matrix, token_spec, values, weight, words};
use burn::tensor::{Device, Tensor, TensorData};
use qvgen::kernels::{Branch, Epilogue, EpilogueKind, PackedTensor, Residual};
use qvgen::kernels::{qmatmul, qmatmul_float, qmatvec};
use qvgen::quant::{Bits, quantize_tokens};

/// The tensors that may follow a product `[m, n]`.
pub(crate) struct EpilogueValues {
    pub(crate) bias: Vec<f32>,
    residual: Vec<f32>,
    gate: Vec<f32>,
    /// `[m, RANK]` and `[n, RANK]`.
    branch: [Vec<f32>; 2],
    /// By column: bias, gate, two zeros and the branch's second factor.
    columns: Vec<f32>,
}

/// Rank of the branch of [`EpilogueKind::WITH_MORE`].
const RANK: usize = 8;

impl EpilogueValues {
    pub(crate) fn new(m: usize, n: usize) -> Self {
        let (bias, gate) = (values(n, 9), values(n, 12));
        let branch = [values(m * RANK, 13), values(n * RANK, 14)];
        let column = |(i, up): (usize, &[f32])| [&[bias[i], gate[i], 0.0, 0.0], up].concat();
        let columns = branch[1].chunks(RANK).enumerate().flat_map(column).collect();
        Self { residual: values(m * n, 10), bias, gate, branch, columns }
    }

    /// The buffers that a kernel of this kind binds.
    pub(crate) fn inputs(&self, kind: EpilogueKind) -> Vec<&[u32]> {
        let all = match kind {
            EpilogueKind::Bias => vec![&self.bias],
            EpilogueKind::Residual => vec![&self.bias, &self.residual],
            EpilogueKind::Gated => vec![&self.bias, &self.residual, &self.gate],
            EpilogueKind::Branch { .. } => vec![&self.branch[0], &self.columns],
            EpilogueKind::BranchResidual { .. } => {
                vec![&self.branch[0], &self.columns, &self.residual]
            }
        };
        all.into_iter().map(|values| words(values)).collect()
    }

    /// `product`, which has its bias, after the rest of the epilogue.
    pub(crate) fn after(&self, kind: EpilogueKind, product: Vec<f32>) -> Vec<f32> {
        let n = self.gate.len();
        let branch = |i: usize| -> f32 {
            let [small, up] = &self.branch;
            let rows = (&small[i / n * RANK..][..RANK], &up[i % n * RANK..][..RANK]);
            rows.0.iter().zip(rows.1).map(|(small, up)| small * up).sum()
        };
        let value = |(i, value): (usize, f32)| match kind {
            EpilogueKind::Bias => value,
            EpilogueKind::Residual => self.residual[i] + value,
            EpilogueKind::Gated => self.residual[i] + self.gate[i % n] * value,
            EpilogueKind::Branch { .. } => value + branch(i),
            EpilogueKind::BranchResidual { .. } => {
                self.residual[i] + self.gate[i % n] * (value + branch(i))
            }
        };
        product.into_iter().enumerate().map(value).collect()
    }

    fn tensors(&self, kind: EpilogueKind, device: &Device) -> Epilogue {
        let n = self.bias.len();
        let has_branch =
            matches!(kind, EpilogueKind::Branch { .. } | EpilogueKind::BranchResidual { .. });
        let has_gate = matches!(kind, EpilogueKind::Gated | EpilogueKind::BranchResidual { .. });
        let gate = has_gate.then(|| matrix(&self.gate, n, device));
        let value = matrix(&self.residual, n, device);
        let [small, up] = self.branch.each_ref().map(|factor| matrix(factor, RANK, device));
        let has_residual = has_gate || kind == EpilogueKind::Residual;
        Epilogue {
            bias: Tensor::from_data(TensorData::new(self.bias.clone(), [n]), device),
            branch: has_branch.then_some(Branch { small, up }),
            residual: has_residual.then_some(Residual { value, gate }),
        }
    }
}

#[test]
fn every_product_has_the_same_epilogue_on_all_devices() {
    let (m, n, k) = (7, 66, 72);
    let w = weight(n, k, Bits::B4, None);
    let x = values(m * k, 3);
    let epilogue = EpilogueValues::new(m, n);
    let codes = quantize_tokens(&x, k, token_spec(Bits::B4));
    for (name, device) in devices() {
        let w = PackedTensor::from_rows(&w, &device);
        let codes = PackedTensor::from_rows(&codes, &device);
        let x = matrix(&x, k, &device);
        let products = |kind| -> [Vec<f32>; 3] {
            let epilogue = || epilogue.tensors(kind, &device);
            let products = [
                qmatmul(&codes, &w, epilogue()),
                qmatmul_float(x.clone(), &w, epilogue()),
                qmatvec(x.clone(), &w, epilogue()),
            ];
            products.map(|y| y.into_data().try_to_vec().unwrap())
        };
        let plain = products(EpilogueKind::Bias);
        for kind in EpilogueKind::WITH_MORE {
            for (product, actual) in plain.iter().zip(products(kind)) {
                let expected = epilogue.after(kind, product.clone());
                assert_close(&format!("{kind:?} on {name}"), &actual, &expected, 1e-5, 1e-5);
            }
        }
    }
}

#[test]
#[should_panic(expected = "shape of the residual")]
fn a_residual_of_another_shape_is_refused() {
    let device = Device::flex();
    let w = PackedTensor::from_rows(&weight(3, 32, Bits::B4, None), &device);
    let epilogue = EpilogueValues::new(2, 3).tensors(EpilogueKind::Residual, &device);
    qmatmul_float(matrix(&values(32, 1), 32, &device), &w, epilogue);
}
