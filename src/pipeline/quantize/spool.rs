//! Quantized layers on disk until all are known: a file begins with the sizes of all its tensors,
//! and which a layer has is known only once it is solved.

use crate::pipeline::PipelineError;
use crate::pipeline::atomic::OutputError;
use crate::pipeline::checkpoint::{SafetensorsWriter, TensorSpec, Tensors};
use crate::pipeline::packed::{LayerEntry, layer_specs, write_layer};
use crate::quant::{ActivationQuantizer, Precision, QuantizedLayer};
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;

/// Solved layers in a temporary folder that disappears with this.
#[derive(Debug)]
pub(super) struct Spool {
    folder: TempDir,
    layers: BTreeMap<String, Spooled>,
}

/// A layer in the spool.
#[derive(Debug)]
pub(super) struct Spooled {
    /// Of the layer.
    pub(super) name: String,
    stem: String,
    /// What the manifest says about it.
    pub(super) entry: LayerEntry,
    /// Its tensors, in order.
    pub(super) specs: Vec<TensorSpec>,
    /// Its widths.
    pub(super) precision: Precision,
    /// Bytes of all but the bias.
    pub(super) bytes: u64,
}

impl Spool {
    /// A spool within `folder`.
    pub(super) fn new(folder: &Path) -> Result<Self, OutputError> {
        let temporary = tempfile::Builder::new().prefix(".solved-").tempdir_in(folder);
        let folder = temporary.map_err(OutputError::io("create", folder))?;
        Ok(Self { folder, layers: BTreeMap::new() })
    }

    /// Stores `layer` under `name`.
    ///
    /// # Errors
    ///
    /// If it cannot be stored.
    pub(super) fn add(
        &mut self,
        name: &str,
        layer: &QuantizedLayer,
        method: &str,
    ) -> Result<&Spooled, PipelineError> {
        let entry = LayerEntry::from_layer(layer, method);
        let specs = layer_specs(name, layer.shape(), &entry, layer.bias.is_some());
        let specs = specs.map_err(|err| PipelineError::Setting(err.to_string()))?;
        let stem = format!("{:06}", self.layers.len());
        let (path, none) = (self.folder.path(), BTreeMap::new());
        let mut writer = SafetensorsWriter::create(path, &stem, &specs, &none, u64::MAX)?;
        write_layer(&mut writer, name, layer)?;
        writer.finish()?;
        let is_bias = |spec: &&TensorSpec| spec.name.ends_with(".bias");
        let bytes = specs.iter().filter(|spec| !is_bias(spec)).map(TensorSpec::byte_len).sum();
        let precision = Precision {
            weights: Some(layer.rows.bits),
            activations: layer.activations.as_ref().map(ActivationQuantizer::bits),
        };
        let spooled = Spooled { name: name.to_owned(), stem, entry, specs, precision, bytes };
        Ok(self.layers.entry(name.to_owned()).insert_entry(spooled).into_mut())
    }

    /// The precision of all layers.
    pub(super) fn precision(&self) -> String {
        Precision::summary(self.layers.values().map(|layer| layer.precision))
    }

    /// Layer `name`, if it is there.
    pub(super) fn get(&self, name: &str) -> Option<&Spooled> {
        self.layers.get(name)
    }

    /// Moves the tensors of a layer to `writer`.
    ///
    /// # Errors
    ///
    /// If they cannot be read or stored.
    pub(super) fn write(
        &self,
        layer: &Spooled,
        writer: &mut SafetensorsWriter,
    ) -> Result<(), PipelineError> {
        let tensors =
            Tensors::open(&self.folder.path().join(format!("{}.safetensors", layer.stem)))?;
        for spec in &layer.specs {
            writer.write(&spec.name, &tensors.raw(&spec.name)?.bytes)?;
        }
        Ok(())
    }
}
