//! The models inside the program: folders in `assets/models`, unpacked while they are used.
//!
//! `pocket` is a whole model in the diffusers layout that `qvgen pretrain` made; the others are
//! students of it that `qvgen train` made, of which only the transformer is kept.

use super::atomic::OutputError;
use include_dir::{Dir, include_dir};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

static MODELS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/assets/models");

/// A model inside the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmbeddedName {
    /// In full precision.
    #[default]
    Pocket,
    /// Trained to four bits by QVGen.
    PocketW4A4,
    /// Trained to three bits by QVGen.
    PocketW3A3,
}

impl EmbeddedName {
    /// Every model.
    pub const ALL: [Self; 3] = [Self::Pocket, Self::PocketW4A4, Self::PocketW3A3];

    /// Name on the command line and in configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pocket => "pocket",
            Self::PocketW4A4 => "pocket-w4a4",
            Self::PocketW3A3 => "pocket-w3a3",
        }
    }

    /// The model of that name, unless there is a folder of that name: a user's folders come first.
    pub fn of(path: &Path) -> Option<Self> {
        let found = Self::ALL.into_iter().find(|model| Path::new(model.name()) == path);
        found.filter(|_| !path.exists())
    }
}

/// A model on disk; the files are removed when the value is dropped.
#[derive(Debug)]
pub struct EmbeddedModel {
    path: PathBuf,
    /// Deletes itself.
    _folder: TempDir,
}

impl EmbeddedModel {
    /// Unpacks a model into a temporary folder.
    ///
    /// # Errors
    ///
    /// If the temporary folder cannot be written.
    pub fn unpack(model: EmbeddedName) -> Result<Self, OutputError> {
        let temporary = std::env::temp_dir();
        let folder = tempfile::Builder::new()
            .prefix("qvgen-model-")
            .tempdir()
            .map_err(OutputError::io("create", &temporary))?;
        // A name that does not change: outputs made from the model remember it.
        let path = folder.path().join(model.name());
        extract(EmbeddedName::Pocket.name(), &path)?;
        if model != EmbeddedName::Pocket {
            let transformer = path.join("transformer");
            fs::remove_dir_all(&transformer).map_err(OutputError::io("replace", &transformer))?;
            extract(&format!("{}/transformer", model.name()), &transformer)?;
        }
        Ok(Self { path, _folder: folder })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Writes the files of folder `name` of the assets under `target`.
fn extract(name: &str, target: &Path) -> Result<(), OutputError> {
    let root = Path::new(name);
    let Some(folder) = MODELS.get_dir(root) else {
        // The folders are part of the program; a test unpacks each.
        let missing = std::io::Error::other("the program lacks this model");
        return Err(OutputError::io("unpack", root)(missing));
    };
    let mut pending = vec![folder];
    while let Some(folder) = pending.pop() {
        let inside = folder.path().strip_prefix(root).unwrap_or(folder.path());
        let path = target.join(inside);
        fs::create_dir_all(&path).map_err(OutputError::io("create", &path))?;
        for file in folder.files() {
            let path = path.join(file.path().file_name().unwrap_or_default());
            fs::write(&path, file.contents()).map_err(OutputError::io("write", &path))?;
        }
        pending.extend(folder.dirs());
    }
    Ok(())
}
