//! Captions: a line of a list, or a text beside the clip.

use super::data_error;
use crate::train::TrainError;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

/// Longest line of a list, and longest caption, bytes.
const MAX_TEXT: u64 = 1 << 20;
/// Most lines of a list.
const MAX_LINES: usize = 10_000_000;

/// Names under which other programs store the file of a line, ours first.
const FILE_KEYS: [&str; 5] = ["file", "file_name", "path", "video", "video_path"];
/// Names under which they store its caption.
const CAPTION_KEYS: [&str; 3] = ["caption", "text", "prompt"];

/// A line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Relative to the list, or absolute.
    pub(super) file: String,
    pub(super) caption: String,
}

/// The lines of the JSONL file at `path`; empty ones do not count.
///
/// # Errors
///
/// If the file cannot be read or a line is unusable; the message says which.
pub(super) fn read_list(path: &Path) -> Result<Vec<Line>, TrainError> {
    let mut lines = Vec::new();
    for_each_line(path, |number, text| {
        let line = parse(text).map_err(|message| format!("line {number}: {message}"))?;
        lines.push(line);
        Ok(())
    })?;
    Ok(lines)
}

/// Calls `take` with number, from 1, and text of every line of `path` that is not blank.
///
/// # Errors
///
/// If the file cannot be read, a line is too long or no UTF-8, or `take` objects.
pub(super) fn for_each_line(
    path: &Path,
    mut take: impl FnMut(usize, &str) -> Result<(), String>,
) -> Result<(), TrainError> {
    let problem = |message: String| data_error(message, path);
    let mut file = BufReader::new(open(path)?);
    for number in 1.. {
        let mut bytes = Vec::new();
        let read = file.by_ref().take(MAX_TEXT + 1).read_until(b'\n', &mut bytes);
        read.map_err(|err| problem(format!("cannot read the list, {err}")))?;
        if bytes.is_empty() {
            break;
        }
        if bytes.len() as u64 > MAX_TEXT {
            return Err(problem(format!("line {number}: it has more than {MAX_TEXT} bytes")));
        }
        if number > MAX_LINES {
            return Err(problem(format!("the list has more than {MAX_LINES} lines")));
        }
        let text = String::from_utf8(bytes)
            .map_err(|_| problem(format!("line {number}: it is no UTF-8 text")))?;
        // Some editors begin a file with this mark.
        let text = text.trim_start_matches('\u{feff}').trim();
        if !text.is_empty() {
            take(number, text).map_err(problem)?;
        }
    }
    Ok(())
}

fn open(path: &Path) -> Result<File, TrainError> {
    let is_file = std::fs::metadata(path).map(|metadata| metadata.is_file());
    match is_file.and_then(|is_file| {
        if is_file { File::open(path) } else { Err(ErrorKind::IsADirectory.into()) }
    }) {
        Ok(file) => Ok(file),
        Err(err) => Err(data_error(format!("cannot read the list, {err}"), path)),
    }
}

fn parse(text: &str) -> Result<Line, String> {
    let value: Value =
        serde_json::from_str(text).map_err(|err| format!("it is no JSON object, {err}"))?;
    let Value::Object(object) = value else {
        return Err(
            "it is no JSON object such as {\"file\": \"a.mp4\", \"caption\": \"A cat\"}".into()
        );
    };
    let find = |what: &str, keys: &[&str]| {
        let found = keys.iter().find_map(|key| Some((*key, object.get(*key)?)));
        match found {
            Some((_, Value::String(text))) => Ok(text.clone()),
            Some((key, _)) => Err(format!("\"{key}\" is no text")),
            None => Err(format!("it has no {what}, expected one of the keys {}", keys.join(", "))),
        }
    };
    let line = Line { file: find("file", &FILE_KEYS)?, caption: find("caption", &CAPTION_KEYS)? };
    if line.file.is_empty() { Err("its file has an empty name".to_owned()) } else { Ok(line) }
}

/// The caption of the clip at `clip` in the text file of the same name; `None` if there is none.
///
/// # Errors
///
/// In words, if there is one that cannot be used.
pub(super) fn beside(clip: &Path) -> Result<Option<String>, String> {
    let path = clip.with_extension("txt");
    let name = || path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(format!("its caption {} cannot be read, {err}", name())),
    };
    let mut bytes = Vec::new();
    let read = file.take(MAX_TEXT + 1).read_to_end(&mut bytes);
    read.map_err(|err| format!("its caption {} cannot be read, {err}", name()))?;
    if bytes.len() as u64 > MAX_TEXT {
        return Err(format!("its caption {} has more than {MAX_TEXT} bytes", name()));
    }
    let text = String::from_utf8(bytes);
    let text = text.map_err(|_| format!("its caption {} is no UTF-8 text", name()))?;
    Ok(Some(text.trim_start_matches('\u{feff}').trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_other_programs_are_understood() {
        for (text, file) in [
            (r#"{"file": "a.mp4", "caption": "A cat"}"#, "a.mp4"),
            (r#"{"file_name": "b", "text": "A cat", "fps": 16}"#, "b"),
            (r#"{"prompt": "A cat", "video": "c.gif"}"#, "c.gif"),
            (r#"{"path": "d", "caption": "A cat", "text": 1}"#, "d"),
        ] {
            let line = parse(text).unwrap();
            assert_eq!((line.file.as_str(), line.caption.as_str()), (file, "A cat"));
        }
    }

    #[test]
    fn unusable_lines_say_what_is_missing() {
        for (text, word) in [
            ("{", "no JSON object"),
            ("[]", "no JSON object"),
            ("{}", "no file"),
            (r#"{"file": "a"}"#, "no caption"),
            (r#"{"file": 1, "caption": "x"}"#, "\"file\" is no text"),
            (r#"{"file": "", "caption": "x"}"#, "empty name"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(word), "{text}: {message}");
        }
    }
}
