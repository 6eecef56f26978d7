//! GGUF files as the format's description says, to be read back and to be damaged.

#![allow(dead_code, reason = "every test file uses its own part of this module")]

/// Numbers of types in metadata.
pub(crate) const TEXT: u32 = 8;
pub(crate) const LIST: u32 = 9;
pub(crate) const U32: u32 = 4;

/// What stands in a file, right or wrong.
#[derive(Clone)]
pub(crate) struct Gguf {
    pub(crate) magic: [u8; 4],
    pub(crate) version: u32,
    /// Key, number of the type, bytes of the value.
    pub(crate) metadata: Vec<(String, u32, Vec<u8>)>,
    /// Name, dimensions with the innermost first, number of the type, offset.
    pub(crate) tensors: Vec<(String, Vec<u64>, u32, u64)>,
    pub(crate) data: Vec<u8>,
}

pub(crate) fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl Gguf {
    /// A file of `architecture` without tensors.
    pub(crate) fn new(architecture: &str) -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            metadata: vec![("general.architecture".into(), TEXT, string(architecture))],
            tensors: Vec::new(),
            data: Vec::new(),
        }
    }

    /// With one more tensor of `shape`, outermost dimension first, at the next aligned place.
    pub(crate) fn with(mut self, name: &str, shape: &[usize], number: u32, bytes: &[u8]) -> Self {
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        let dims = shape.iter().rev().map(|&dim| dim as u64).collect();
        self.tensors.push((name.into(), dims, number, self.data.len() as u64));
        self.data.extend(bytes);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, number, value) in &self.metadata {
            bytes.extend(string(key));
            bytes.extend(number.to_le_bytes());
            bytes.extend(value);
        }
        for (name, dims, number, offset) in &self.tensors {
            bytes.extend(string(name));
            bytes.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
            bytes.extend(number.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(&self.data);
        bytes
    }
}
