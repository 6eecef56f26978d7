//! Safetensors files written tensor by tensor, so that a model need not fit in memory.

use super::{Dtype, StoredType};
use crate::pipeline::atomic::{AtomicFile, OutputError};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What will be written: the header needs it before the first byte of data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Full name.
    pub name: String,
    /// How elements are stored.
    pub dtype: Dtype,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Size in the file.
    ///
    /// # Panics
    ///
    /// If there can be no such tensor.
    pub fn byte_len(&self) -> u64 {
        StoredType::Plain(self.dtype)
            .byte_len(&self.shape)
            .unwrap_or_else(|problem| panic!("tensor {:?} {problem}", self.name))
    }
}

/// Writes tensors to one file, or to several with an index.
///
/// Nothing appears under its name before [`SafetensorsWriter::finish`].
#[derive(Debug)]
pub struct SafetensorsWriter {
    shards: Vec<AtomicFile>,
    /// What must be written next is last.
    pending: Vec<Pending>,
    /// Name and contents of the index, if there are several shards.
    index: Option<(PathBuf, Value)>,
}

#[derive(Debug)]
struct Pending {
    name: String,
    shard: usize,
    /// From the start of the file.
    offset: u64,
    len: u64,
}

impl SafetensorsWriter {
    /// Starts `<stem>.safetensors` in `folder`, or `<stem>-00001-of-0000N.safetensors` with
    /// `<stem>.safetensors.index.json` if the tensors take more than `max_shard_bytes`.
    ///
    /// Every shard carries `metadata`. A tensor is never split, so one that is larger has a shard
    /// of its own.
    ///
    /// # Errors
    ///
    /// If the files cannot be created.
    ///
    /// # Panics
    ///
    /// If a name occurs twice or is reserved.
    pub fn create(
        folder: &Path,
        stem: &str,
        tensors: &[TensorSpec],
        metadata: &BTreeMap<String, String>,
        max_shard_bytes: u64,
    ) -> Result<Self, OutputError> {
        assert_names(tensors);
        let groups = group(tensors, max_shard_bytes);
        let file_names: Vec<String> = match groups.len() {
            1 => vec![format!("{stem}.safetensors")],
            count => (1..=count)
                .map(|number| format!("{stem}-{number:05}-of-{count:05}.safetensors"))
                .collect(),
        };
        let (mut shards, mut pending) = (Vec::new(), Vec::new());
        for (group, file_name) in groups.iter().zip(&file_names) {
            let mut file = AtomicFile::create(&folder.join(file_name))?;
            let (header, offsets) = layout(group, metadata);
            let target = file.target().to_owned();
            file.write_all(&header).map_err(OutputError::io("write", &target))?;
            pending.extend(group.iter().zip(offsets).map(|(tensor, offset)| Pending {
                name: tensor.name.clone(),
                shard: shards.len(),
                offset: header.len() as u64 + offset,
                len: tensor.byte_len(),
            }));
            shards.push(file);
        }
        pending.reverse();
        let index = (groups.len() > 1).then(|| {
            let path = folder.join(format!("{stem}.safetensors.index.json"));
            (path, index_of(&groups, &file_names))
        });
        Ok(Self { shards, pending, index })
    }

    /// Writes the next tensor, row-major and little-endian.
    ///
    /// # Errors
    ///
    /// If it cannot be stored.
    ///
    /// # Panics
    ///
    /// If it is not the turn of `name` or `bytes` has another length than announced.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), OutputError> {
        let next = self.pending.pop();
        let next = next.unwrap_or_else(|| panic!("tensor {name:?} comes after the last one"));
        assert_eq!(next.name, name, "tensors must be written in the order announced");
        assert_eq!(next.len, bytes.len() as u64, "tensor {name:?} has another size than announced");
        let file = &mut self.shards[next.shard];
        let result = file.seek(SeekFrom::Start(next.offset)).and_then(|_| file.write_all(bytes));
        result.map_err(OutputError::io("write", file.target()))
    }

    /// Makes the files appear, the index last, and returns the path to open.
    ///
    /// # Errors
    ///
    /// If a file cannot be stored or renamed.
    ///
    /// # Panics
    ///
    /// If a tensor has not been written.
    pub fn finish(self) -> Result<PathBuf, OutputError> {
        let next = self.pending.last().map(|pending| &pending.name);
        assert_eq!(next, None, "a tensor announced has not been written");
        let mut path = PathBuf::new();
        for file in self.shards {
            path = file.target().to_owned();
            file.commit()?;
        }
        if let Some((index_path, index)) = self.index {
            let mut file = AtomicFile::create(&index_path)?;
            file.write_all(format!("{index:#}\n").as_bytes())
                .map_err(OutputError::io("write", &index_path))?;
            file.commit()?;
            path = index_path;
        }
        Ok(path)
    }
}

fn assert_names(tensors: &[TensorSpec]) {
    let mut names = BTreeSet::new();
    for TensorSpec { name, .. } in tensors {
        assert!(name != "__metadata__", "a tensor cannot be called {name:?}");
        assert!(names.insert(name), "tensor {name:?} is announced twice");
    }
}

/// Consecutive tensors that share a file; at least one group.
fn group(tensors: &[TensorSpec], max_shard_bytes: u64) -> Vec<&[TensorSpec]> {
    let (mut groups, mut first, mut bytes) = (Vec::new(), 0, 0_u64);
    for (at, tensor) in tensors.iter().enumerate() {
        let len = tensor.byte_len();
        if at > first && bytes.saturating_add(len) > max_shard_bytes {
            groups.push(&tensors[first..at]);
            (first, bytes) = (at, 0);
        }
        bytes = bytes.saturating_add(len);
    }
    groups.push(&tensors[first..]);
    groups
}

/// Prefix and header of a file, and where each tensor starts after them.
///
/// Wide types come first and the header is padded, so that every element is aligned: readers that
/// map the file rely on it.
fn layout(tensors: &[TensorSpec], metadata: &BTreeMap<String, String>) -> (Vec<u8>, Vec<u64>) {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(tensors[at].dtype.bitsize()));
    let (mut header, mut offsets, mut end) = (Map::new(), vec![0; tensors.len()], 0);
    if !metadata.is_empty() {
        header.insert("__metadata__".to_owned(), json!(metadata));
    }
    for at in order {
        let TensorSpec { name, dtype, shape } = &tensors[at];
        offsets[at] = end;
        end += tensors[at].byte_len();
        let entry = json!({
            "dtype": dtype.to_string(), "shape": shape, "data_offsets": [offsets[at], end]
        });
        header.insert(name.clone(), entry);
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    (bytes, offsets)
}

fn index_of(groups: &[&[TensorSpec]], file_names: &[String]) -> Value {
    let total: u64 = groups.iter().flat_map(|group| group.iter()).map(TensorSpec::byte_len).sum();
    let weight_map: Map<String, Value> = groups
        .iter()
        .zip(file_names)
        .flat_map(|(group, file)| group.iter().map(move |tensor| (tensor.name.clone(), file)))
        .map(|(name, file)| (name, json!(file)))
        .collect();
    json!({ "metadata": { "total_size": total }, "weight_map": weight_map })
}
