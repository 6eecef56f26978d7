//! The files of a cache.

use super::{Index, Key, ModelFacts, SourceKind, data_error};
use crate::pipeline::atomic::OutputError;
use crate::pipeline::checkpoint::{CheckpointError, Dtype, SafetensorsWriter, TensorSpec, Tensors};
use crate::train::TrainError;
use half::f16;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// How values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheDtype {
    /// Exactly as they were computed.
    #[default]
    F32,
    /// Rounded, in half the space.
    F16,
}

/// The two kinds of files of a cache.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// `[channels, frames, height, width]`.
    Latent,
    /// `[tokens, text_dim]` without padding.
    Text,
}

impl Part {
    fn folder(self) -> &'static str {
        match self {
            Self::Latent => "latents",
            Self::Text => "texts",
        }
    }

    /// Name of the one tensor in the file.
    fn tensor(self) -> &'static str {
        match self {
            Self::Latent => "latent",
            Self::Text => "text",
        }
    }
}

/// Entry of a file's header that says what made it.
const FINGERPRINT: &str = "fingerprint";

/// The files of a cache.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    dtype: CacheDtype,
}

impl Store {
    /// The cache at `folder`, to read it.
    pub(super) fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), dtype: CacheDtype::F32 }
    }

    /// The cache at `folder`, made if it is not there.
    ///
    /// # Errors
    ///
    /// If it cannot be made, or holds something else.
    pub(super) fn create(
        folder: &Path,
        dtype: CacheDtype,
        kind: SourceKind,
    ) -> Result<Self, TrainError> {
        match Index::read(folder)? {
            Some(index) if index.kind != kind => {
                let found = match index.kind {
                    SourceKind::Clips => "clips",
                    SourceKind::Prompts => "prompts",
                };
                let message = format!("this is a cache of {found}; name another folder");
                return Err(data_error(message, folder));
            }
            _ => {}
        }
        for part in [Part::Latent, Part::Text] {
            for path in [folder.to_owned(), folder.join(part.folder())] {
                match fs::create_dir(&path) {
                    Err(err) if err.kind() == ErrorKind::NotFound => {
                        let path = folder.parent().unwrap_or(Path::new("")).to_owned();
                        return Err(OutputError::MissingParent { path }.into());
                    }
                    Err(err) if !path.is_dir() => {
                        return Err(OutputError::io("create", &path)(err).into());
                    }
                    _ => {}
                }
            }
        }
        Ok(Self { folder: folder.to_owned(), dtype })
    }

    /// The file `key`.
    pub(super) fn path(&self, part: Part, key: &Key) -> PathBuf {
        self.folder.join(part.folder()).join(format!("{}.safetensors", key.as_str()))
    }

    /// The shape in the file `key`, if it is there, whole, and `fingerprint` made it.
    pub(super) fn find(&self, part: Part, key: &Key, fingerprint: &Key) -> Option<Vec<usize>> {
        let tensors = Tensors::open(&self.path(part, key)).ok()?;
        let is_current =
            tensors.metadata().get(FINGERPRINT).map(String::as_str) == Some(fingerprint.as_str());
        let shape = tensors.info(part.tensor())?.shape().to_vec();
        is_current.then_some(shape)
    }

    /// Writes the file `key`.
    ///
    /// # Errors
    ///
    /// If a value is not finite or does not fit the type, or the file system refuses.
    pub(super) fn write(
        &self,
        part: Part,
        (key, fingerprint): (&Key, &Key),
        (values, shape): (&[f32], &[usize]),
        facts: &[(&str, &str)],
    ) -> Result<(), TrainError> {
        let path = self.path(part, key);
        let (dtype, bytes): (_, Vec<u8>) = match self.dtype {
            CacheDtype::F32 => (Dtype::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            CacheDtype::F16 => {
                let half = values.iter().map(|&value| f16::from_f32(value));
                if let Some(value) = half.clone().find(|value| !value.is_finite()) {
                    let message = format!("a value of {value} does not fit 16 bits; store f32");
                    return Err(data_error(message, &path));
                }
                (Dtype::F16, half.flat_map(f16::to_le_bytes).collect())
            }
        };
        let mut metadata: BTreeMap<String, String> =
            facts.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        metadata.insert(FINGERPRINT.to_owned(), fingerprint.as_str().to_owned());
        let name = part.tensor();
        let spec = TensorSpec { name: name.to_owned(), dtype, shape: shape.to_vec() };
        let folder = self.folder.join(part.folder());
        let mut writer =
            SafetensorsWriter::create(&folder, key.as_str(), &[spec], &metadata, u64::MAX)?;
        writer.write(name, &bytes)?;
        writer.finish()?;
        Ok(())
    }

    /// The values of the file `key` and their shape.
    ///
    /// # Errors
    ///
    /// If the file is missing or damaged, or its tensor has not `D` dimensions.
    pub(super) fn read<const D: usize>(
        &self,
        part: Part,
        key: &Key,
    ) -> Result<(Vec<f32>, [usize; D]), TrainError> {
        let path = self.path(part, key);
        let unusable = |err: CheckpointError| {
            let message = match &err {
                CheckpointError::NotFinite { value, index, .. } => {
                    format!(
                        "the cached file holds {value} at element {index}; delete it and run \
                             `qvgen cache` again"
                    )
                }
                _ => {
                    log::debug!("{err}");
                    "the cached file is missing or damaged; run `qvgen cache` again".to_owned()
                }
            };
            data_error(message, &path)
        };
        let tensors = Tensors::open(&path).map_err(unusable)?;
        let values = tensors.floats(part.tensor()).map_err(unusable)?;
        let shape = tensors.info(part.tensor()).map(|info| info.shape().to_vec());
        let shape = shape.and_then(|shape| shape.try_into().ok());
        let shape = shape.ok_or_else(|| {
            data_error("the cached file is of another kind; run `qvgen cache` again", &path)
        })?;
        Ok((values, shape))
    }

    /// The embedding `key` `[text_tokens, text_dim]`, zero behind its end, as the model expects it.
    ///
    /// # Errors
    ///
    /// As [`Store::read`], or if the embedding does not fit the model.
    pub(super) fn read_text(
        &self,
        key: &Key,
        model: &ModelFacts,
    ) -> Result<(Vec<f32>, [usize; 2]), TrainError> {
        let (mut values, [tokens, columns]) = self.read(Part::Text, key)?;
        let shape = [model.text_tokens, model.text_dim];
        if tokens > shape[0] || columns != shape[1] {
            let message = format!(
                "the cached caption is [{tokens}, {columns}], the model takes {shape:?}; run \
                 `qvgen cache` again"
            );
            return Err(data_error(message, &self.path(Part::Text, key)));
        }
        values.resize(shape[0] * shape[1], 0.0);
        Ok((values, shape))
    }
}
