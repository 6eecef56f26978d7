//! A trained model as what the rest of the program runs: a model folder, or packed layers in
//! memory.

use super::TrainError;
use super::parameters::{Parameters, missing};
use super::student::QuantizedLayers;
use crate::method::LayerSpec;
use crate::models::LinearShape;
use crate::nn::{FullLinear, Linear, PackedLinear, WeightError, WeightSource};
use crate::pipeline::atomic::{AtomicFolder, Existing, OutputError};
use crate::pipeline::cancel::Cancel;
use crate::pipeline::checkpoint::{ComponentKind, Dtype, SafetensorsWriter, TensorSpec, read_json};
use crate::pipeline::companions::{MARKER, write_companions, write_json};
use crate::pipeline::model::VideoModel;
use crate::pipeline::packed::{
    FORMAT, LayerEntry, Manifest, checksum, config_with_note, packed_specs, write_packed,
};
use crate::quant::{Grid, PackedRows, Precision};
use burn::tensor::{Device, Tensor};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What [`Export`] calls a folder without packed layers.
const FULL_FORMAT: &str = "qvgen-full";

/// A trained transformer on its way to a model folder.
#[derive(Clone, Copy, Debug)]
pub struct Export<'a> {
    /// The model it was trained from: its other components are copied.
    pub model: &'a VideoModel,
    /// The parameters; see [`averaged`] to export the moving average.
    pub parameters: &'a Parameters,
    /// The quantized layers, which are written packed; without, everything is written as f32.
    pub layers: Option<&'a QuantizedLayers>,
    /// Name of the method, which the packed file remembers.
    pub method: &'a str,
    /// Share of the last sampling steps without guidance that the folder suggests.
    pub late_guidance_drop: f64,
    /// Largest weight file.
    pub max_shard_bytes: u64,
}

/// What becomes of a tensor of the model.
enum Fate {
    Full,
    Packed(LinearShape, LayerSpec),
}

impl Export<'_> {
    /// Writes the model folder `out`, which `qvgen sample` runs; the same parameters give the same
    /// bytes. With `overwrite` an earlier output is replaced.
    ///
    /// # Errors
    ///
    /// If a parameter is missing or cannot be packed, `out` holds something else, or it cannot be
    /// written. Nothing stays half written.
    pub fn write(&self, out: &Path, overwrite: bool, cancel: &Cancel) -> Result<(), TrainError> {
        let existing = if overwrite { Existing::ReplaceIfItHas(MARKER) } else { Existing::Refuse };
        let folder = AtomicFolder::create(out, existing)?;
        let kind = ComponentKind::Transformer;
        self.write_transformer(&folder.path().join(kind.name()), cancel)?;
        let format = if self.layers.is_some() { FORMAT } else { FULL_FORMAT };
        write_companions(self.model, &folder, &[kind], false, format, cancel)?;
        if self.late_guidance_drop > 0.0 {
            self.suggest_late_guidance_drop(&folder.path().join("sampling.json"))?;
        }
        cancel.check()?;
        Ok(folder.commit()?)
    }

    fn suggest_late_guidance_drop(&self, path: &Path) -> Result<(), TrainError> {
        let mut defaults = if path.exists() { read_json(path)? } else { json!({}) };
        defaults["late_guidance_drop"] = json!(self.late_guidance_drop);
        Ok(write_json(path, &defaults)?)
    }

    fn write_transformer(&self, out: &Path, cancel: &Cancel) -> Result<(), TrainError> {
        let component = self.model.folder.component(ComponentKind::Transformer)?;
        let tensors = self.tensors();
        let specs: Vec<TensorSpec> =
            tensors.iter().flat_map(|(name, shape, fate)| fate.specs(name, shape)).collect();
        let manifest = match self.layers {
            Some(_) => {
                let source_sha256 = checksum(&component.weights()?, cancel)?;
                Some(self.manifest(&tensors, source_sha256))
            }
            None => None,
        };
        let metadata = match &manifest {
            Some(manifest) => manifest.to_metadata(),
            None => [("format".to_owned(), "pt".to_owned())].into(),
        };
        fs::create_dir(out).map_err(OutputError::io("create", out))?;
        let stem = component.kind.weights_stem().unwrap_or("model");
        let mut writer =
            SafetensorsWriter::create(out, stem, &specs, &metadata, self.max_shard_bytes)?;
        for (name, _, fate) in &tensors {
            cancel.check()?;
            match fate {
                Fate::Full => {
                    let values = self.values(name)?;
                    writer.write(name, bytemuck::cast_slice(&values))?;
                }
                Fate::Packed(linear, _) => {
                    write_packed(&mut writer, &linear.name, &[self.packed(linear)?])?;
                }
            }
        }
        writer.finish()?;
        let config = match &manifest {
            Some(manifest) => config_with_note(&component.config, manifest),
            None => component.config.clone(),
        };
        Ok(write_json(&out.join(component.kind.config_file()), &config)?)
    }

    /// Every tensor of the model, its shape and what becomes of it, in order of their names.
    fn tensors(&self) -> Vec<(String, Vec<usize>, Fate)> {
        let linears: BTreeMap<String, LinearShape> = self
            .model
            .transformer
            .linears()
            .into_iter()
            .map(|linear| (format!("{}.weight", linear.name), linear))
            .collect();
        let fate = |name: &str| {
            let linear = linears.get(name)?;
            let spec = self.layers?.spec(self.parameters, &linear.name)?;
            Some(Fate::Packed(linear.clone(), spec))
        };
        let mut tensors: Vec<_> = self
            .model
            .transformer
            .parameter_shapes()
            .into_iter()
            .map(|(name, shape)| {
                let fate = fate(&name).unwrap_or(Fate::Full);
                (name, shape, fate)
            })
            .collect();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        tensors
    }

    fn manifest(&self, tensors: &[(String, Vec<usize>, Fate)], source_sha256: String) -> Manifest {
        let layers = tensors.iter().filter_map(|(_, _, fate)| match fate {
            Fate::Packed(linear, spec) => {
                let entry = LayerEntry::from_spec(spec);
                let entry = LayerEntry { calibration: self.method.to_owned(), ..entry };
                Some((linear.name.clone(), entry))
            }
            Fate::Full => None,
        });
        Manifest {
            generator: concat!("qvgen ", env!("CARGO_PKG_VERSION")).to_owned(),
            precision: precision(tensors),
            source_sha256,
            layers: layers.collect(),
        }
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, TrainError> {
        let parameter = self.parameters.get(name).ok_or_else(|| missing(name))?;
        host(name, parameter.value.clone())
    }

    fn packed(&self, linear: &LinearShape) -> Result<PackedRows, TrainError> {
        let packed = self.layers.and_then(|layers| layers.packed(self.parameters, &linear.name));
        let (rows, _) = packed.ok_or_else(|| missing(&linear.name))?;
        let is_finite = |grid: &Grid| grid.scale.is_finite() && grid.zero_point.is_finite();
        if !rows.grids.iter().all(is_finite) {
            return Err(TrainError::Setting(format!(
                "layer \"{}\" has a scale or zero point that is not finite; go back to an earlier \
                 checkpoint and lower optimizer.scale_learning_rate",
                linear.name
            )));
        }
        Ok(rows)
    }
}

