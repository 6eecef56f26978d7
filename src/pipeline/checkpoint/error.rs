//! What can be wrong with a model folder, each in one sentence that says what to do.

use super::StoredType;
use crate::nn::WeightError;
use std::io;
use std::path::{Path, PathBuf};

/// Why a model folder, one of its files or a tensor in it cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// Verb: "open", "read".
        action: &'static str,
        /// File or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A folder, pipe or device stands where a file should.
    #[error("expected a file, found something else at {}", path.display())]
    NotAFile {
        /// What was given.
        path: PathBuf,
    },
    /// A JSON document or header larger than anything sensible.
    #[error("more than {limit} bytes of JSON; this is not the expected file: {}", path.display())]
    TooLarge {
        /// Bytes that would be accepted.
        limit: u64,
        /// The file.
        path: PathBuf,
    },
    /// Text that is no JSON, or JSON of another structure.
    #[error("unusable JSON at line {line}, column {column} of {}", path.display())]
    Json {
        /// Counted from 1.
        line: usize,
        /// Counted from 1; 0 for an empty file.
        column: usize,
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A configuration value of another type than expected, or none.
    #[error("{problem} in {}", path.display())]
    Config {
        /// Dotted path to the value; empty for the document.
        key: String,
        /// Names key and value.
        problem: String,
        /// The file.
        path: PathBuf,
    },
    /// A Git LFS pointer was checked out instead of the file it stands for.
    #[error(
        "holds a Git LFS pointer, not the weights: run `git lfs pull` or download {}",
        path.display()
    )]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// The bytes do not start with a header of the format.
    #[error(
        "not a readable {format} file, {problem}; the download may be incomplete, \
         fetch it again: {}",
        path.display()
    )]
    Header {
        /// Name of the format.
        format: &'static str,
        /// What is wrong, as part of a sentence.
        problem: String,
        /// The file.
        path: PathBuf,
    },
    /// The header contradicts itself or the file.
    #[error(
        "tensor {tensor} {problem}; the download may be incomplete or damaged, \
         fetch it again: {}",
        path.display()
    )]
    Tensor {
        /// Quoted name.
        tensor: String,
        /// What is wrong, as part of a sentence.
        problem: String,
        /// The file.
        path: PathBuf,
    },
    /// The index of a sharded checkpoint cannot be followed.
    #[error("{problem}; fetch the index and its shards again: {}", path.display())]
    Index {
        /// What is wrong, as part of a sentence.
        problem: String,
        /// The index.
        path: PathBuf,
    },
    /// No tensor of that name.
    #[error("tensor {tensor} is missing in {}", path.display())]
    MissingTensor {
        /// Quoted name.
        tensor: String,
        /// File or index searched.
        path: PathBuf,
    },
    /// The tensor is stored in a type that cannot be read as what was asked for.
    #[error("tensor {tensor} is stored as {dtype}, expected {expected} in {}", path.display())]
    Dtype {
        /// Quoted name.
        tensor: String,
        /// Type in the file.
        dtype: StoredType,
        /// Types that would be accepted, as part of a sentence.
        expected: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Rows were asked for that the tensor does not have.
    #[error("tensor {tensor} has shape {shape:?}, row {row} was asked for in {}", path.display())]
    Row {
        /// Quoted name.
        tensor: String,
        /// Shape in the file.
        shape: Vec<usize>,
        /// The row.
        row: usize,
        /// The file.
        path: PathBuf,
    },
    /// A stored value is NaN or infinite, or does not fit f32.
    #[error(
        "tensor {tensor} holds {value} at element {index}; the file is damaged: {}",
        path.display()
    )]
    NotFinite {
        /// Quoted name.
        tensor: String,
        /// The offending value, as f32.
        value: f32,
        /// Flat position.
        index: usize,
        /// The file.
        path: PathBuf,
    },
    /// The path is no model folder at all.
    #[error(
        "{problem}; expected a model in the diffusers layout, a folder with model_index.json: {}",
        path.display()
    )]
    NotAModelFolder {
        /// What was found, as part of a sentence.
        problem: String,
        /// The path given.
        path: PathBuf,
    },
    /// A pipeline, option or class that this program does not implement.
    #[error("{found} is not supported, only {supported}: {}", path.display())]
    Unsupported {
        /// What the file asks for, named.
        found: String,
        /// What would work.
        supported: String,
        /// The file.
        path: PathBuf,
    },
    /// A file that holds something else than what it was given as.
    #[error("this is {found}, expected {wanted}; {advice}: {}", path.display())]
    Foreign {
        /// What it is.
        found: &'static str,
        /// What it was given as.
        wanted: String,
        /// What to do with it.
        advice: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A LoRA or checkpoint that does not fit the model it was given for.
    #[error("{problem}: {}", path.display())]
    Unfit {
        /// What is wrong, as the start of a sentence.
        problem: String,
        /// The file.
        path: PathBuf,
    },
    /// A component that the model should have.
    #[error("the {component} is missing, {problem}; fetch the whole model: {}", path.display())]
    MissingComponent {
        /// Name of the component.
        component: &'static str,
        /// What exactly is missing.
        problem: &'static str,
        /// Where it should be.
        path: PathBuf,
    },
    /// No weights under any of the names they may have.
    #[error("no weights, expected {expected}{found} in {}", path.display())]
    NoWeights {
        /// The file name looked for first.
        expected: String,
        /// What there was instead and what to do, starting with punctuation; may be empty.
        found: String,
        /// The folder.
        path: PathBuf,
    },
}

