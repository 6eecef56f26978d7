//! A full-precision checkpoint that is quantized while it is loaded.

use crate::method::Rounding;
use crate::nn::{FakeQuantLinear, Linear, PackedLinear, WeightError, WeightSource};
use crate::pipeline::checkpoint::Checkpoint;
use burn::tensor::Device;

/// How quantized layers are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// Packed codes through the quantized kernels.
    Packed,
    /// The same values in floats, to compare with.
    FakeQuant,
}

/// Full-precision parameters whose linear layers arrive quantized.
#[derive(Debug)]
pub struct RoundingSource {
    /// Where the parameters come from.
    pub checkpoint: Checkpoint,
    /// What is quantized, and how.
    pub rounding: Rounding,
    /// How quantized layers are multiplied.
    pub arithmetic: Arithmetic,
}

impl WeightSource for RoundingSource {
    fn has(&self, name: &str) -> bool {
        self.checkpoint.has(name)
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError> {
        self.checkpoint.values(name, shape)
    }

    fn rows(&self, name: &str, shape: [usize; 2], rows: &[usize]) -> Result<Vec<f32>, WeightError> {
        self.checkpoint.rows(name, shape, rows)
    }

    fn linear(
        &self,
        name: &str,
        out_features: usize,
        in_features: usize,
        has_bias: bool,
        device: &Device,
    ) -> Result<Linear, WeightError> {
        let Some(spec) = self.rounding.layer(name) else {
            return self.checkpoint.linear(name, out_features, in_features, has_bias, device);
        };
        let weight = self.values(&format!("{name}.weight"), &[out_features, in_features])?;
        let bias = if has_bias {
            Some(self.values(&format!("{name}.bias"), &[out_features])?)
        } else {
            None
        };
        let max_elements = self.checkpoint.max_elements();
        let packed = PackedLinear::quantize(
            &weight,
            bias,
            in_features,
            spec.weights,
            spec.activations,
            max_elements,
            device,
        );
        Ok(match self.arithmetic {
            Arithmetic::Packed => Linear::Packed(packed),
            Arithmetic::FakeQuant => Linear::FakeQuant(FakeQuantLinear::from_packed(&packed)),
        })
    }
}