impl Fate {
    fn specs(&self, name: &str, shape: &[usize]) -> Vec<TensorSpec> {
        match self {
            Self::Full => {
                vec![TensorSpec { name: name.to_owned(), dtype: Dtype::F32, shape: shape.to_vec() }]
            }
            Self::Packed(linear, spec) => {
                let shape = [linear.out_features, linear.in_features];
                packed_specs(&linear.name, shape, &spec.weights).to_vec()
            }
        }
    }
}

/// The precision of the packed layers.
fn precision(tensors: &[(String, Vec<usize>, Fate)]) -> String {
    Precision::summary(tensors.iter().map(|(_, _, fate)| match fate {
        Fate::Full => Precision::FULL,
        Fate::Packed(_, spec) => Precision {
            weights: Some(spec.weights.bits),
            activations: spec.activations.map(|activations| activations.bits),
        },
    }))
}

/// The parameters with the moving average of their values, where one is kept.
#[must_use]
pub fn averaged(parameters: &Parameters) -> Parameters {
    let mut averaged = parameters.clone();
    for (_, parameter) in averaged.iter_mut() {
        if let Some(average) = parameter.average.take() {
            parameter.value = average;
        }
        parameter.moments = None;
    }
    averaged
}

/// The values of tensor `name` on the host.
pub(super) fn host(name: &str, tensor: Tensor<1>) -> Result<Vec<f32>, TrainError> {
    let failed = |err: &dyn std::fmt::Debug| TrainError::Device(format!("{name}: {err:?}"));
    let data = tensor.try_into_data().map_err(|err| failed(&err))?;
    data.try_to_vec().map_err(|err| failed(&err))
}

/// Parameters in training as inference will have them: quantized layers arrive packed and are
/// multiplied by the integer kernels, as if the model had been exported and opened again.
#[derive(Clone, Copy, Debug)]
pub struct PackedSource<'a> {
    /// The parameters.
    pub parameters: &'a Parameters,
    /// The quantized layers.
    pub layers: &'a QuantizedLayers,
    /// Elements that one device tensor may hold.
    pub max_elements: usize,
}

impl WeightSource for PackedSource<'_> {
    fn has(&self, name: &str) -> bool {
        self.parameters.get(name).is_some()
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError> {
        let unusable = |message: String| WeightError::Unusable {
            tensor: name.to_owned(),
            message,
            path: "the model in training".into(),
        };
        let parameter = self.parameters.get(name).ok_or_else(|| missing(name))?;
        if parameter.shape != shape {
            let shapes = format!("has shape {:?}, expected {shape:?}", parameter.shape);
            return Err(unusable(shapes));
        }
        host(name, parameter.value.clone()).map_err(|err| unusable(err.to_string()))
    }

    fn rows(&self, name: &str, shape: [usize; 2], rows: &[usize]) -> Result<Vec<f32>, WeightError> {
        let values = self.values(name, &shape)?;
        let row = |&row: &usize| &values[row * shape[1]..(row + 1) * shape[1]];
        Ok(rows.iter().flat_map(row).copied().collect())
    }

    fn linear(
        &self,
        name: &str,
        out_features: usize,
        in_features: usize,
        has_bias: bool,
        device: &Device,
    ) -> Result<Linear, WeightError> {
        let bias = has_bias.then(|| self.values(&format!("{name}.bias"), &[out_features]));
        let bias = bias.transpose()?;
        let most = self.max_elements;
        let Some((rows, spec)) = self.layers.packed(self.parameters, name) else {
            let weight = self.values(&format!("{name}.weight"), &[out_features, in_features])?;
            return Ok(Linear::Full(FullLinear::new(&weight, bias, in_features, most, device)));
        };
        let packed = PackedLinear::new(&rows, bias, spec.activations, most, device);
        Ok(Linear::Packed(packed))
    }
}
