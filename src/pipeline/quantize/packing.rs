//! One component on its way to packed: what becomes of each tensor.

use super::{LayerReport, QuantizeReport, write_json};
use crate::kernels::device::OpenDevice;
use crate::method::{LayerSpec, Rounding};
use crate::models::LinearShape;
use crate::nn::{PackedLinear, WeightError, WeightSource};
use crate::pipeline::PipelineError;
use crate::pipeline::atomic::OutputError;
use crate::pipeline::cancel::Cancel;
use crate::pipeline::checkpoint::{Checkpoint, Component, Dtype, SafetensorsWriter, TensorSpec};
use crate::pipeline::packed::{FORMAT, LayerEntry, Manifest, PackedCheckpoint, VERSION};
use crate::quant::{Grid, PackedRows, words_per_row};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// One component on its way.
pub(super) struct Packing<'a> {
    pub(super) component: Component,
    pub(super) out: PathBuf,
    pub(super) rounding: &'a Rounding,
    pub(super) linears: &'a [LinearShape],
    pub(super) device: &'a OpenDevice,
    pub(super) max_shard_bytes: u64,
}

/// What becomes of a tensor of the source.
enum Fate<'a> {
    Copied,
    Packed(&'a LinearShape, LayerSpec),
}

impl Packing<'_> {
    /// Writes the packed component and adds to `report`.
    ///
    /// # Errors
    ///
    /// If a tensor is unusable, the component already packed, or the output cannot be written.
    pub(super) fn run(
        &self,
        cancel: &Cancel,
        report: &mut QuantizeReport,
        progress: &mut dyn FnMut(&LayerReport, usize),
    ) -> Result<(), PipelineError> {
        let checkpoint = self.component.weights()?;
        let checkpoint = match PackedCheckpoint::recognize(checkpoint)? {
            Err(checkpoint) => checkpoint,
            Ok(packed) => {
                return Err(PipelineError::Setting(format!(
                    "the {} is already quantized to {}; quantize the full-precision model: {}",
                    self.component.kind.name(),
                    packed.manifest().precision,
                    self.component.path.display()
                )));
            }
        };
        let tensors = checkpoint.tensors();
        let fates: Vec<(String, Fate<'_>)> =
            tensors.names().map(|name| (name.to_owned(), self.fate(name))).collect();
        let specs: Vec<TensorSpec> =
            fates.iter().flat_map(|(name, fate)| self.specs(&checkpoint, name, fate)).collect();
        let mut specs_by_name: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        specs_by_name.sort_unstable();
        if let Some(pair) = specs_by_name.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(PipelineError::Setting(format!(
                "tensor \"{}\" is in the way of the packed layer of that name in {}",
                pair[0],
                tensors.path().display()
            )));
        }
        let metadata = self.manifest(&checkpoint, &fates, cancel)?.to_metadata();
        fs::create_dir(&self.out).map_err(OutputError::io("create", &self.out))?;
        let stem = self.component.kind.weights_stem().unwrap_or("model");
        let mut writer =
            SafetensorsWriter::create(&self.out, stem, &specs, &metadata, self.max_shard_bytes)?;
        for (name, fate) in &fates {
            cancel.check()?;
            match fate {
                Fate::Copied => {
                    if tensors.info(name).is_some_and(|info| is_float(info.dtype())) {
                        tensors.floats(name)?; // refuses what is not finite
                    }
                    let raw = tensors.raw(name)?;
                    report.bytes_after += raw.bytes.len() as u64;
                    report.bytes_before += raw.bytes.len() as u64;
                    writer.write(name, &raw.bytes)?;
                }
                Fate::Packed(linear, spec) => {
                    let layer = self.pack(&checkpoint, linear, spec, &mut writer)?;
                    report.bytes_before += layer.bytes_before;
                    report.bytes_after += layer.bytes_after;
                    report.layers.push(layer);
                    if let Some(layer) = report.layers.last() {
                        progress(layer, report.layers.len());
                    }
                }
            }
        }
        writer.finish()?;
        self.write_config(self.precision())
    }

    fn precision(&self) -> String {
        self.rounding.precision_of(self.linears.iter().map(|layer| layer.name.as_str()))
    }

    fn fate(&self, tensor: &str) -> Fate<'_> {
        let layer = tensor.strip_suffix(".weight").and_then(|name| {
            let linear = self.linears.iter().find(|linear| linear.name == name)?;
            Some((linear, self.rounding.layer(name)?))
        });
        layer.map_or(Fate::Copied, |(linear, spec)| Fate::Packed(linear, spec))
    }

    /// What stands in the output for tensor `name`.
    fn specs(&self, source: &Checkpoint, name: &str, fate: &Fate<'_>) -> Vec<TensorSpec> {
        let spec = |suffix: &str, dtype, shape: Vec<usize>| TensorSpec {
            name: format!("{}{suffix}", name.strip_suffix(".weight").unwrap_or(name)),
            dtype,
            shape,
        };
        match fate {
            Fate::Copied => source
                .tensors()
                .info(name)
                .map(|info| TensorSpec {
                    name: name.to_owned(),
                    dtype: info.dtype(),
                    shape: info.shape().to_vec(),
                })
                .into_iter()
                .collect(),
            Fate::Packed(linear, layer) => {
                let (rows, k) = (linear.out_features, linear.in_features);
                let group_size = layer.weights.group_size.unwrap_or(k).min(k);
                let grid = vec![rows, k.div_ceil(group_size)];
                vec![
                    spec(".codes", Dtype::U32, vec![rows, words_per_row(layer.weights.bits, k)]),
                    spec(".scale", Dtype::F32, grid.clone()),
                    spec(".zero_point", Dtype::F32, grid.clone()),
                    spec(".code_sum", Dtype::I32, grid),
                ]
            }
        }
    }

    fn pack(
        &self,
        source: &Checkpoint,
        linear: &LinearShape,
        spec: &LayerSpec,
        writer: &mut SafetensorsWriter,
    ) -> Result<LayerReport, PipelineError> {
        let LinearShape { name, out_features, in_features } = linear;
        let (n, k) = (*out_features, *in_features);
        let weight_name = format!("{name}.weight");
        let weight = source.values(&weight_name, &[n, k])?;
        let (most, device) = (self.device.max_elements(), &self.device.device);
        let packed = PackedLinear::quantize(&weight, None, k, spec.weights, None, most, device);
        let parts: Vec<PackedRows> =
            packed.parts().iter().map(|(part, _)| part.to_rows()).collect();
        let is_finite = |grid: &Grid| grid.scale.is_finite() && grid.zero_point.is_finite();
        if !parts.iter().flat_map(|part| &part.grids).all(is_finite) {
            return Err(WeightError::Unusable {
                message: format!("its values are too large to quantize; use --layer {name}=full"),
                path: source.tensors().path_of(&weight_name).to_owned(),
                tensor: weight_name,
            }
            .into());
        }
        let relative_error = relative_error(&weight, &parts);
        let join =
            |bytes: fn(&PackedRows) -> Vec<u8>| parts.iter().flat_map(bytes).collect::<Vec<u8>>();
        let contents = [
            (".codes", join(|part| bytemuck::cast_slice(&part.codes).to_vec())),
            (
                ".scale",
                join(|part| part.grids.iter().flat_map(|g| g.scale.to_le_bytes()).collect()),
            ),
            (
                ".zero_point",
                join(|part| part.grids.iter().flat_map(|g| g.zero_point.to_le_bytes()).collect()),
            ),
            (".code_sum", join(|part| bytemuck::cast_slice(&part.code_sums).to_vec())),
        ];
        let bytes_after = contents.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        for (suffix, bytes) in contents {
            writer.write(&format!("{name}{suffix}"), &bytes)?;
        }
        let stored = source.tensors().info(&weight_name).map_or(0, |info| info.byte_len());
        Ok(LayerReport {
            name: format!("{}.{name}", self.component.kind.name()),
            precision: layer_precision(spec),
            shape: [n, k],
            relative_error,
            bits_per_weight: bytes_after as f64 * 8.0 / (n * k) as f64,
            bytes_before: stored,
            bytes_after,
        })
    }

    fn manifest(
        &self,
        source: &Checkpoint,
        fates: &[(String, Fate<'_>)],
        cancel: &Cancel,
    ) -> Result<Manifest, PipelineError> {
        let layers = fates.iter().filter_map(|(_, fate)| match fate {
            Fate::Packed(linear, spec) => Some((linear.name.clone(), LayerEntry::from_spec(spec))),
            Fate::Copied => None,
        });
        Ok(Manifest {
            generator: concat!("qvgen ", env!("CARGO_PKG_VERSION")).to_owned(),
            precision: self.precision(),
            source_sha256: checksum(source, cancel)?,
            layers: layers.collect(),
        })
    }

    /// The configuration, with a note that keeps other programs from misreading the weights.
    fn write_config(&self, precision: String) -> Result<(), PipelineError> {
        let mut config = self.component.config.clone();
        if let Value::Object(map) = &mut config {
            let note = json!({
                "quant_method": "qvgen", "format": FORMAT, "version": VERSION, "precision": precision
            });
            map.insert("quantization_config".to_owned(), note);
        }
        write_json(&self.out.join(self.component.kind.config_file()), &config)
    }
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

fn layer_precision(spec: &LayerSpec) -> String {
    let activations = spec.activations.map_or(16, |activations| activations.bits.get());
    format!("w{}a{activations}", spec.weights.bits)
}

/// `‖W − Ŵ‖ / ‖W‖`, accumulated in f64.
fn relative_error(weight: &[f32], parts: &[PackedRows]) -> f64 {
    let (mut error, mut norm, mut start) = (0.0, 0.0, 0);
    for part in parts {
        let values = part.values();
        for (w, value) in weight[start..].iter().zip(&values) {
            error += f64::from(w - value).powi(2);
            norm += f64::from(*w).powi(2);
        }
        start += values.len();
    }
    if norm > 0.0 { (error / norm).sqrt() } else { 0.0 }
}

/// SHA-256 over the source's weight files, in order of their names.
fn checksum(source: &Checkpoint, cancel: &Cancel) -> Result<String, PipelineError> {
    let tensors = source.tensors();
    let mut paths: Vec<&Path> = tensors.names().map(|name| tensors.path_of(name)).collect();
    paths.sort();
    paths.dedup();
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    for path in paths {
        let mut file = File::open(path).map_err(OutputError::io("read", path))?;
        loop {
            cancel.check()?;
            match file.read(&mut buffer).map_err(OutputError::io("read", path))? {
                0 => break,
                count => hash.update(&buffer[..count]),
            }
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
