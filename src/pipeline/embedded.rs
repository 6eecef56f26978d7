//! The default model: a folder in `assets`, inside the program, unpacked while it runs.

use super::atomic::OutputError;
use include_dir::{Dir, include_dir};
use std::path::Path;
use tempfile::TempDir;

static DEFAULT_MODEL: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/assets/default_model");

/// The default model on disk; the files are removed when the value is dropped.
#[derive(Debug)]
pub struct EmbeddedModel {
    folder: TempDir,
}

impl EmbeddedModel {
    /// Unpacks the model into a temporary folder.
    ///
    /// # Errors
    ///
    /// If the temporary folder cannot be written.
    pub fn unpack() -> Result<Self, OutputError> {
        let temporary = std::env::temp_dir();
        let folder = tempfile::Builder::new()
            .prefix("qvgen-model-")
            .tempdir()
            .map_err(OutputError::io("create", &temporary))?;
        DEFAULT_MODEL.extract(folder.path()).map_err(OutputError::io("write", folder.path()))?;
        Ok(Self { folder })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}
