//! A component's safetensors files as a [`WeightSource`], without the library's own reader.

#![allow(dead_code, reason = "every test file uses its own part of this module")]

use burn::tensor::Device;
use half::{bf16, f16};
use qvgen::nn::{FullLinear, Linear, WeightError, WeightSource};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// All tensors of a folder in f32.
pub(crate) struct FixtureWeights {
    folder: PathBuf,
    tensors: HashMap<String, (Vec<usize>, Vec<f32>)>,
}

impl FixtureWeights {
    /// Reads every `*.safetensors` of `folder`: one file or shards.
    pub(crate) fn open(folder: &Path) -> Self {
        let mut tensors = HashMap::new();
        let entries =
            std::fs::read_dir(folder).unwrap_or_else(|err| panic!("{err}: {}", folder.display()));
        for path in entries.map(|entry| entry.expect("an entry").path()) {
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                let bytes = std::fs::read(&path).expect("a readable file");
                let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
                for (name, view) in file.tensors() {
                    tensors.insert(name, (view.shape().to_vec(), f32_values(&view)));
                }
            }
        }
        assert!(!tensors.is_empty(), "no tensors in {}", folder.display());
        Self { folder: folder.to_owned(), tensors }
    }

    /// Stores the tensor that has one of the names `from` under `to` alone.
    pub(crate) fn rename_any(&mut self, from: &[&str], to: &str) {
        let found: Vec<_> = from.iter().filter_map(|name| self.tensors.remove(*name)).collect();
        let tensor = found.into_iter().next().unwrap_or_else(|| panic!("none of {from:?}"));
        self.tensors.insert(to.to_owned(), tensor);
    }

    /// Name and shape of every tensor, sorted.
    pub(crate) fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        let mut shapes: Vec<_> =
            self.tensors.iter().map(|(name, (shape, _))| (name.clone(), shape.clone())).collect();
        shapes.sort();
        shapes
    }

    /// Small values that differ by position, for parameters of these names and shapes.
    pub(crate) fn synthetic(shapes: Vec<(String, Vec<usize>)>) -> Self {
        let filled = |(name, shape): (String, Vec<usize>)| {
            let len: usize = shape.iter().product();
            // A filter should neither amplify nor extinguish what passes through it.
            let scale = 1.5 / (shape[1..].iter().product::<usize>() as f32).sqrt();
            let offset = if name.ends_with("gamma") { 1.0 } else { 0.0 };
            let seed = name.len() as f32;
            let value = |i: usize| offset + scale * (seed + 12.9898 * i as f32).sin();
            (name, (shape, (0..len).map(value).collect()))
        };
        let tensors = shapes.into_iter().map(filled).collect();
        Self { folder: PathBuf::from("synthetic"), tensors }
    }

    /// Leaves out the tensors whose name begins with `prefix`.
    pub(crate) fn without(mut self, prefix: &str) -> Self {
        self.tensors.retain(|name, _| !name.starts_with(prefix));
        self
    }
}

fn f32_values(view: &TensorView<'_>) -> Vec<f32> {
    fn map<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.chunks_exact(N).map(|chunk| f(chunk.try_into().expect("N bytes"))).collect()
    }
    match view.dtype() {
        Dtype::F32 => map(view.data(), f32::from_le_bytes),
        Dtype::F16 => map(view.data(), |bytes| f16::from_le_bytes(bytes).to_f32()),
        Dtype::BF16 => map(view.data(), |bytes| bf16::from_le_bytes(bytes).to_f32()),
        other => panic!("{other:?} weights are not read by the tests"),
    }
}

impl WeightSource for FixtureWeights {
    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError> {
        let path = self.folder.clone();
        let Some((actual, values)) = self.tensors.get(name) else {
            return Err(WeightError::Missing { tensor: name.to_owned(), path });
        };
        if actual != shape {
            let (actual, expected) = (actual.clone(), shape.to_vec());
            return Err(WeightError::Shape { tensor: name.to_owned(), actual, expected, path });
        }
        Ok(values.clone())
    }

    fn rows(&self, name: &str, shape: [usize; 2], rows: &[usize]) -> Result<Vec<f32>, WeightError> {
        let values = self.values(name, &shape)?;
        let row = |&row: &usize| values[row * shape[1]..(row + 1) * shape[1]].to_vec();
        Ok(rows.iter().flat_map(row).collect())
    }

    fn linear(
        &self,
        name: &str,
        out_features: usize,
        in_features: usize,
        has_bias: bool,
        device: &Device,
    ) -> Result<Linear, WeightError> {
        let weight = self.values(&format!("{name}.weight"), &[out_features, in_features])?;
        let bias = || self.values(&format!("{name}.bias"), &[out_features]);
        let bias = has_bias.then(bias).transpose()?;
        Ok(Linear::Full(FullLinear::new(&weight, bias, in_features, 1 << 20, device)))
    }
}
