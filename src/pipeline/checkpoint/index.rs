//! The index of a sharded checkpoint: which file of the same folder holds which tensor.

use super::CheckpointError;
use super::error::quoted;
use super::json::{UniqueMap, read_json_as};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

/// More shards than any model has; every shard is an open file.
const MAX_SHARDS: usize = 500;

#[derive(serde::Deserialize)]
struct RawIndex {
    weight_map: UniqueMap<String>,
}

/// An index whose file names are safe to open.
#[derive(Debug)]
pub(super) struct Index {
    /// Tensor to shard.
    pub(super) weight_map: BTreeMap<String, String>,
    /// Every shard once, sorted.
    pub(super) shards: Vec<String>,
}

impl Index {
    pub(super) fn read(path: &Path) -> Result<Self, CheckpointError> {
        let RawIndex { weight_map: UniqueMap(weight_map) } = read_json_as(path)?;
        if weight_map.is_empty() {
            return Err(CheckpointError::index("the index lists no tensors", path));
        }
        let shards: BTreeSet<&String> = weight_map.values().collect();
        if shards.len() > MAX_SHARDS {
            let problem = format!("the index lists {} shards", shards.len());
            return Err(CheckpointError::index(problem, path));
        }
        for shard in &shards {
            if !is_plain_file_name(shard) {
                let problem = format!(
                    "the index names {}, which is no plain file name beside it",
                    quoted(shard)
                );
                return Err(CheckpointError::index(problem, path));
            }
        }
        let shards = shards.into_iter().cloned().collect();
        Ok(Self { weight_map, shards })
    }
}

/// Whether `name` can only mean a file in the folder of the index, on every system.
///
/// The check is about the text: the file itself may be a symbolic link, as in download caches.
fn is_plain_file_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let is_one_name = matches!(components.next(), Some(Component::Normal(first)) if first == name);
    is_one_name && components.next().is_none() && !name.contains(['/', '\\', ':', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_file_names_are_followed() {
        assert!(is_plain_file_name("model-00001-of-00002.safetensors"));
        for name in
            ["", ".", "..", "../x", "/x", "a/b", "a/", "./a", "a\\b", "..\\x", "C:x", "a\0b"]
        {
            assert!(!is_plain_file_name(name), "{name:?}");
        }
    }
}
