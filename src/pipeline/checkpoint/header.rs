//! The header of a safetensors file: `u64` length, then JSON, then the tensors without gaps.
//!
//! Format: <https://huggingface.co/docs/safetensors>, section "Format".

use super::error::quoted;
use super::json::UniqueMap;
use super::{CheckpointError, Dtype, StoredType};
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::de::{Deserialize, Deserializer, Error as _, IntoDeserializer, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Largest header accepted, the limit of the reference implementation.
pub(super) const MAX_HEADER_BYTES: u64 = 100_000_000;

/// More dimensions than any tensor has; longer lists are garbage.
pub(super) const MAX_DIMS: usize = 16;

/// Type, shape and place of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    dtype: StoredType,
    shape: Vec<usize>,
    /// From the end of the header.
    start: u64,
    len: u64,
}

impl TensorInfo {
    /// A tensor whose `len` bytes are its shape's in that type.
    pub(super) fn new(dtype: StoredType, shape: Vec<usize>, start: u64, len: u64) -> Self {
        Self { dtype, shape, start, len }
    }

    /// How elements are stored.
    pub fn dtype(&self) -> StoredType {
        self.dtype
    }

    /// Outermost dimension first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Product of the shape.
    pub fn elements(&self) -> u64 {
        self.dtype.elements(self.len)
    }

    /// Size in the file.
    pub fn byte_len(&self) -> u64 {
        self.len
    }

    /// First byte, counted from the end of the header.
    pub(super) fn start(&self) -> u64 {
        self.start
    }
}

/// Everything a header says, checked.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) tensors: BTreeMap<String, TensorInfo>,
    pub(super) metadata: BTreeMap<String, String>,
}

impl Header {
    /// Checks `text` against a file with `data_len` bytes after the header.
    pub(super) fn parse(bytes: &[u8], data_len: u64, path: &Path) -> Result<Self, CheckpointError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|err| CheckpointError::header(format!("its header is {err}"), path))?;
        let raw: RawHeader = serde_json::from_str(text)
            .map_err(|err| CheckpointError::header(format!("its header says {err}"), path))?;
        let mut tensors = BTreeMap::new();
        for (name, entry) in raw.tensors.0 {
            let info =
                entry.checked().map_err(|problem| CheckpointError::tensor(&name, problem, path))?;
            tensors.insert(name, info);
        }
        let end = check_places(&tensors, Gaps::None, data_len, path)?;
        if end != data_len {
            let problem = format!("its tensors take {end} bytes, the file has {data_len}");
            return Err(CheckpointError::header(problem, path));
        }
        Ok(Self { tensors, metadata: raw.metadata })
    }
}

/// How the tensors of a file may lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Gaps {
    /// One follows the other.
    None,
    /// Each may start behind some padding.
    Allowed,
}

/// Checks that tensors do not overlap and lie within the `data_len` bytes of data; returns where
/// the last one ends.
pub(super) fn check_places(
    tensors: &BTreeMap<String, TensorInfo>,
    gaps: Gaps,
    data_len: u64,
    path: &Path,
) -> Result<u64, CheckpointError> {
    let mut places: Vec<(u64, Option<u64>, &str)> = tensors
        .iter()
        .map(|(name, info)| (info.start, info.start.checked_add(info.len), &**name))
        .collect();
    places.sort_unstable();
    let mut end = 0;
    for (start, next, name) in places {
        if start < end {
            return Err(CheckpointError::tensor(name, "overlaps another", path));
        }
        if start > end && gaps == Gaps::None {
            return Err(CheckpointError::tensor(name, "leaves a gap before it", path));
        }
        end = next.filter(|&next| next <= data_len).ok_or_else(|| {
            let next = next.unwrap_or(u64::MAX);
            let problem = format!("ends at byte {next} of the data, the file has {data_len}");
            CheckpointError::tensor(name, problem, path)
        })?;
    }
    Ok(end)
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

impl RawTensor {
    fn checked(self) -> Result<TensorInfo, String> {
        if self.shape.len() > MAX_DIMS {
            return Err(format!("has {} dimensions, more than {MAX_DIMS}", self.shape.len()));
        }
        let name: StrDeserializer<'_, ValueError> = self.dtype.as_str().into_deserializer();
        let dtype = Dtype::deserialize(name)
            .map_err(|_| format!("has the unknown type {}", quoted(&self.dtype)))?;
        let shape: Vec<usize> = self
            .shape
            .iter()
            .map(|&dim| usize::try_from(dim))
            .collect::<Result<_, _>>()
            .map_err(|_| format!("has shape {:?}, too large for this machine", self.shape))?;
        let dtype = StoredType::Plain(dtype);
        let expected = dtype.byte_len(&shape)?;
        let [start, end] = self.data_offsets;
        match end.checked_sub(start) {
            None => Err(format!("ends at byte {end}, before its start {start}")),
            Some(len) if len != expected => {
                Err(format!("of {dtype} {shape:?} takes {expected} bytes, but {len} are stored"))
            }
            Some(len) => Ok(TensorInfo { dtype, shape, start, len }),
        }
    }
}

struct RawHeader {
    tensors: UniqueMap<RawTensor>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut tensors = UniqueMap(BTreeMap::new());
                let mut metadata = None;
                while let Some(name) = map.next_key::<String>()? {
                    if name != "__metadata__" {
                        let tensor = map.next_value().map_err(|err| {
                            A::Error::custom(format_args!("tensor {}: {err}", quoted(&name)))
                        })?;
                        tensors.insert(name, tensor)?;
                    } else if metadata.replace(map.next_value::<UniqueMap<String>>()?).is_some() {
                        return Err(A::Error::custom("\"__metadata__\" occurs twice"));
                    }
                }
                let metadata = metadata.map_or_else(BTreeMap::new, |metadata| metadata.0);
                Ok(RawHeader { tensors, metadata })
            }
        }

        deserializer.deserialize_map(Entries)
    }
}
