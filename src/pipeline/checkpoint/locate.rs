//! Which file of a component's folder holds the weights.

use super::CheckpointError;
use super::error::quoted;
use std::fs;
use std::path::{Path, PathBuf};

/// Precisions that may stand in a file name; contents are converted, so any will do.
const VARIANTS: [&str; 3] = ["fp16", "bf16", "fp32"];

/// Formats that are refused by name: most can run code when they are read.
const OTHER_FORMATS: [&str; 7] = ["bin", "pth", "pt", "ckpt", "gguf", "msgpack", "h5"];

/// The file or index `<stem>.safetensors` in `folder`, else its only variant.
///
/// # Errors
///
/// If there is none, or several variants and nothing to choose by.
pub(super) fn weights_in(folder: &Path, stem: &str) -> Result<PathBuf, CheckpointError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(CheckpointError::io("list", folder))? {
        let entry = entry.map_err(CheckpointError::io("list", folder))?;
        // A name that is no Unicode is none of those looked for.
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    let has = |name: &String| names.contains(name);
    let plain = [format!("{stem}.safetensors"), format!("{stem}.safetensors.index.json")];
    if let Some(name) = plain.iter().find(|name| has(name)) {
        return Ok(folder.join(name));
    }
    let variants: Vec<String> =
        VARIANTS.iter().filter_map(|variant| variant_names(stem, variant).find(has)).collect();
    match variants.as_slice() {
        [name] => Ok(folder.join(name)),
        found => Err(CheckpointError::NoWeights {
            expected: plain[0].clone(),
            found: explanation(stem, &names, found),
            path: folder.to_owned(),
        }),
    }
}

/// Names in use for the weights in one precision; indexes were named in two ways.
fn variant_names(stem: &str, variant: &str) -> impl Iterator<Item = String> {
    [
        format!("{stem}.{variant}.safetensors"),
        format!("{stem}.safetensors.index.{variant}.json"),
        format!("{stem}.{variant}.safetensors.index.json"),
    ]
    .into_iter()
}

/// What there is instead, and what to do about it.
fn explanation(stem: &str, names: &[String], variants: &[String]) -> String {
    if !variants.is_empty() {
        return format!(", but several variants ({}): keep one of them", variants.join(", "));
    }
    let is_shard =
        |name: &&String| name.starts_with(&format!("{stem}-")) && name.ends_with(".safetensors");
    if let Some(shard) = names.iter().find(is_shard) {
        let shard = quoted(shard);
        return format!(" or {stem}.safetensors.index.json for {shard}: fetch the index");
    }
    let is_other = |name: &&String| {
        let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
        extension.is_some_and(|extension| OTHER_FORMATS.contains(&extension))
    };
    if let Some(other) = names.iter().find(is_other) {
        let other = quoted(other);
        return format!(", only {other}: weights in safetensors format are needed");
    }
    let is_safetensors = |name: &&String| name.ends_with(".safetensors");
    names.iter().find(is_safetensors).map_or_else(String::new, |name| {
        format!(", only {}: rename it if these are the weights", quoted(name))
    })
}
