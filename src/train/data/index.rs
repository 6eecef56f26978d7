//! `index.json` of a cache, and the names of its files.

use super::{ModelFacts, data_error};
use crate::pipeline::atomic::{AtomicFile, OutputError};
use crate::train::TrainError;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Write};
use std::path::Path;

/// The list of what a cache holds.
pub const INDEX_FILE: &str = "index.json";
/// Value of `format` in it.
const FORMAT: &str = "qvgen-cache";
/// Value of `version` in it.
const VERSION: u32 = 1;
/// Largest index read, bytes: millions of clips.
const MAX_INDEX: u64 = 1 << 30;

/// SHA-256 in hexadecimal: the name of a file, or what something is recognized by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Key(String);

impl Key {
    /// Of the contents of several texts, none of which can be taken for another.
    pub(super) fn of(parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self::from_hash(hash)
    }

    pub(super) fn from_hash(hash: Sha256) -> Self {
        Self(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Key {
    type Error = String;

    /// Refuses everything that could lead out of the folder.
    fn try_from(text: String) -> Result<Self, String> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == 64 && text.bytes().all(is_digit) {
            Ok(Self(text))
        } else {
            Err("expected 64 hexadecimal digits".to_owned())
        }
    }
}

/// What a cache was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// Clips with captions.
    Clips,
    /// Prompts, for which the model itself made the latents.
    Prompts,
}

/// `index.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    format: String,
    version: u32,
    /// What it was made of.
    pub kind: SourceKind,
    /// Whether the run that wrote it came to its end.
    pub is_complete: bool,
    /// The model that made it.
    pub model: ModelFacts,
    /// The embedding of no caption.
    pub empty_text: Key,
    /// The clips.
    pub entries: Vec<Entry>,
}

/// A clip in a cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// File in `latents`.
    pub latent: Key,
    /// File in `texts`.
    pub text: Key,
    /// `[channels, frames, height, width]` of the latent.
    pub shape: [usize; 4],
    /// Name of the clip, or empty.
    pub source: String,
    /// Its caption or prompt.
    pub caption: String,
    /// Seed of a latent that was made from a prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

impl Index {
    pub(super) fn new(kind: SourceKind, model: ModelFacts, empty_text: Key) -> Self {
        let (format, version) = (FORMAT.to_owned(), VERSION);
        Self { format, version, kind, is_complete: false, model, empty_text, entries: Vec::new() }
    }

    /// The index of the cache at `folder`; `None` if there is none.
    ///
    /// # Errors
    ///
    /// If there is a file of that name that is no index of this version.
    pub fn read(folder: &Path) -> Result<Option<Self>, TrainError> {
        let path = folder.join(INDEX_FILE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(data_error(format!("cannot open the cache, {err}"), &path)),
        };
        let index: Self = serde_json::from_reader(BufReader::new(file.take(MAX_INDEX)))
            .map_err(|err| data_error(format!("this is no index of a cache, {err}"), &path))?;
        if (index.format.as_str(), index.version) != (FORMAT, VERSION) {
            let found: String =
                format!("{} {}", index.format, index.version).chars().take(80).collect();
            let message = format!("the index is of format {found:?}, expected {FORMAT} {VERSION}");
            return Err(data_error(message, &path));
        }
        Ok(Some(index))
    }

    /// Replaces the index of the cache at `folder`.
    pub(super) fn write(&self, folder: &Path) -> Result<(), TrainError> {
        let path = folder.join(INDEX_FILE);
        let mut file = AtomicFile::create(&path)?;
        let text = serde_json::to_string_pretty(self)
            .map_err(|err| data_error(format!("cannot write the index, {err}"), &path))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.write_all(b"\n"))
            .map_err(OutputError::io("write", &path))?;
        Ok(file.commit()?)
    }
}