impl CheckpointError {
    /// Closure for `map_err`.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    pub(super) fn header(problem: impl Into<String>, path: &Path) -> Self {
        let (format, problem) = ("safetensors", shorten(&problem.into()));
        Self::Header { format, problem, path: path.to_owned() }
    }

    pub(super) fn gguf_header(problem: impl Into<String>, path: &Path) -> Self {
        let (format, problem) = ("GGUF", shorten(&problem.into()));
        Self::Header { format, problem, path: path.to_owned() }
    }

    pub(super) fn tensor(name: &str, problem: impl Into<String>, path: &Path) -> Self {
        Self::Tensor { tensor: quoted(name), problem: problem.into(), path: path.to_owned() }
    }

    pub(super) fn index(problem: impl Into<String>, path: &Path) -> Self {
        Self::Index { problem: problem.into(), path: path.to_owned() }
    }

    /// The same as the error of a [`WeightSource`](crate::nn::WeightSource) asked for `tensor`.
    pub fn into_weight_error(self, tensor: &str) -> WeightError {
        let tensor = tensor.to_owned();
        match self {
            Self::MissingTensor { path, .. } => WeightError::Missing { tensor, path },
            Self::NotFinite { value, index, path, .. } => {
                WeightError::NotFinite { tensor, value, index, path }
            }
            Self::Io { action, path, source } => {
                let message = format!("cannot {action} the file, {source}");
                WeightError::Unusable { tensor, message, path }
            }
            Self::Dtype { dtype, expected, path, .. } => {
                let message = format!("is stored as {dtype}, expected {expected}");
                WeightError::Unusable { tensor, message, path }
            }
            Self::Row { shape, row, path, .. } => {
                let message = format!("row {row} was asked for, the shape is {shape:?}");
                WeightError::Unusable { tensor, message, path }
            }
            // Reported when a file is opened, before tensors can be asked for.
            other => {
                let path = other.path().to_owned();
                WeightError::Unusable { tensor, message: other.to_string(), path }
            }
        }
    }

    /// The file or folder at fault.
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. }
            | Self::NotAFile { path }
            | Self::TooLarge { path, .. }
            | Self::Json { path, .. }
            | Self::Config { path, .. }
            | Self::LfsPointer { path }
            | Self::Header { path, .. }
            | Self::Tensor { path, .. }
            | Self::Index { path, .. }
            | Self::MissingTensor { path, .. }
            | Self::Dtype { path, .. }
            | Self::Row { path, .. }
            | Self::NotFinite { path, .. }
            | Self::NotAModelFolder { path, .. }
            | Self::Unsupported { path, .. }
            | Self::Foreign { path, .. }
            | Self::Unfit { path, .. }
            | Self::MissingComponent { path, .. }
            | Self::NoWeights { path, .. } => path,
        }
    }
}

/// A name from a file, safe to print: quoted, control characters escaped, at most about 200 bytes.
pub(super) fn quoted(name: &str) -> String {
    format!("{:?}", shorten(name))
}

/// Cuts a text that a file may have made arbitrarily long.
pub(super) fn shorten(text: &str) -> String {
    const MAX_CHARS: usize = 200;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
