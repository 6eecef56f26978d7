//! What stands beside a component that was rewritten: the other components, `model_index.json`
//! and the suggestions for sampling, so that the output is a complete model folder.

use super::PipelineError;
use super::atomic::{AtomicFolder, OutputError};
use super::cancel::Cancel;
use super::checkpoint::{Component, ComponentKind, REFERENCES_FILE, Tensors, read_json};
use super::model::VideoModel;
use super::packed::VERSION;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// File that shows that a folder is an output of ours and may be replaced.
pub const MARKER: &str = REFERENCES_FILE;

/// Completes `folder`, which has the components `rewritten` of `model`: the others are copied, or
/// left where they are and remembered if `refer`.
///
/// `format` is what the rewritten components are stored as.
///
/// # Errors
///
/// If a component is missing, a file cannot be written, or the work is canceled.
pub fn write_companions(
    model: &VideoModel,
    folder: &AtomicFolder<'_>,
    rewritten: &[ComponentKind],
    refer: bool,
    format: &str,
    cancel: &Cancel,
) -> Result<(), PipelineError> {
    let (mut references, mut weights) = (Map::new(), Map::new());
    for kind in ComponentKind::ALL.into_iter().filter(|kind| !rewritten.contains(kind)) {
        let component = model.folder.component(kind)?;
        if refer {
            references.insert(kind.name().to_owned(), json!(absolute(&component.path)?));
            if let Some(file) = &component.weights_file {
                weights.insert(kind.name().to_owned(), json!(absolute(file)?));
            }
        } else {
            copy_component(&component, &folder.path().join(kind.name()), cancel)?;
        }
    }
    write_index(model, folder, format, (references, weights))
}

/// `path` from the root, as text that can be remembered.
fn absolute(path: &Path) -> Result<String, PipelineError> {
    let path = fs::canonicalize(path).map_err(OutputError::io("find", path))?;
    path.to_str().map(str::to_owned).ok_or_else(|| {
        PipelineError::Setting(format!(
            "--refer: the path is not UTF-8 and cannot be remembered: {}",
            path.display()
        ))
    })
}

/// Writes `value` to `path`, indented.
///
/// # Errors
///
/// If the file cannot be written.
pub fn write_json(path: &Path, value: &Value) -> Result<(), OutputError> {
    fs::write(path, format!("{value:#}\n")).map_err(OutputError::io("write", path))
}

/// Copies the files of a component, following links, without descending into folders; weights
/// that it has from elsewhere get the name that they are looked for under.
fn copy_component(component: &Component, to: &Path, cancel: &Cancel) -> Result<(), PipelineError> {
    let from = &component.path;
    fs::create_dir(to).map_err(OutputError::io("create", to))?;
    for entry in fs::read_dir(from).map_err(OutputError::io("list", from))? {
        cancel.check()?;
        let path = entry.map_err(OutputError::io("list", from))?.path();
        let is_replaced = component.weights_file.is_some() && is_weights(&path);
        if let (true, Some(name)) = (path.is_file() && !is_replaced, path.file_name()) {
            fs::copy(&path, to.join(name)).map_err(OutputError::io("copy", &path))?;
        }
    }
    let (Some(file), Some(stem)) = (&component.weights_file, component.kind.weights_stem()) else {
        return Ok(());
    };
    let extension = file.extension().unwrap_or_default().to_string_lossy();
    let mut copies = vec![(file.as_path(), format!("{stem}.{extension}"))];
    let tensors = Tensors::open(file)?;
    if extension == "json" {
        copies[0].1 = format!("{stem}.safetensors.index.json");
        let name =
            |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        copies.extend(tensors.files().map(|path| (path, name(path))));
    }
    for (path, name) in copies {
        cancel.check()?;
        fs::copy(path, to.join(name)).map_err(OutputError::io("copy", path))?;
    }
    Ok(())
}

/// Whether the file at `path` holds weights or says which files do.
fn is_weights(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".safetensors") || name.ends_with(".gguf") || name.ends_with(".index.json")
}

fn write_index(
    model: &VideoModel,
    folder: &AtomicFolder<'_>,
    format: &str,
    (references, weights): (Map<String, Value>, Map<String, Value>),
) -> Result<(), PipelineError> {
    let source = model.folder.path();
    let index = read_json(&source.join("model_index.json"))?;
    write_json(&folder.path().join("model_index.json"), &index)?;
    let source = fs::canonicalize(source).unwrap_or_else(|_| source.to_owned());
    let mut marker: BTreeMap<&str, Value> = BTreeMap::new();
    marker.insert("format", json!(format));
    marker.insert("version", json!(VERSION));
    marker.insert("source", json!(source.file_name().map(|name| name.to_string_lossy())));
    marker.insert("components", Value::Object(references));
    let transformer = model.folder.component(ComponentKind::Transformer)?;
    if !transformer.loras.is_empty() {
        let loras: Vec<String> =
            transformer.loras.iter().map(|lora| lora.file().to_string()).collect();
        marker.insert("loras", json!(loras));
    }
    if !weights.is_empty() {
        marker.insert("weights", Value::Object(weights));
    }
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
