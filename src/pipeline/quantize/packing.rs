//! One component on its way to packed: what becomes of each tensor.

use super::spool::{Spool, Spooled};
use super::{LayerReport, QuantizeReport};
use crate::kernels::device::OpenDevice;
use crate::method::{LayerSpec, Rounding};
use crate::models::LinearShape;
use crate::nn::{PackedLinear, WeightError, WeightSource};
use crate::pipeline::PipelineError;
use crate::pipeline::atomic::OutputError;
use crate::pipeline::cancel::Cancel;
use crate::pipeline::checkpoint::{
    Checkpoint, Component, SafetensorsWriter, TensorInfo, TensorSpec, Tensors,
};
use crate::pipeline::companions::write_json;
use crate::pipeline::packed::{
    LayerEntry, Manifest, PackedCheckpoint, checksum, config_with_note, packed_specs, write_packed,
};
use crate::quant::{Grid, PackedRows};
use std::fs;
use std::path::PathBuf;

/// One component on its way.
pub(super) struct Packing<'a> {
    pub(super) component: Component,
    pub(super) out: PathBuf,
    pub(super) rounding: &'a Rounding,
    pub(super) linears: &'a [LinearShape],
    /// Layers that are solved already; without one, they are rounded.
    pub(super) spool: Option<&'a Spool>,
    pub(super) device: &'a OpenDevice,
    pub(super) max_shard_bytes: u64,
}

/// What becomes of a tensor of the source.
enum Fate<'a> {
    Copied,
    Packed(&'a LinearShape, LayerSpec),
    Solved(&'a Spooled),
    /// Stored with the layer that it belongs to.
    Within,
}

/// The full-precision weights of `component`.
///
/// # Errors
///
/// If they are unusable or packed already.
pub(super) fn full_precision(component: &Component) -> Result<Checkpoint, PipelineError> {
    match PackedCheckpoint::recognize(component.weights()?)? {
        Err(checkpoint) => Ok(checkpoint),
        Ok(packed) => Err(PipelineError::Setting(format!(
            "the {} is already quantized to {}; quantize the full-precision model: {}",
            component.kind.name(),
            packed.manifest().precision,
            component.path.display()
        ))),
    }
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
        progress: &mut dyn FnMut(),
    ) -> Result<(), PipelineError> {
        let checkpoint = full_precision(&self.component)?;
        let tensors = checkpoint.tensors();
        if tensors.names().any(|name| is_in_blocks(tensors, name)) {
            log::warn!(
                "{} is quantized already, and the errors of both roundings will add up",
                tensors.path().display()
            );
        }
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
        let manifest = self.manifest(&checkpoint, &fates, cancel)?;
        let metadata = manifest.to_metadata();
        fs::create_dir(&self.out).map_err(OutputError::io("create", &self.out))?;
        let stem = self.component.kind.weights_stem().unwrap_or("model");
        let mut writer =
            SafetensorsWriter::create(&self.out, stem, &specs, &metadata, self.max_shard_bytes)?;
        for (name, fate) in &fates {
            cancel.check()?;
            match fate {
                Fate::Copied => {
                    let bytes = checkpoint.copy_bytes(name)?;
                    report.bytes_after += bytes.len() as u64;
                    report.bytes_before += tensors.info(name).map_or(0, TensorInfo::byte_len);
                    writer.write(name, &bytes)?;
                }
                Fate::Packed(linear, spec) => {
                    let layer = self.pack(&checkpoint, linear, spec, &mut writer)?;
                    report.bytes_before += layer.bytes_before;
                    report.bytes_after += layer.bytes_after;
                    report.layers.push(layer);
                    progress();
                }
                Fate::Solved(layer) => {
                    let stored = tensors.info(name).map_or(0, |info| info.byte_len());
                    report.bytes_before += stored;
                    report.bytes_after += layer.bytes;
                    if let Some(spool) = self.spool {
                        spool.write(layer, &mut writer)?;
                    }
                }
                Fate::Within => {
                    let stored = tensors.info(name).map_or(0, |info| info.byte_len());
                    report.bytes_before += stored;
                    report.bytes_after += stored;
                }
            }
        }
        writer.finish()?;
        let config = config_with_note(&self.component.config, &manifest);
        Ok(write_json(&self.out.join(self.component.kind.config_file()), &config)?)
    }

    fn precision(&self) -> String {
        if let Some(spool) = self.spool {
            return spool.precision();
        }
        self.rounding.precision_of(self.linears.iter().map(|layer| layer.name.as_str()))
    }

    fn fate(&self, tensor: &str) -> Fate<'_> {
        if let Some(spool) = self.spool {
            let layer = |suffix: &str| spool.get(tensor.strip_suffix(suffix)?);
            return match (layer(".weight"), layer(".bias")) {
                (Some(layer), _) => Fate::Solved(layer),
                (None, Some(_)) => Fate::Within,
                (None, None) => Fate::Copied,
            };
        }
        let layer = tensor.strip_suffix(".weight").and_then(|name| {
            let linear = self.linears.iter().find(|linear| linear.name == name)?;
            Some((linear, self.rounding.layer(name)?))
        });
        layer.map_or(Fate::Copied, |(linear, spec)| Fate::Packed(linear, spec))
    }

    /// What stands in the output for tensor `name`.
    fn specs(&self, source: &Checkpoint, name: &str, fate: &Fate<'_>) -> Vec<TensorSpec> {
        match fate {
            Fate::Copied => source.copy_spec(name).into_iter().collect(),
            Fate::Solved(layer) => layer.specs.clone(),
            Fate::Within => Vec::new(),
            Fate::Packed(linear, layer) => {
                let shape = [linear.out_features, linear.in_features];
                packed_specs(&linear.name, shape, &layer.weights).to_vec()
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
        let bytes_after = write_packed(writer, name, &parts)?;
        let stored = source.tensors().info(&weight_name).map_or(0, |info| info.byte_len());
        Ok(LayerReport {
            name: format!("{}.{name}", self.component.kind.name()),
            precision: layer_precision(spec),
            shape: [n, k],
            relative_error,
            bits_per_weight: bytes_after as f64 * 8.0 / (n * k) as f64,
            bytes_before: stored,
            bytes_after,
            method: None,
            measures: None,
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
            Fate::Solved(layer) => Some((layer.name.clone(), layer.entry.clone())),
            Fate::Copied | Fate::Within => None,
        });
        Ok(Manifest {
            generator: concat!("qvgen ", env!("CARGO_PKG_VERSION")).to_owned(),
            precision: self.precision(),
            source_sha256: checksum(source, cancel)?,
            layers: layers.collect(),
        })
    }
}

fn is_in_blocks(tensors: &Tensors, name: &str) -> bool {
    tensors.info(name).is_some_and(|info| info.dtype().plain().is_none())
}

fn layer_precision(spec: &LayerSpec) -> String {
    let activations = spec.activations.map_or(16, |activations| activations.bits.get());
    format!("w{}a{activations}", spec.weights.bits)
}

/// `‖W − Ŵ‖ / ‖W‖`, accumulated in f64.
pub(in crate::pipeline) fn relative_error(weight: &[f32], parts: &[PackedRows]) -> f64 {
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
