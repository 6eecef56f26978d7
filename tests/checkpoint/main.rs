//! Model folders: what is read is what was stored, and no file can do harm.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/gguf.rs"]
mod gguf_file;

mod folders;
mod gguf;
mod hostile;
mod import;
mod layouts;
mod lora;
mod output;
mod reading;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::fs;
use std::path::{Path, PathBuf};

/// The smallest model with all components.
pub(crate) fn wan() -> PathBuf {
    common::fixture("wan_a")
}

/// A temporary folder, removed when dropped.
pub(crate) fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// An owned tensor for the reference writer.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Stored {
    pub(crate) fn new(name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) -> Self {
        Self { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes }
    }

    /// Values of an F32 tensor.
    pub(crate) fn f32(&self) -> Vec<f32> {
        assert_eq!(self.dtype, Dtype::F32);
        self.bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
    }
}

/// Every tensor of a file, by the reference reader.
pub(crate) fn read_reference(path: &Path) -> Vec<Stored> {
    let bytes = fs::read(path).unwrap_or_else(|err| panic!("{err}: {}", path.display()));
    let tensors = SafeTensors::deserialize(&bytes).expect("a valid file");
    let stored = |(name, view): (String, TensorView<'_>)| {
        Stored::new(&name, view.dtype(), view.shape(), view.data().to_vec())
    };
    tensors.tensors().into_iter().map(stored).collect()
}

/// Writes a file by the reference writer.
pub(crate) fn write_reference(path: &Path, tensors: &[Stored]) {
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
        (tensor.name.clone(), view.expect("bytes of that shape"))
    });
    fs::write(path, safetensors::serialize(views, None).expect("valid tensors")).expect("written");
}

/// The bytes of a safetensors file with any header text.
pub(crate) fn file_of(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

/// Copies a folder with its folders.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a new folder");
    for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// The message with its causes, as the program prints it.
pub(crate) fn full_message(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        text = format!("{text}: {err}");
        cause = err.source();
    }
    text
}
