//! Parameters of a transformer of true size that no file holds.

use super::random::{packed_weight, values};
use crate::method::{Rounding, Scope};
use crate::models::{DenoiserConfig, LinearShape};
use crate::nn::{FullLinear, Linear, PackedLinear, WeightError, WeightSource};
use crate::quant::{Precision, packed_bytes};
use burn::tensor::Device;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

/// Blocks that differ. The others share their weights, so that a model of any depth fits; two
/// blocks of a large model are more than any cache holds.
const DISTINCT_BLOCKS: usize = 2;

/// Small random values, the same in every run; packed layers get random codes.
///
/// What is random changes neither time nor memory: no kernel looks at the values.
#[derive(Debug)]
pub struct RandomWeights {
    rounding: Rounding,
    block_prefix: &'static str,
    distinct_blocks: usize,
    names: HashSet<String>,
    max_elements: usize,
    linears: RefCell<HashMap<String, Linear>>,
}

impl RandomWeights {
    /// Weights of a model of `config` at `precision`, the layers worth keeping in full; blocks take turns
    /// with the same ones.
    pub fn new(config: &dyn DenoiserConfig, precision: Precision, max_elements: usize) -> Self {
        let rounding = Rounding::new(Scope::recommended(precision, config.sensitive_layers()));
        Self {
            rounding,
            block_prefix: config.block_prefix(),
            distinct_blocks: DISTINCT_BLOCKS,
            names: config.parameter_shapes().into_iter().map(|(name, _)| name).collect(),
            max_elements,
            linears: RefCell::default(),
        }
    }

    /// The same with weights of its own for every block: as much memory as the model takes.
    #[must_use]
    pub fn with_own_blocks(self) -> Self {
        Self { distinct_blocks: usize::MAX, ..self }
    }

    /// Bytes of the weight of `layer` on the device, grids included.
    pub fn weight_bytes(&self, layer: &LinearShape) -> u64 {
        let shape = [layer.out_features, layer.in_features];
        self.rounding.layer(&layer.name).map_or_else(
            || 4 * shape[0] as u64 * shape[1] as u64,
            |spec| packed_bytes(spec.weights.bits.get(), spec.weights.group_size, shape),
        )
    }

    fn full(&self, name: &str, shape: [usize; 2]) -> Vec<f32> {
        // Outputs of about the size of the inputs.
        values(shape[0] * shape[1], seed(name), (3.0 / shape[1] as f32).sqrt())
    }
}

/// `blocks.7.x` as `blocks.1.x` where blocks are called `prefix` and two differ.
fn shared(prefix: &str, distinct: usize, name: &str) -> String {
    let rest = name.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.'));
    let parts = rest.and_then(|rest| rest.split_once('.'));
    match parts.and_then(|(index, rest)| Some((index.parse::<usize>().ok()?, rest))) {
        Some((index, rest)) => format!("{prefix}.{}.{rest}", index % distinct),
        None => name.to_owned(),
    }
}

fn seed(name: &str) -> u32 {
    name.bytes().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

impl WeightSource for RandomWeights {
    fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError> {
        let name = shared(self.block_prefix, self.distinct_blocks, name);
        let inputs = shape.iter().skip(1).product::<usize>().max(1);
        let is_gain = name.contains("norm") && name.ends_with("weight");
        let scale = if shape.len() > 1 { (3.0 / inputs as f32).sqrt().min(0.1) } else { 0.1 };
        let mut values = values(shape.iter().product(), seed(&name), scale);
        if is_gain {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        Ok(values)
    }

    fn rows(&self, name: &str, shape: [usize; 2], rows: &[usize]) -> Result<Vec<f32>, WeightError> {
        Ok(self.full(name, [rows.len(), shape[1]]))
    }

    fn linear(
        &self,
        name: &str,
        out_features: usize,
        in_features: usize,
        has_bias: bool,
        device: &Device,
    ) -> Result<Linear, WeightError> {
        let name = shared(self.block_prefix, self.distinct_blocks, name);
        if let Some(linear) = self.linears.borrow().get(&name) {
            return Ok(linear.clone());
        }
        let bias = has_bias.then(|| values(out_features, seed(&name) ^ 1, 0.1));
        let linear = match self.rounding.layer(&name) {
            None => {
                let weight = self.full(&name, [out_features, in_features]);
                let full = FullLinear::new(&weight, bias, in_features, self.max_elements, device);
                Linear::Full(full)
            }
            Some(spec) => {
                let scale = (3.0 / in_features as f32).sqrt();
                let bits = spec.weights.bits;
                let rows = packed_weight(bits, out_features, in_features, seed(&name), scale);
                Linear::Packed(PackedLinear::new(
                    &rows,
                    bias,
                    spec.activations,
                    self.max_elements,
                    device,
                ))
            }
        };
        if self.distinct_blocks < usize::MAX {
            self.linears.borrow_mut().insert(name, linear.clone());
        }
        Ok(linear)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_take_turns() {
        assert_eq!(shared("blocks", 2, "blocks.7.attn1.to_q"), "blocks.1.attn1.to_q");
        assert_eq!(shared("blocks", 2, "blocks.0.ffn"), "blocks.0.ffn");
        assert_eq!(shared("blocks", 2, "proj_out"), "proj_out");
    }
}
