//! The linear layer in full precision.

use burn::tensor::{Device, Tensor, TensorData};

/// A full-precision layer.
#[derive(Clone, Debug)]
pub struct FullLinear {
    /// Transposed weights, `[in_features, out_features of the part]` each.
    pub(super) parts: Vec<Tensor<2>>,
    /// `[1, out_features]`.
    pub(super) bias: Option<Tensor<2>>,
}

impl FullLinear {
    /// A layer of `weight` `[out_features, in_features]`, row-major.
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
        let parts = weight_parts(weight, in_features, max_elements, device).map(Tensor::transpose);
        let bias = bias.map(|bias| {
            let shape = [1, bias.len()];
            Tensor::from_data(TensorData::new(bias, shape), device)
        });
        Self { parts: parts.collect(), bias }
    }

    /// A layer of `weight` `[out_features, in_features]` and `bias` `[out_features]`, in one part.
    pub fn from_tensors(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        Self { parts: vec![weight.transpose()], bias: bias.map(Tensor::unsqueeze) }
    }

    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let y = join(self.parts.iter().map(|part| x.clone().matmul(part.clone())));
        match &self.bias {
            Some(bias) => y + bias.clone(),
            None => y,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.parts.iter().chain(&self.bias).map(|part| 4 * part.shape().num_elements()).sum()
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

/// Parts of a result side by side.
pub(super) fn join(parts: impl Iterator<Item = Tensor<2>>) -> Tensor<2> {
    let mut parts: Vec<Tensor<2>> = parts.collect();
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 1) }
}
