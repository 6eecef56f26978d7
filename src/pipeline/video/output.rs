//! Writing videos through [`atomic`](crate::pipeline::atomic): whole or not at all.

use super::VideoError;
use crate::pipeline::atomic::{AtomicFile, AtomicFolder, Existing, OutputError};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Why writing failed, before the path is known.
#[derive(Debug)]
pub(super) enum Failure {
    /// The file system refused.
    Io(io::Error),
    /// The format has no room for this video; says what and what to do.
    Limit(String),
    /// An encoder gave up.
    Encoder(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Failure {
    /// The same failure with the path that it concerns.
    pub(super) fn at(self, path: &Path) -> VideoError {
        match self {
            Self::Io(error) => OutputError::io("write", path)(error).into(),
            Self::Limit(limit) => VideoError::Limit { limit, path: path.to_path_buf() },
            Self::Encoder(message) => VideoError::Encoder { message, path: path.to_path_buf() },
        }
    }
}

/// A finished file for `path` that does not have its name yet; dropped, it leaves nothing behind.
pub(super) fn stage(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
) -> Result<AtomicFile, VideoError> {
    let mut file = AtomicFile::create(path)?;
    let write = || -> Result<(), Failure> {
        let mut writer = BufWriter::new(&mut file);
        fill(&mut writer)?;
        Ok(writer.flush()?)
    };
    write().map_err(|failure| failure.at(path))?;
    Ok(file)
}

/// Fills a folder under a temporary name, then puts it in the place of `path`.
///
/// An existing folder is replaced only if `is_ours` holds for every name in it.
pub(super) fn write_folder(
    path: &Path,
    is_ours: fn(&OsStr) -> bool,
    fill: impl FnOnce(&Path) -> Result<(), Failure>,
) -> Result<(), VideoError> {
    let folder = AtomicFolder::create(path, Existing::ReplaceIfAll(is_ours))?;
    fill(folder.path()).map_err(|failure| failure.at(path))?;
    Ok(folder.commit()?)
}

/// Creates `path` and fills it; for files inside a folder that is temporary itself.
pub(super) fn write_plain(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut writer = BufWriter::new(File::create(path)?);
    fill(&mut writer)?;
    Ok(writer.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn full_disk(out: &mut dyn Write) -> Result<(), Failure> {
        out.write_all(&[1; 100_000])?;
        Err(io::Error::from(io::ErrorKind::StorageFull).into())
    }

    #[test]
    fn a_file_that_fails_halfway_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("clip.gif");
        fs::write(&path, "old").unwrap();
        let error = stage(&path, full_disk).unwrap_err().to_string();
        assert!(error.contains("make room") && error.ends_with("clip.gif"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["clip.gif"]);
    }

    #[test]
    fn a_file_that_is_not_committed_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let staged = stage(&folder.path().join("a"), |out| Ok(out.write_all(b"x")?));
        drop(staged.unwrap());
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn a_folder_that_fails_halfway_leaves_the_old_one() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("frames");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("old.png"), "old").unwrap();
        let fill = |folder: &Path| write_plain(&folder.join("new.png"), full_disk);
        write_folder(&path, |_| true, fill).unwrap_err();
        assert_eq!(
            (names(parent.path()), names(&path)),
            (vec!["frames".into()], vec!["old.png".into()])
        );
    }
}
