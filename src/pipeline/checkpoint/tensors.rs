//! The tensors of one safetensors or GGUF file, or of all shards of an index.

use super::error::quoted;
use super::file::TensorFile;
use super::index::Index;
use super::{CheckpointError, Dtype, StoredType, TensorInfo};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Named tensors on disk; opening reads the headers only.
#[derive(Debug)]
pub struct Tensors {
    path: PathBuf,
    files: Vec<TensorFile>,
    places: BTreeMap<String, Place>,
}

/// Where a tensor is.
#[derive(Clone, Debug)]
struct Place {
    /// Position in `files`.
    file: usize,
    /// Its name there.
    stored: String,
}

/// A tensor as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawTensor {
    /// How elements are stored.
    pub dtype: StoredType,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// Row-major, little-endian.
    pub bytes: Vec<u8>,
}

impl Tensors {
    /// Opens a `.safetensors` or `.gguf` file, or a `.json` index with the shards beside it.
    ///
    /// # Errors
    ///
    /// If a file is missing, cannot be read, is damaged, or contradicts the index.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        if path.extension().is_some_and(|extension| extension == "json") {
            Self::open_index(path)
        } else {
            let file = TensorFile::open(path)?;
            let place = |name: &String| (name.clone(), Place { file: 0, stored: name.clone() });
            let places = file.header().tensors.keys().map(place).collect();
            Ok(Self { path: path.to_owned(), files: vec![file], places })
        }
    }

    fn open_index(path: &Path) -> Result<Self, CheckpointError> {
        let index = Index::read(path)?;
        let mut files = Vec::with_capacity(index.shards.len());
        for shard in &index.shards {
            let shard_path = path.with_file_name(shard);
            if !shard_path.exists() {
                let problem = format!("the shard {} is missing", quoted(shard));
                return Err(CheckpointError::index(problem, path));
            }
            files.push(TensorFile::open(&shard_path)?);
        }
        let mut places = BTreeMap::new();
        for (name, shard) in index.weight_map {
            let at = index.shards.binary_search(&shard).expect("shards lists every value");
            if !files[at].header().tensors.contains_key(&name) {
                let problem =
                    format!("the shard {} does not hold tensor {}", quoted(&shard), quoted(&name));
                return Err(CheckpointError::index(problem, path));
            }
            places.insert(name.clone(), Place { file: at, stored: name });
        }
        Ok(Self { path: path.to_owned(), files, places })
    }

    /// The same tensors under the names that `rename` gives them; `None` leaves a tensor out.
    ///
    /// # Errors
    ///
    /// If two tensors would have the same name.
    pub fn renamed(
        mut self,
        rename: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, CheckpointError> {
        for (name, place) in std::mem::take(&mut self.places) {
            let Some(renamed) = rename(&name) else { continue };
            if let Some(other) = self.places.insert(renamed, place) {
                let problem = format!("stands for the same parameter as {}", quoted(&other.stored));
                return Err(CheckpointError::tensor(&name, problem, &self.path));
            }
        }
        Ok(self)
    }

    /// Every file, the shards of an index in order.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.files.iter().map(TensorFile::path)
    }

    /// The file or index that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that holds tensor `name`; the path that was opened if none does.
    pub fn path_of(&self, name: &str) -> &Path {
        self.places.get(name).map_or(&self.path, |place| self.files[place.file].path())
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Type and shape of tensor `name`, if it exists.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.find(name).ok().map(|(_, info)| info)
    }

    /// The free-form text in the header, of the first shard if there are several; of a GGUF file,
    /// its short texts and numbers.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.files[0].header().metadata
    }

    /// The values of a float tensor as f32, row-major, converted while reading.
    ///
    /// # Errors
    ///
    /// If there is no such tensor, it is of no type that stands for real numbers, holds a value
    /// that is not finite, or cannot be read.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let (file, info) = self.find(name)?;
        let mut values = Vec::new();
        file.extend_floats(name, info, 0..info.elements(), &mut values)?;
        Ok(values)
    }

    /// Rows of a two-dimensional float tensor, in the order asked for, without reading others.
    ///
    /// # Errors
    ///
    /// As [`Tensors::floats`], or if the tensor has no such row.
    pub fn float_rows(&self, name: &str, rows: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let (file, info) = self.find(name)?;
        let mut values = Vec::new();
        for &row in rows {
            match *info.shape() {
                [count, columns] if row < count => {
                    let (row, columns) = (row as u64, columns as u64);
                    let range = row * columns..(row + 1) * columns;
                    file.extend_floats(name, info, range, &mut values)?;
                }
                _ => {
                    return Err(CheckpointError::Row {
                        tensor: quoted(name),
                        shape: info.shape().to_vec(),
                        row,
                        path: file.path().to_owned(),
                    });
                }
            }
        }
        Ok(values)
    }

    /// The words of a U32 or I32 tensor, row-major; negative numbers keep their bits.
    ///
    /// # Errors
    ///
    /// If there is no such tensor, it has another type, or cannot be read.
    pub fn words(&self, name: &str) -> Result<Vec<u32>, CheckpointError> {
        let (file, info) = self.find(name)?;
        if !matches!(info.dtype().plain(), Some(Dtype::U32 | Dtype::I32)) {
            return Err(CheckpointError::Dtype {
                tensor: quoted(name),
                dtype: info.dtype(),
                expected: "U32 or I32",
                path: file.path().to_owned(),
            });
        }
        file.words(info)
    }

    /// A tensor of any type, as it is stored.
    ///
    /// # Errors
    ///
    /// If there is no such tensor or it cannot be read.
    pub fn raw(&self, name: &str) -> Result<RawTensor, CheckpointError> {
        let (file, info) = self.find(name)?;
        let bytes = file.bytes(info)?;
        Ok(RawTensor { dtype: info.dtype(), shape: info.shape().to_vec(), bytes })
    }

    fn find(&self, name: &str) -> Result<(&TensorFile, &TensorInfo), CheckpointError> {
        self.places
            .get(name)
            .and_then(|Place { file, stored }| {
                let file = &self.files[*file];
                Some((file, file.header().tensors.get(stored)?))
            })
            .ok_or_else(|| CheckpointError::MissingTensor {
                tensor: quoted(name),
                path: self.path.clone(),
            })
    }
}
