//! Outputs that are either complete or not there.
//!
//! Everything is written under a temporary name in the folder of the target and renamed at the
//! end; an error, an interruption or a full disk leaves what was there before.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tempfile::{NamedTempFile, TempDir};

/// Start of every temporary name, so that leftovers of a killed process can be recognized.
const TEMPORARY_PREFIX: &str = ".qvgen-";

/// Whether `name` was a temporary one; if its process is gone it is a leftover.
pub fn is_temporary(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes())
}

/// Deletes a folder of ours: it disappears under its name at once, however long the rest takes.
///
/// # Errors
///
/// If the operating system refuses.
pub fn remove_folder(path: &Path) -> Result<(), OutputError> {
    let failed = |err| OutputError::io("remove", path)(err);
    let aside = temporary(0o777).tempdir_in(parent_of(path)?).map_err(failed)?;
    fs::rename(path, aside.path().join("old")).map_err(failed)?;
    aside.close().map_err(failed)
}

/// Deletes what killed processes have left half written in `folder`. Nobody else may be writing
/// there.
///
/// # Errors
///
/// If the operating system refuses.
pub fn remove_leftovers(folder: &Path) -> Result<(), OutputError> {
    for entry in fs::read_dir(folder).map_err(OutputError::io("list", folder))? {
        let entry = entry.map_err(OutputError::io("list", folder))?;
        if is_temporary(&entry.file_name()) {
            let path = entry.path();
            let result =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            result.map_err(OutputError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Why an output could not be written; messages name the target.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The path ends in no name: empty, a root, `.` or `..`.
    #[error("the output needs a name of its own: \"{}\"", path.display())]
    NoName {
        /// The target.
        path: PathBuf,
    },
    /// The folder of the target is not there.
    #[error("the folder for the output does not exist, create it first: {}", path.display())]
    MissingParent {
        /// The folder.
        path: PathBuf,
    },
    /// A file should be written where a folder is, or the other way around.
    #[error("the output is a {wanted}, but another kind of thing stands at {}", path.display())]
    WrongKind {
        /// "file" or "folder".
        wanted: &'static str,
        /// The target.
        path: PathBuf,
    },
    /// The target folder has contents, and they may not be replaced.
    #[error("the output folder is not empty, choose another or allow overwriting: {}", path.display())]
    NotEmpty {
        /// The target.
        path: PathBuf,
    },
    /// The target folder has contents that are no earlier output.
    #[error(
        "the output folder has contents but no {marker}, so it is not replaced: {}",
        path.display()
    )]
    NotOurs {
        /// File that an earlier output would have.
        marker: String,
        /// The target.
        path: PathBuf,
    },
    /// The target folder holds something that is no part of an earlier output.
    #[error(
        "the folder holds {} and may not be replaced, name an empty or new one: {}",
        file.display(),
        path.display()
    )]
    ForeignFile {
        /// Name of that file.
        file: PathBuf,
        /// The target.
        path: PathBuf,
    },
    /// No room left.
    #[error("the disk is full, make room and try again; nothing was kept of {}", path.display())]
    DiskFull {
        /// The target.
        path: PathBuf,
    },
    /// The operating system does not let this user write there.
    #[error("no permission to {action} this, choose a place that you may write to: {}", path.display())]
    Forbidden {
        /// Verb: "create", "write".
        action: &'static str,
        /// The target.
        path: PathBuf,
    },
    /// The operating system refused something else.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// Verb: "create", "write".
        action: &'static str,
        /// The target.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl OutputError {
    /// Closure for `map_err`: `action` on `path` failed.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                Self::DiskFull { path: path.to_owned() }
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                Self::Forbidden { action, path: path.to_owned() }
            }
            _ => Self::Io { action, path: path.to_owned(), source },
        }
    }
}

/// The existing folder in which `target` shall appear.
fn parent_of(target: &Path) -> Result<&Path, OutputError> {
    let parent = match (target.file_name(), target.parent()) {
        (Some(_), Some(parent)) => parent,
        _ => return Err(OutputError::NoName { path: target.to_owned() }),
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    if parent.is_dir() {
        Ok(parent)
    } else {
        Err(OutputError::MissingParent { path: parent.to_owned() })
    }
}

/// A builder of hidden names. The library's own modes are for secrets; `mode` is that of any new
/// file or folder, and the umask still applies.
#[cfg_attr(not(unix), expect(unused_variables, reason = "only Unix has file modes"))]
fn temporary(mode: u32) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    builder
}

/// A file that appears under its name when it is complete, replacing an older one.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    file: NamedTempFile,
}

impl AtomicFile {
    /// Starts writing what will be `target`; dropping the value abandons it.
    ///
    /// # Errors
    ///
    /// If the folder is missing or not writable, or `target` is a folder.
    pub fn create(target: &Path) -> Result<Self, OutputError> {
        let parent = parent_of(target)?;
        if target.is_dir() {
            return Err(OutputError::WrongKind { wanted: "file", path: target.to_owned() });
        }
        let file =
            temporary(0o666).tempfile_in(parent).map_err(OutputError::io("create", target))?;
        Ok(Self { target: target.to_owned(), file })
    }

