//! Which clips there are, and their captions.

use super::captions::{beside, read_list};
use super::{Skipped, data_error};
use crate::pipeline::video::read::{is_clip_name, natural_order, png_files};
use crate::train::TrainError;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lists that a folder of clips may hold.
const LISTS: [&str; 2] = ["captions.jsonl", "metadata.jsonl"];

/// A clip and what it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clip {
    /// File or folder of pictures, as it was listed: relative to the list or the folder.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// What it shows.
    pub caption: String,
}

/// Clips with captions, and those that have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClipList {
    /// What can be used.
    pub clips: Vec<Clip>,
    /// What cannot.
    pub skipped: Vec<Skipped>,
}

/// The clips of a JSONL list, or of a folder: its video files and its sub-folders of PNG pictures,
/// in natural order, with captions from the folder's `captions.jsonl` or `metadata.jsonl` or from
/// text files of the clips' names.
///
/// Clips are not opened.
///
/// # Errors
///
/// If there is nothing at `path`, a list is unusable, or there are no clips at all.
pub fn list_clips(path: &Path) -> Result<ClipList, TrainError> {
    let metadata = fs::metadata(path);
    let is_folder = match metadata {
        Ok(metadata) => metadata.is_dir(),
        Err(err) => return Err(data_error(format!("cannot read the clips, {err}"), path)),
    };
    let list = if is_folder { of_folder(path)? } else { of_list(path)? };
    if list.clips.is_empty() && list.skipped.is_empty() {
        let message = "there are no clips; expected video files or folders of PNG pictures with \
                       captions in .txt files or captions.jsonl, or a .jsonl list";
        return Err(data_error(message, path));
    }
    Ok(list)
}

/// The clips that the lines of the file at `path` name.
fn of_list(path: &Path) -> Result<ClipList, TrainError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let clip = |line: super::captions::Line| Clip {
        path: folder.join(&line.file),
        name: line.file,
        caption: line.caption,
    };
    Ok(ClipList { clips: read_list(path)?.into_iter().map(clip).collect(), skipped: Vec::new() })
}

fn of_folder(folder: &Path) -> Result<ClipList, TrainError> {
    let mut list = ClipList::default();
    for name in LISTS {
        let path = folder.join(name);
        if path.exists() {
            list.clips.extend(of_list(&path)?.clips);
        }
    }
    let listed: BTreeSet<PathBuf> = list.clips.iter().map(|clip| clip.path.clone()).collect();
    for path in found_in(folder)? {
        if listed.contains(&path) {
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match beside(&path) {
            Ok(Some(caption)) => list.clips.push(Clip { name, path, caption }),
            Ok(None) => {
                let text = path.with_extension("txt");
                let text = text.file_name().unwrap_or_default().to_string_lossy();
                let reason = format!("it has no caption; write one to {text}");
                list.skipped.push(Skipped { clip: name, reason });
            }
            Err(reason) => list.skipped.push(Skipped { clip: name, reason }),
        }
    }
    Ok(list)
}

/// Files and folders in `folder` that look like clips, in natural order.
fn found_in(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let failed = |err: std::io::Error| data_error(format!("cannot list the clips, {err}"), folder);
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = folder.join(entry.file_name());
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        // Links are followed: data sets are often made of them.
        let is_clip = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                png_files(&path).is_ok_and(|files| !files.is_empty())
            }
            _ => is_clip_name(&path),
        };
        if is_clip {
            paths.push(path);
        }
    }
    paths.sort_by(|a, b| natural_order(&a.to_string_lossy(), &b.to_string_lossy()));
    Ok(paths)
}
