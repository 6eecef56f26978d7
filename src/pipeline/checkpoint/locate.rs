//! Which file of a component's folder holds the weights.

use super::CheckpointError;
use super::error::quoted;
use std::fs;
use std::path::{Path, PathBuf};

/// Precisions that may stand in a file name; contents are converted, so any will do.
const VARIANTS: [&str; 3] = ["fp16", "bf16", "fp32"];

/// Formats that are refused by name: most can run code when they are read.
const OTHER_FORMATS: [&str; 6] = ["bin", "pth", "pt", "ckpt", "msgpack", "h5"];

/// The file or index `<stem>.safetensors` in `folder`, else `<stem>.gguf`, else its only variant.
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
    let plain = [
        format!("{stem}.safetensors"),
        format!("{stem}.safetensors.index.json"),
        format!("{stem}.gguf"),
    ];
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

/// Refuses a file that is one of several.
///
/// # Errors
///
/// If the name says so.
pub(super) fn refuse_shard(path: &Path) -> Result<(), CheckpointError> {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let Some((stem, count)) = shard_of(&name) else { return Ok(()) };
    Err(CheckpointError::Unsupported {
        found: format!("one of {count} shards"),
        supported: format!("the index of all, {stem}.safetensors.index.json"),
        path: path.to_owned(),
    })
}

/// Stem and number of shards in a name such as `stem-00001-of-00003.safetensors`.
fn shard_of(name: &str) -> Option<(&str, u32)> {
    let (stem, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (stem, number) = stem.rsplit_once('-')?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(number) && is_number(count)).then_some((stem, count.parse().ok()?))
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
    let is_readable = |name: &&String| name.ends_with(".safetensors") || name.ends_with(".gguf");
    names.iter().find(is_readable).map_or_else(String::new, |name| {
        format!(", only {}: rename it if these are the weights", quoted(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_known_by_their_names() {
        assert_eq!(shard_of("m-00001-of-00003.safetensors"), Some(("m", 3)));
        assert_eq!(shard_of("a-of-b-00002-of-00002.safetensors"), Some(("a-of-b", 2)));
        for name in ["m.safetensors", "m-1-of-3.safetensors", "best-of-00003.safetensors", ""] {
            assert_eq!(shard_of(name), None, "{name}");
        }
    }
}
