//! Writing a model folder in the diffusers layout.

use crate::pipeline::atomic::OutputError;
use crate::pipeline::checkpoint::{Dtype, SafetensorsWriter, TensorSpec};
use crate::pipeline::companions::write_json;
use crate::train::TrainError;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Name, shape and values of a tensor.
pub(super) type NamedValues = (String, Vec<usize>, Vec<f32>);

/// Writes the folder of a component: `config.json` and one file of f32 tensors named `stem`.
///
/// # Errors
///
/// If it cannot be written.
pub(super) fn write_component(
    folder: &Path,
    config: &Value,
    stem: &str,
    tensors: &[NamedValues],
) -> Result<(), TrainError> {
    fs::create_dir_all(folder).map_err(OutputError::io("create", folder))?;
    write_json(&folder.join("config.json"), config)?;
    let specs: Vec<TensorSpec> = tensors
        .iter()
        .map(|(name, shape, _)| TensorSpec {
            name: name.clone(),
            dtype: Dtype::F32,
            shape: shape.clone(),
        })
        .collect();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut writer = SafetensorsWriter::create(folder, stem, &specs, &metadata, u64::MAX)?;
    for (name, _, values) in tensors {
        writer.write(name, bytemuck::cast_slice(values))?;
    }
    writer.finish()?;
    Ok(())
}
