//! A model folder to a packed one, tensor by tensor: the peak is one layer, not the model.

mod packing;

use super::PipelineError;
use super::atomic::{AtomicFolder, Existing, OutputError};
use super::cancel::Cancel;
use super::checkpoint::{ComponentKind, REFERENCES_FILE, read_json};
use super::model::WanModel;
use super::packed::{FORMAT, VERSION};
use crate::kernels::device::OpenDevice;
use crate::method::Rounding;
use packing::Packing;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// File that shows that a folder is an output of ours and may be replaced.
const MARKER: &str = REFERENCES_FILE;

/// What to do.
#[derive(Clone, Debug)]
pub struct QuantizeJob {
    /// Folder to write.
    pub out: PathBuf,
    /// The transformer.
    pub transformer: Rounding,
    /// The text encoder; `None` to leave it as it is.
    pub text_encoder: Option<Rounding>,
    /// Leave components that are not quantized where they are, instead of copying them.
    pub refer: bool,
    /// Replace an earlier output.
    pub overwrite: bool,
    /// Largest file.
    pub max_shard_bytes: u64,
}

/// One quantized layer.
#[derive(Clone, Debug, Serialize)]
pub struct LayerReport {
    /// Component and full name.
    pub name: String,
    /// Precision, such as `w4a4`.
    pub precision: String,
    /// `[out_features, in_features]`.
    pub shape: [usize; 2],
    /// `‖W − Ŵ‖ / ‖W‖`.
    pub relative_error: f64,
    /// Bits per weight, grids included.
    pub bits_per_weight: f64,
    /// Bytes in the source.
    pub bytes_before: u64,
    /// Bytes of codes and grids.
    pub bytes_after: u64,
}

/// All that was done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct QuantizeReport {
    /// Quantized layers, in order.
    pub layers: Vec<LayerReport>,
    /// Weight files of the quantized components before, bytes.
    pub bytes_before: u64,
    /// The same after.
    pub bytes_after: u64,
}

/// Quantizes `model` as `job` says; `progress` gets each layer, its number and their count.
///
/// # Errors
///
/// If a file is unusable, already quantized, or the output cannot be written. Nothing stays half
/// written.
pub fn quantize(
    model: &WanModel,
    job: &QuantizeJob,
    device: &OpenDevice,
    cancel: &Cancel,
    progress: &mut dyn FnMut(&LayerReport, usize, usize),
) -> Result<QuantizeReport, PipelineError> {
    model.check_files()?;
    let existing = if job.overwrite { Existing::ReplaceIfItHas(MARKER) } else { Existing::Refuse };
    let folder = AtomicFolder::create(&job.out, existing)?;
    let transformer = (ComponentKind::Transformer, &job.transformer, model.transformer.linears());
    let text_encoder = job
        .text_encoder
        .as_ref()
        .map(|rounding| (ComponentKind::TextEncoder, rounding, model.text_encoder.linears()));
    let work: Vec<_> = [Some(transformer), text_encoder].into_iter().flatten().collect();
    let total = work
        .iter()
        .map(|(_, rounding, linears)| {
            linears.iter().filter(|layer| rounding.layer(&layer.name).is_some()).count()
        })
        .sum();

    let mut report = QuantizeReport::default();
    for (kind, rounding, linears) in &work {
        let component = Packing {
            component: model.folder.component(*kind)?,
            out: folder.path().join(kind.name()),
            rounding,
            linears,
            device,
            max_shard_bytes: job.max_shard_bytes,
        };
        component.run(cancel, &mut report, &mut |layer, done| progress(layer, done, total))?;
    }
    let mut references = serde_json::Map::new();
    for kind in ComponentKind::ALL.into_iter().filter(|kind| !work.iter().any(|w| w.0 == *kind)) {
        let component = model.folder.component(kind)?;
        if job.refer {
            let path = fs::canonicalize(&component.path)
                .map_err(OutputError::io("find", &component.path))?;
            let path = path.to_str().ok_or_else(|| {
                PipelineError::Setting(format!(
                    "--refer: the path is not UTF-8 and cannot be remembered: {}",
                    path.display()
                ))
            })?;
            references.insert(kind.name().to_owned(), json!(path));
        } else {
            copy_folder(&component.path, &folder.path().join(kind.name()), cancel)?;
        }
    }
    write_index(model, &folder, references)?;
    folder.commit()?;
    Ok(report)
}

/// Copies the files of a component, following links, without descending into folders.
fn copy_folder(from: &Path, to: &Path, cancel: &Cancel) -> Result<(), PipelineError> {
    fs::create_dir(to).map_err(OutputError::io("create", to))?;
    for entry in fs::read_dir(from).map_err(OutputError::io("list", from))? {
        cancel.check()?;
        let path = entry.map_err(OutputError::io("list", from))?.path();
        if let (true, Some(name)) = (path.is_file(), path.file_name()) {
            fs::copy(&path, to.join(name)).map_err(OutputError::io("copy", &path))?;
        }
    }
    Ok(())
}

fn write_index(
    model: &WanModel,
    folder: &AtomicFolder<'_>,
    references: serde_json::Map<String, Value>,
) -> Result<(), PipelineError> {
    let source = model.folder.path();
    let index = read_json(&source.join("model_index.json"))?;
    write_json(&folder.path().join("model_index.json"), &index)?;
    let source = fs::canonicalize(source).unwrap_or_else(|_| source.to_owned());
    let mut marker: BTreeMap<&str, Value> = BTreeMap::new();
    marker.insert("format", json!(FORMAT));
    marker.insert("version", json!(VERSION));
    marker.insert("source", json!(source.file_name().map(|name| name.to_string_lossy())));
    marker.insert("components", Value::Object(references));
    write_json(&folder.path().join(MARKER), &json!(marker))?;
    let defaults = source.join("sampling.json");
    if defaults.exists() {
        let mut defaults = read_json(&defaults)?;
        if let Value::Object(map) = &mut defaults {
            map.remove("bits");
        }
        write_json(&folder.path().join("sampling.json"), &defaults)?;
    }
    Ok(())
}

fn write_json(path: &Path, value: &Value) -> Result<(), PipelineError> {
    Ok(fs::write(path, format!("{value:#}\n")).map_err(OutputError::io("write", path))?)
}