    /// The name it will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Makes the file appear, contents first.
    ///
    /// # Errors
    ///
    /// If the contents cannot be stored or the file cannot be renamed.
    pub fn commit(self) -> Result<(), OutputError> {
        let Self { target, file } = self;
        // Without this, a crash after the rename could leave an empty file under the name.
        file.as_file().sync_all().map_err(OutputError::io("write", &target))?;
        file.persist(&target).map_err(|err| OutputError::io("create", &target)(err.error))?;
        Ok(())
    }

    fn inner(&mut self) -> &mut File {
        self.file.as_file_mut()
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner().flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.inner().seek(position)
    }
}

/// What to do with contents of the target folder.
#[derive(Clone, Copy, Debug)]
pub enum Existing<'a> {
    /// An error; an empty folder is no obstacle.
    Refuse,
    /// Replace the folder if it has a file of this name, which shows that it is an earlier output
    /// and not, by a slip of the hand, somebody's home.
    ReplaceIfItHas(&'a str),
    /// Replace the folder if the function holds for the name of everything in it.
    ReplaceIfAll(fn(&OsStr) -> bool),
}

impl Existing<'_> {
    fn check(self, target: &Path) -> Result<(), OutputError> {
        match fs::symlink_metadata(target) {
            Err(err) if err.kind() == ErrorKind::NotFound => return Ok(()),
            Err(err) => return Err(OutputError::io("create", target)(err)),
            // A link is not followed: replacing it would leave its contents elsewhere.
            Ok(metadata) if !metadata.is_dir() => {
                return Err(OutputError::WrongKind { wanted: "folder", path: target.to_owned() });
            }
            Ok(_) => {}
        }
        let names: Vec<_> = fs::read_dir(target)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
            .map_err(OutputError::io("list", target))?;
        match self {
            _ if names.is_empty() => Ok(()),
            Self::ReplaceIfAll(is_ours) => match names.iter().find(|name| !is_ours(name)) {
                None => Ok(()),
                Some(name) => {
                    Err(OutputError::ForeignFile { file: name.into(), path: target.to_owned() })
                }
            },
            Self::Refuse => Err(OutputError::NotEmpty { path: target.to_owned() }),
            Self::ReplaceIfItHas(marker) if target.join(marker).is_file() => Ok(()),
            Self::ReplaceIfItHas(marker) => {
                Err(OutputError::NotOurs { marker: marker.to_owned(), path: target.to_owned() })
            }
        }
    }
}

/// A folder that appears under its name when it is complete.
#[derive(Debug)]
pub struct AtomicFolder<'a> {
    target: PathBuf,
    existing: Existing<'a>,
    folder: TempDir,
}

impl<'a> AtomicFolder<'a> {
    /// Starts what will be the folder `target`; dropping the value abandons it.
    ///
    /// # Errors
    ///
    /// If the folder around it is missing or not writable, or `existing` forbids it.
    pub fn create(target: &Path, existing: Existing<'a>) -> Result<Self, OutputError> {
        let parent = parent_of(target)?;
        existing.check(target)?;
        let folder =
            temporary(0o777).tempdir_in(parent).map_err(OutputError::io("create", target))?;
        Ok(Self { target: target.to_owned(), existing, folder })
    }

    /// Where to write meanwhile.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The name it will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Makes the folder appear; one that it replaces is deleted afterwards.
    ///
    /// # Errors
    ///
    /// If it cannot be renamed, or `target` has changed so that it may not be replaced any more.
    pub fn commit(self) -> Result<(), OutputError> {
        let Self { target, existing, folder } = self;
        existing.check(&target)?;
        let failed = |err| OutputError::io("create", &target)(err);
        let old = if target.exists() {
            let aside = temporary(0o777).tempdir_in(parent_of(&target)?).map_err(failed)?;
            fs::rename(&target, aside.path().join("old")).map_err(failed)?;
            Some(aside)
        } else {
            None
        };
        if let Err(err) = fs::rename(folder.path(), &target) {
            if let Some(aside) = old {
                restore(aside, &target);
            }
            return Err(failed(err));
        }
        // The temporary name is gone, so there is nothing left to clean up.
        let _ = folder.keep();
        Ok(())
    }
}

/// Puts a replaced folder back; if even that fails it is kept beside the target.
fn restore(aside: TempDir, target: &Path) {
    let aside = aside.keep();
    match fs::rename(aside.join("old"), target) {
        Ok(()) => drop(fs::remove_dir(&aside)),
        Err(err) => {
            log::warn!("the replaced folder is kept, {err}: {}", aside.join("old").display());
        }
    }
}
