//! Parameters kept in host memory, for parts of a model that visit the device one after the other.

use super::host_linear::HostLinear;
use super::{Linear, WeightError, WeightSource};
use burn::tensor::{Device, Tensor, TensorData};
use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;

/// What a module was loaded from, in the form in which it goes to the device: packed layers stay
/// packed, and nothing is read from files or quantized a second time.
#[derive(Debug, Default)]
pub struct HostWeights {
    tensors: HashMap<String, TensorData>,
    layers: HashMap<String, HostLinear>,
}

impl HostWeights {
    /// Keeps everything that `load` asks of `source`.
    ///
    /// # Errors
    ///
    /// What `load` returns.
    pub fn record<T>(
        source: &dyn WeightSource,
        load: impl FnOnce(&dyn WeightSource) -> Result<T, WeightError>,
    ) -> Result<(Self, T), WeightError> {
        let recorder = Recorder { source, kept: RefCell::default() };
        let loaded = load(&recorder)?;
        Ok((recorder.kept.into_inner(), loaded))
    }

    /// Bytes of host memory.
    pub fn bytes(&self) -> usize {
        let tensors: usize = self.tensors.values().map(|data| data.bytes().len()).sum();
        tensors + self.layers.values().map(HostLinear::bytes).sum::<usize>()
    }
}

fn missing(name: &str) -> WeightError {
    WeightError::Missing { tensor: name.to_owned(), path: PathBuf::from("host memory") }
}

impl WeightSource for HostWeights {
    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn values(&self, name: &str, _: &[usize]) -> Result<Vec<f32>, WeightError> {
        let data = self.tensors.get(name).ok_or_else(|| missing(name))?;
        data.try_to_vec().map_err(|_| missing(name))
    }

    fn tensor(&self, name: &str, _: &[usize], device: &Device) -> Result<Tensor<1>, WeightError> {
        let data = self.tensors.get(name).ok_or_else(|| missing(name))?;
        Ok(Tensor::from_data(data.clone(), device))
    }

    fn rows(&self, name: &str, _: [usize; 2], _: &[usize]) -> Result<Vec<f32>, WeightError> {
        Err(missing(name))
    }

    fn linear(
        &self,
        name: &str,
        _: usize,
        _: usize,
        _: bool,
        device: &Device,
    ) -> Result<Linear, WeightError> {
        let layer = self.layers.get(name).ok_or_else(|| missing(name))?;
        Ok(layer.upload(device))
    }
}

/// A source that remembers what it handed out.
struct Recorder<'a> {
    source: &'a dyn WeightSource,
    kept: RefCell<HostWeights>,
}

impl WeightSource for Recorder<'_> {
    fn has(&self, name: &str) -> bool {
        self.source.has(name)
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError> {
        let values = self.source.values(name, shape)?;
        let data = TensorData::new(values.clone(), [values.len()]);
        self.kept.borrow_mut().tensors.insert(name.to_owned(), data);
        Ok(values)
    }

    fn rows(&self, name: &str, shape: [usize; 2], rows: &[usize]) -> Result<Vec<f32>, WeightError> {
        self.source.rows(name, shape, rows)
    }

    fn linear(
        &self,
        name: &str,
        out_features: usize,
        in_features: usize,
        has_bias: bool,
        device: &Device,
    ) -> Result<Linear, WeightError> {
        let layer = self.source.linear(name, out_features, in_features, has_bias, device)?;
        let unusable = |message| WeightError::Unusable {
            tensor: name.to_owned(),
            message,
            path: PathBuf::from("device memory"),
        };
        let host = HostLinear::download(&layer).map_err(unusable)?;
        self.kept.borrow_mut().layers.insert(name.to_owned(), host);
        Ok(layer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{FullLinear, PackedLinear};
    use crate::quant::{Bits, Calibration, Scheme, TokenRange, TokenSpec, WeightSpec};

    /// One tensor and two layers: "full" and "packed".
    struct Source;

    impl Source {
        const WEIGHT: [f32; 6] = [0.5, -1.0, 2.0, 0.25, 1.5, -3.0];
    }

    impl WeightSource for Source {
        fn has(&self, _: &str) -> bool {
            true
        }

        fn values(&self, _: &str, _: &[usize]) -> Result<Vec<f32>, WeightError> {
            Ok(vec![1.0, 2.0])
        }

        fn rows(&self, name: &str, _: [usize; 2], _: &[usize]) -> Result<Vec<f32>, WeightError> {
            Err(missing(name))
        }

        fn linear(
            &self,
            name: &str,
            _: usize,
            k: usize,
            _: bool,
            device: &Device,
        ) -> Result<Linear, WeightError> {
            let bias = Some(vec![0.5, -0.5]);
            if name == "full" {
                return Ok(Linear::Full(FullLinear::new(&Self::WEIGHT, bias, k, 3, device)));
            }
            let weight = WeightSpec {
                bits: Bits::B4,
                scheme: Scheme::Asymmetric,
                group_size: None,
                calibration: Calibration::MinMax,
            };
            let tokens =
                TokenSpec { bits: Bits::B8, scheme: Scheme::Asymmetric, range: TokenRange::FULL };
            let packed =
                PackedLinear::quantize(&Self::WEIGHT, bias, k, weight, Some(tokens), 3, device);
            Ok(Linear::Packed(packed))
        }
    }

    #[test]
    fn what_was_recorded_computes_the_same_and_nothing_else_is_there() {
        let device = Device::flex();
        let (host, layers) = HostWeights::record(&Source, |source| {
            source.values("gain", &[2])?;
            let load = |name| source.linear(name, 2, 3, true, &device);
            Ok([load("full")?, load("packed")?])
        })
        .unwrap();
        assert_eq!(host.values("gain", &[2]).unwrap(), [1.0, 2.0]);
        let x = Tensor::<2>::from_data(TensorData::new(vec![1.0_f32, 2.0, -1.0], [1, 3]), &device);
        for (name, layer) in ["full", "packed"].into_iter().zip(layers) {
            let again = host.linear(name, 2, 3, true, &device).unwrap();
            let bits = |layer: &Linear| layer.forward(x.clone()).into_data().bytes().to_vec();
            assert_eq!(bits(&again), bits(&layer), "{name}");
        }
        assert!(host.bytes() > 0);
        assert!(!host.has("other"));
        assert!(host.linear("other", 2, 3, true, &device).is_err());
    }
}
