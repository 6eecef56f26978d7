//! The header of a GGUF file: metadata, then names, types, shapes and places of the tensors.

use super::super::error::{quoted, shorten};
use super::super::header::{Gaps, Header, MAX_DIMS, MAX_HEADER_BYTES, TensorInfo, check_places};
use super::super::{CheckpointError, Dtype, StoredType};
use super::BlockType;
use super::bytes::{Bytes, Problem};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// First bytes of every GGUF file.
pub(in super::super) const MAGIC: [u8; 4] = *b"GGUF";
/// Metadata that says which shape a tensor had before it was forced into four dimensions;
/// [ComfyUI-GGUF](https://github.com/city96/ComfyUI-GGUF) writes it.
const SHAPE_PREFIX: &str = "comfy.gguf.orig_shape.";

/// Versions that differ in nothing that is read here.
const VERSIONS: [u32; 2] = [2, 3];
/// More entries or tensors than any file has.
const MAX_ENTRIES: u64 = 1 << 20;
/// Longest name of a tensor or key; the format allows 65 535.
const MAX_NAME: u64 = u16::MAX as u64;
/// Longest text that is kept; chat templates and licenses are longer and not needed.
const MAX_TEXT: u64 = 200;
/// Where tensors start, unless `general.alignment` says otherwise.
const ALIGNMENT: u64 = 32;

/// Reads the header of `file`, which has `len` bytes; returns it with the first byte of the data.
///
/// The metadata are the texts and numbers of the file, as text, and the shapes under
/// [`SHAPE_PREFIX`]; vocabularies and other lists are passed over.
pub(in super::super) fn read_header(
    file: &mut File,
    len: u64,
    path: &Path,
) -> Result<(Header, u64), CheckpointError> {
    file.seek(SeekFrom::Start(0)).map_err(CheckpointError::io("read", path))?;
    let mut bytes = Bytes::new(BufReader::new(file), 0, MAX_HEADER_BYTES);
    let of_problem = |problem| match problem {
        Problem::Io(source) => CheckpointError::io("read", path)(source),
        Problem::Text(problem) => CheckpointError::gguf_header(problem, path),
        Problem::Unsupported(found, supported) => {
            CheckpointError::Unsupported { found, supported, path: path.to_owned() }
        }
    };
    let (metadata, raw) = parse(&mut bytes).map_err(of_problem)?;
    let alignment = alignment(&metadata).map_err(of_problem)?;
    let data_start = bytes.position().next_multiple_of(alignment);
    let mut tensors = BTreeMap::new();
    for (name, tensor) in raw {
        let stored = stored_type(tensor.number).ok_or_else(|| CheckpointError::Unsupported {
            found: format!("tensor {} of type {} of ggml", quoted(&name), tensor.number),
            supported: format!(
                "F32, F16, BF16, {}",
                BlockType::ALL.map(BlockType::name).join(", ")
            ),
            path: path.to_owned(),
        })?;
        let info = tensor
            .checked(&name, stored, alignment, &metadata)
            .map_err(|problem| CheckpointError::tensor(&name, problem, path))?;
        if tensors.contains_key(&name) {
            return Err(CheckpointError::tensor(&name, "occurs twice", path));
        }
        tensors.insert(name, info);
    }
    check_places(&tensors, Gaps::Allowed, len.saturating_sub(data_start), path)?;
    Ok((Header { tensors, metadata }, data_start))
}

/// A tensor as the header describes it.
struct RawTensor {
    /// Innermost dimension first, as ggml counts them.
    dims: Vec<u64>,
    number: u32,
    offset: u64,
}

type Metadata = BTreeMap<String, String>;

fn parse<R: Read>(bytes: &mut Bytes<R>) -> Result<(Metadata, Vec<(String, RawTensor)>), Problem> {
    let _magic: [u8; 4] = bytes.array()?;
    let version = bytes.u32()?;
    if version & 0xFFFF == 0 {
        return Err(unsupported("the byte order of big-endian machines", "little-endian files"));
    }
    if !VERSIONS.contains(&version) {
        return Err(unsupported(&format!("GGUF version {version}"), "2 and 3"));
    }
    let (tensor_count, entry_count) = (bytes.u64()?, bytes.u64()?);
    if tensor_count.max(entry_count) > MAX_ENTRIES {
        let problem = format!("it announces {tensor_count} tensors and {entry_count} entries");
        return Err(problem.into());
    }
    let mut metadata = BTreeMap::new();
    for _ in 0..entry_count {
        let key = bytes.string(MAX_NAME)?;
        let value = read_value(bytes, &key)?;
        if metadata.contains_key(&key) {
            return Err(format!("its header has {} twice", quoted(&key)).into());
        }
        if let Some(value) = value {
            metadata.insert(key, value);
        }
    }
    if let Some(count) = metadata.get("split.count").filter(|count| count.as_str() != "1") {
        let found = format!("one of {} parts of a GGUF file", shorten(count));
        return Err(unsupported(&found, "whole files; `llama-gguf-split --merge` joins the parts"));
    }
    let mut tensors = Vec::new();
    for _ in 0..tensor_count {
        let name = bytes.string(MAX_NAME)?;
        let dim_count = bytes.u32()?;
        if dim_count as usize > MAX_DIMS {
            return Err(format!("tensor {} has {dim_count} dimensions", quoted(&name)).into());
        }
        let dims = (0..dim_count).map(|_| bytes.u64()).collect::<Result<_, _>>()?;
        tensors.push((name, RawTensor { dims, number: bytes.u32()?, offset: bytes.u64()? }));
    }
    Ok((metadata, tensors))
}

