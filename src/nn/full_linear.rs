//! The linear layer in full precision.

use super::linear_input::residual_columns;
use crate::kernels::{Epilogue, Residual, concatenate, matmul, matmul_nt};
use burn::tensor::{Device, Tensor, TensorData};

/// A full-precision layer.
#[derive(Clone, Debug)]
pub struct FullLinear {
    /// Rows of the weight `[out_features of the part, in_features]` and their biases, in order.
    pub(super) parts: Vec<(Tensor<2>, Tensor<1>)>,
}

impl FullLinear {
    /// A layer of `weight` `[out_features, in_features]`, row-major. A missing bias is zero.
    ///
    /// No part exceeds `max_elements` values.
    ///
    /// # Panics
    ///
    /// If the lengths do not fit the shape.
    pub fn new(
        weight: &[f32],
        bias: Option<Vec<f32>>,
        in_features: usize,
        max_elements: usize,
        device: &Device,
    ) -> Self {
        let mut start = 0;
        let parts = weight_parts(weight, in_features, max_elements, device).map(|part| {
            let rows = part.dims()[0];
            let bias = bias_part(bias.as_deref(), start, rows, device);
            start += rows;
            (part, bias)
        });
        Self { parts: parts.collect() }
    }

    /// A layer of `weight` `[out_features, in_features]` and `bias` `[out_features]`, in one part.
    pub fn from_tensors(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        let zeros = || bias_part(None, 0, weight.dims()[0], &weight.device());
        let bias = bias.unwrap_or_else(zeros);
        Self { parts: vec![(weight, bias)] }
    }

    /// `[tokens, in_features]` to `[tokens, out_features]`, behind its `residual` if there is one.
    ///
    /// One dispatch per part where no gradients are tracked.
    pub(super) fn forward(&self, x: Tensor<2>, residual: Option<&Residual>) -> Tensor<2> {
        let is_tracked = x.is_autodiff() || self.parts.iter().any(|(w, _)| w.is_autodiff());
        let mut start = 0;
        join(self.parts.iter().map(|(w, bias)| {
            let columns = start..start + w.dims()[0];
            start = columns.end;
            let residual = residual.map(|residual| residual_columns(residual, columns));
            if is_tracked {
                let y = matmul_nt(x.clone(), w.clone()) + bias.clone().unsqueeze();
                match residual {
                    Some(residual) => residual.add_to(y),
                    None => y,
                }
            } else {
                matmul(
                    x.clone(),
                    w.clone(),
                    Epilogue { bias: bias.clone(), branch: None, residual },
                )
            }
        }))
    }

    pub(super) fn bytes(&self) -> usize {
        let elements = |(w, bias): &(Tensor<2>, Tensor<1>)| {
            w.shape().num_elements() + bias.shape().num_elements()
        };
        4 * self.parts.iter().map(elements).sum::<usize>()
    }
}

/// `weight` as tensors of whole rows, none above `max_elements`.
pub(super) fn weight_parts<'a>(
    weight: &'a [f32],
    in_features: usize,
    max_elements: usize,
    device: &'a Device,
) -> impl Iterator<Item = Tensor<2>> + 'a {
    assert!(
        in_features > 0 && weight.len().is_multiple_of(in_features),
        "{} values are no rows of {in_features}",
        weight.len()
    );
    let rows = (max_elements / in_features).max(1);
    weight.chunks(rows * in_features).map(move |part| {
        let shape = [part.len() / in_features, in_features];
        Tensor::from_data(TensorData::new(part.to_vec(), shape), device)
    })
}

/// `rows` values of `bias` from `start` on; zeros where there is none.
pub(super) fn bias_part(
    bias: Option<&[f32]>,
    start: usize,
    rows: usize,
    device: &Device,
) -> Tensor<1> {
    let values = bias.map_or_else(|| vec![0.0; rows], |bias| bias[start..start + rows].to_vec());
    Tensor::from_data(TensorData::new(values, [rows]), device)
}

/// Parts of a result side by side.
pub(super) fn join(parts: impl Iterator<Item = Tensor<2>>) -> Tensor<2> {
    concatenate(parts.collect(), 1)
}
