//! One safetensors or GGUF file: its header in memory, its tensors on disk until asked for.

use super::error::quoted;
use super::header::{Header, MAX_HEADER_BYTES, TensorInfo};
use super::json::open_file;
use super::{CheckpointError, dtype, gguf};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Most bytes converted at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// What files of `torch.save` start with: an archive, or before version 1.6 a bare pickle.
const PICKLES: [&[u8]; 2] = [b"PK\x03\x04", b"\x80\x02\x8a\x0a"];

/// Bytes before the header: its length.
const PREFIX_BYTES: u64 = 8;

#[derive(Debug)]
pub(super) struct TensorFile {
    path: PathBuf,
    /// Seek and read belong together, hence the lock; positioned reads differ between systems.
    file: Mutex<File>,
    header: Header,
    /// First byte after the header.
    data_start: u64,
}

impl TensorFile {
    pub(super) fn open(path: &Path) -> Result<Self, CheckpointError> {
        let mut file = open_file(path)?;
        let len = file.metadata().map_err(CheckpointError::io("open", path))?.len();
        if len < PREFIX_BYTES {
            return Err(CheckpointError::header(format!("it has only {len} bytes"), path));
        }
        let mut prefix = [0; PREFIX_BYTES as usize];
        file.read_exact(&mut prefix).map_err(CheckpointError::io("read", path))?;
        if &prefix == b"version " {
            return Err(CheckpointError::LfsPointer { path: path.to_owned() });
        }
        if PICKLES.iter().any(|start| prefix.starts_with(start)) {
            return Err(CheckpointError::Unsupported {
                found: "a pickled PyTorch file, which can run code when it is read,".to_owned(),
                supported: "safetensors and GGUF: convert it, or fetch it in one of these"
                    .to_owned(),
                path: path.to_owned(),
            });
        }
        if prefix.starts_with(&gguf::MAGIC) {
            let (header, data_start) = gguf::read_header(&mut file, len, path)?;
            return Ok(Self { path: path.to_owned(), file: Mutex::new(file), header, data_start });
        }
        let header_len = u64::from_le_bytes(prefix);
        let data_len = (len - PREFIX_BYTES).checked_sub(header_len).ok_or_else(|| {
            let problem = format!("it has {len} bytes but announces a header of {header_len}");
            CheckpointError::header(problem, path)
        })?;
        if header_len > MAX_HEADER_BYTES {
            return Err(CheckpointError::TooLarge {
                limit: MAX_HEADER_BYTES,
                path: path.to_owned(),
            });
        }
        let mut bytes = Vec::new();
        let read = Read::by_ref(&mut file).take(header_len).read_to_end(&mut bytes);
        read.map_err(CheckpointError::io("read", path))?;
        let header = Header::parse(&bytes, data_len, path)?;
        let data_start = PREFIX_BYTES + header_len;
        Ok(Self { path: path.to_owned(), file: Mutex::new(file), header, data_start })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn header(&self) -> &Header {
        &self.header
    }

    /// All bytes of tensor `info`.
    pub(super) fn bytes(&self, info: &TensorInfo) -> Result<Vec<u8>, CheckpointError> {
        let len = self.in_memory(info.byte_len())?;
        let mut bytes = Vec::new();
        self.reserve(&mut bytes, len)?;
        bytes.resize(len, 0);
        self.read_at(info.start(), &mut bytes)?;
        Ok(bytes)
    }

    /// All words of tensor `info`, which has 4-byte elements.
    pub(super) fn words(&self, info: &TensorInfo) -> Result<Vec<u32>, CheckpointError> {
        let len = self.in_memory(info.byte_len() / 4)?;
        let mut words = Vec::new();
        self.reserve(&mut words, len)?;
        words.resize(len, 0_u32);
        self.read_at(info.start(), bytemuck::cast_slice_mut(&mut words))?;
        words.iter_mut().for_each(|word| *word = u32::from_le(*word));
        Ok(words)
    }

    /// The elements `range` of the float tensor `name`, appended to `values`.
    ///
    /// # Panics
    ///
    /// If the range is outside the tensor.
    pub(super) fn extend_floats(
        &self,
        name: &str,
        info: &TensorInfo,
        range: Range<u64>,
        values: &mut Vec<f32>,
    ) -> Result<(), CheckpointError> {
        assert!(range.end <= info.elements(), "extend_floats: {range:?} of {info:?}");
        let dtype = info.dtype();
        let (elements, bytes) = dtype.float_block().ok_or_else(|| CheckpointError::Dtype {
            tensor: quoted(name),
            dtype,
            expected: dtype::FLOATS,
            path: self.path.clone(),
        })?;
        // Whole blocks are read; what they hold outside the range is dropped at the end.
        let blocks = range.start / elements..range.end.div_ceil(elements);
        let first = values.len();
        let count = (blocks.end - blocks.start) * elements;
        self.reserve(values, self.in_memory(count)?)?;
        let most = CHUNK_BYTES / bytes;
        let mut buffer = vec![0; (most.min(blocks.end - blocks.start) * bytes) as usize];
        let mut block = blocks.start;
        while block < blocks.end {
            let chunk = &mut buffer[..(most.min(blocks.end - block) * bytes) as usize];
            self.read_at(info.start() + block * bytes, chunk)?;
            let before = values.len();
            dtype.extend_f32(values, chunk);
            if let Some(at) = values[before..].iter().position(|value| !value.is_finite()) {
                return Err(CheckpointError::NotFinite {
                    tensor: quoted(name),
                    value: values[before + at],
                    index: self.in_memory(block * elements)? + at,
                    path: self.path.clone(),
                });
            }
            block += chunk.len() as u64 / bytes;
        }
        let skipped = self.in_memory(range.start - blocks.start * elements)?;
        values.truncate(first + skipped + self.in_memory(range.end - range.start)?);
        values.drain(first..first + skipped);
        Ok(())
    }

    /// Fills `buffer` from `offset` bytes after the header.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), CheckpointError> {
        // A panic elsewhere leaves only the position undefined, and that is set below.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.data_start + offset))
            .and_then(|_| file.read_exact(buffer))
            .map_err(CheckpointError::io("read", &self.path))
    }

    fn reserve<T>(&self, values: &mut Vec<T>, count: usize) -> Result<(), CheckpointError> {
        values.try_reserve(count).map_err(|_| self.out_of_memory())
    }

    fn in_memory(&self, len: u64) -> Result<usize, CheckpointError> {
        usize::try_from(len).map_err(|_| self.out_of_memory())
    }

    fn out_of_memory(&self) -> CheckpointError {
        CheckpointError::io("hold a tensor of", &self.path)(io::Error::from(ErrorKind::OutOfMemory))
    }
}