fn unsupported(found: &str, supported: &str) -> Problem {
    Problem::Unsupported(found.to_owned(), supported.to_owned())
}

/// The type of that number in ggml, if it is read.
fn stored_type(number: u32) -> Option<StoredType> {
    let dtype = match number {
        0 => Dtype::F32,
        1 => Dtype::F16,
        24 => Dtype::I8,
        25 => Dtype::I16,
        26 => Dtype::I32,
        27 => Dtype::I64,
        28 => Dtype::F64,
        30 => Dtype::BF16,
        blocks => return BlockType::from_number(blocks).map(StoredType::Blocks),
    };
    Some(StoredType::Plain(dtype))
}

/// The value of `key` as text; `None` if it is a list or long text that is not needed.
fn read_value<R: Read>(bytes: &mut Bytes<R>, key: &str) -> Result<Option<String>, Problem> {
    Ok(Some(match bytes.u32()? {
        0 => u8::from_le_bytes(bytes.array()?).to_string(),
        1 => i8::from_le_bytes(bytes.array()?).to_string(),
        2 => u16::from_le_bytes(bytes.array()?).to_string(),
        3 => i16::from_le_bytes(bytes.array()?).to_string(),
        4 => bytes.u32()?.to_string(),
        5 => i32::from_le_bytes(bytes.array()?).to_string(),
        6 => f32::from_le_bytes(bytes.array()?).to_string(),
        7 => (bytes.array::<1>()? != [0]).to_string(),
        8 => return read_text(bytes),
        9 => return read_list(bytes, key),
        10 => bytes.u64()?.to_string(),
        11 => i64::from_le_bytes(bytes.array()?).to_string(),
        12 => f64::from_le_bytes(bytes.array()?).to_string(),
        other => return Err(format!("{} is of the unknown type {other}", quoted(key)).into()),
    }))
}

fn read_text<R: Read>(bytes: &mut Bytes<R>) -> Result<Option<String>, Problem> {
    let text = bytes.string(MAX_HEADER_BYTES)?;
    Ok((text.len() as u64 <= MAX_TEXT).then_some(text))
}

fn read_list<R: Read>(bytes: &mut Bytes<R>, key: &str) -> Result<Option<String>, Problem> {
    let (kind, count) = (bytes.u32()?, bytes.u64()?);
    let size = match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        8 => {
            for _ in 0..count {
                let len = bytes.u64()?;
                bytes.skip(len)?;
            }
            return Ok(None);
        }
        other => return Err(format!("{} is a list of the type {other}", quoted(key)).into()),
    };
    if matches!(kind, 4 | 5) && key.starts_with(SHAPE_PREFIX) && count <= MAX_DIMS as u64 {
        let dims = (0..count).map(|_| Ok(bytes.u32()?.to_string()));
        return Ok(Some(dims.collect::<Result<Vec<_>, Problem>>()?.join(",")));
    }
    bytes.skip(count.saturating_mul(size))?;
    Ok(None)
}

fn alignment(metadata: &Metadata) -> Result<u64, Problem> {
    let Some(text) = metadata.get("general.alignment") else { return Ok(ALIGNMENT) };
    text.parse()
        .ok()
        .filter(|alignment: &u64| alignment.is_power_of_two() && *alignment <= 1 << 20)
        .ok_or_else(|| format!("its general.alignment is {}", shorten(text)).into())
}

impl RawTensor {
    fn checked(
        self,
        name: &str,
        stored: StoredType,
        alignment: u64,
        metadata: &Metadata,
    ) -> Result<TensorInfo, String> {
        let mut shape = to_usize(self.dims.iter().rev().copied())
            .ok_or_else(|| format!("has shape {:?}, too large for this machine", self.dims))?;
        let len = stored.byte_len(&shape)?;
        if !self.offset.is_multiple_of(alignment) {
            return Err(format!("starts at byte {}, no multiple of {alignment}", self.offset));
        }
        if let Some(original) = metadata.get(&format!("{SHAPE_PREFIX}{name}")) {
            shape = original_shape(original, &shape)
                .ok_or_else(|| format!("has shape {shape:?}, but said to be [{original}]"))?;
        }
        Ok(TensorInfo::new(stored, shape, self.offset, len))
    }
}

fn to_usize(dims: impl Iterator<Item = u64>) -> Option<Vec<usize>> {
    dims.map(|dim| usize::try_from(dim).ok()).collect()
}

/// The shape in `text`, if it has as many elements as `shape`.
fn original_shape(text: &str, shape: &[usize]) -> Option<Vec<usize>> {
    let dims: Vec<usize> = text.split(',').map(|dim| dim.parse().ok()).collect::<Option<_>>()?;
    let elements = |dims: &[usize]| dims.iter().try_fold(1_usize, |n, &dim| n.checked_mul(dim));
    (elements(&dims)? == elements(shape)?).then_some(dims)
}
