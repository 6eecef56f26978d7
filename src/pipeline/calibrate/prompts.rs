//! Prompts from a file: one per line, as plain text or as JSON objects.

use crate::pipeline::PipelineError;
use serde_json::Value;
use std::path::Path;

/// Longest file, bytes.
const MAX_BYTES: u64 = 64 << 20;
/// Longest prompt, characters: no text encoder here sees more than a part of it.
const MAX_CHARACTERS: usize = 4096;
/// Names under which programs store a caption.
const KEYS: [&str; 3] = ["prompt", "caption", "text"];

/// The first `most` prompts of the file at `path`: UTF-8 text with one prompt per line, or JSONL,
/// whose lines are objects with a `prompt`, `caption` or `text`. Empty lines do not count.
///
/// # Errors
///
/// Names the file and, where there is one, the line.
pub fn read_prompts(path: &Path, most: usize) -> Result<Vec<String>, PipelineError> {
    let failed = |problem: String| {
        PipelineError::Setting(format!("--prompts: {problem}: {}", path.display()))
    };
    let metadata =
        std::fs::metadata(path).map_err(|err| failed(format!("cannot be read ({err})")))?;
    if !metadata.is_file() {
        return Err(failed(
            "this is no file; name a text file with one prompt per line".to_owned(),
        ));
    }
    if metadata.len() > MAX_BYTES {
        return Err(failed(format!("the file has more than {} MiB", MAX_BYTES >> 20)));
    }
    let bytes = std::fs::read(path).map_err(|err| failed(format!("cannot be read ({err})")))?;
    let prompts = parse(&bytes, most).map_err(failed)?;
    if prompts.is_empty() {
        return Err(failed("there is no prompt in the file; write one per line".to_owned()));
    }
    Ok(prompts)
}

fn parse(bytes: &[u8], most: usize) -> Result<Vec<String>, String> {
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        return Err("the file is UTF-16, save it as UTF-8".to_owned());
    }
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let mut prompts = Vec::new();
    for (number, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let at = |problem: &str| format!("line {} {problem}", number + 1);
        let line = std::str::from_utf8(line)
            .map_err(|_| at("is no UTF-8 text, save the file as UTF-8"))?
            .trim();
        if line.is_empty() {
            continue;
        }
        if line.contains('\0') {
            return Err(at("holds a zero byte, this is no text file"));
        }
        let prompt = if line.starts_with('{') {
            caption(line).map_err(|problem| at(&problem))?
        } else {
            line.to_owned()
        };
        if prompt.chars().count() > MAX_CHARACTERS {
            return Err(at(&format!("has a prompt of more than {MAX_CHARACTERS} characters")));
        }
        prompts.push(prompt);
        if prompts.len() == most {
            break;
        }
    }
    Ok(prompts)
}

/// The caption of a line of JSONL.
fn caption(line: &str) -> Result<String, String> {
    let value: Value =
        serde_json::from_str(line).map_err(|err| format!("is no JSON object ({err})"))?;
    let found = KEYS.iter().find_map(|key| value.get(key).map(|value| (key, value)));
    match found {
        Some((_, Value::String(text))) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Some((key, _)) => Err(format!("has no text under \"{key}\"")),
        None => Err(format!("has none of the keys {}", KEYS.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_prompts_plain_or_json() {
        let text = "\u{feff}a cat\r\n\n  {\"caption\": \" rain \", \"file\": \"x\"}\n{\"prompt\": \"snow\"}\nhail";
        let read = |most| parse(text.as_bytes(), most).expect("prompts");
        assert_eq!(read(9), ["a cat", "rain", "snow", "hail"]);
        assert_eq!(read(2), ["a cat", "rain"]);
    }

    #[test]
    fn what_cannot_be_used_is_named_by_its_line() {
        let long = format!("ok\n{}", "x".repeat(MAX_CHARACTERS + 1));
        let cases: [(&[u8], &str); 7] = [
            (b"ok\n\xff\xfe\x00", "line 2 is no UTF-8"),
            (b"\xff\xfea\x00", "UTF-16"),
            (b"a\0b", "line 1 holds a zero byte"),
            (b"\n{\"caption\": 3}", "line 2 has no text under \"caption\""),
            (b"{\"file\": \"a\"}", "line 1 has none of the keys prompt"),
            (b"{", "line 1 is no JSON object"),
            (long.as_bytes(), "line 2 has a prompt of more than 4096"),
        ];
        for (bytes, expected) in cases {
            let problem = parse(bytes, 9).expect_err(expected);
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn files_without_prompts_are_refused_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("prompts.txt");
        let refused = |expected: &str| {
            let error = read_prompts(&path, 3).expect_err(expected).to_string();
            assert!(error.contains(expected) && error.contains("prompts.txt"), "{error}");
        };
        refused("cannot be read");
        std::fs::write(&path, "\n  \n").expect("a file");
        refused("no prompt");
        std::fs::write(&path, "rain").expect("a file");
        assert_eq!(read_prompts(&path, 3).expect("prompts"), ["rain"]);
        assert!(
            read_prompts(folder.path(), 3).expect_err("a folder").to_string().contains("no file")
        );
    }
}
