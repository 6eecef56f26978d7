//! The linear layer of quantization-aware training.

use crate::kernels::fake_quant_linear::fake_quant_linear;
use crate::kernels::fake_quantize_tokens::FakeQuantTokens;
use crate::kernels::matmul_nt;
use burn::tensor::Tensor;

/// `y = Q(x) · Wᵀ + b` in floats, with gradients for `x`, `W`, `b` and the activations' clips.
///
/// `W` is the effective weight: rounded, with whatever is trained beside it.
#[derive(Clone, Debug)]
pub struct QuantAwareLinear {
    /// `[out_features, in_features]`.
    weight: Tensor<2>,
    /// `[1, out_features]`.
    bias: Option<Tensor<2>>,
    /// How `x` is rounded, and the logits of its clips `[upper, lower]`.
    activations: Option<(FakeQuantTokens, Tensor<1>)>,
}

impl QuantAwareLinear {
    /// A layer of an effective `weight` `[out_features, in_features]`, a `bias` `[out_features]`,
    /// and the activations' quantizer with the logits of its clips, `[upper, lower]`.
    pub fn new(
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
        activations: Option<(FakeQuantTokens, Tensor<1>)>,
    ) -> Self {
        Self { weight, bias: bias.map(Tensor::unsqueeze), activations }
    }

    /// `[tokens, in_features]` to `[tokens, out_features]`.
    ///
    /// # Panics
    ///
    /// If `x` has not `in_features` columns.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let y = match &self.activations {
            Some((spec, clips)) => fake_quant_linear(x, self.weight.clone(), clips.clone(), *spec),
            None => matmul_nt(x, self.weight.clone()),
        };
        match &self.bias {
            Some(bias) => y + bias.clone(),
            None => y,
        }
    }

    /// Bytes of weight and bias.
    pub fn bytes(&self) -> usize {
        let bias = self.bias.as_ref().map_or(0, |bias| bias.shape().num_elements());
        4 * (self.weight.shape().num_elements() + bias)
    }
}
