//! Everything else: the program ffmpeg decodes, and its pictures come through a pipe.

use super::{Show, Trouble, y4m};
use std::ffi::OsString;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

/// As much as is kept of what ffmpeg complains about, bytes.
const MAX_REPORT: u64 = 1 << 16;

/// Full color resolution in the matrix and range that the reader of YUV4MPEG2 assumes.
const FILTER: &str = "scale=out_color_matrix=bt601:out_range=tv:\
                      flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp,format=yuv444p";

/// Shows every frame of the first video stream.
pub(super) fn read(program: &Path, path: &Path, show: &mut Show<'_>) -> Result<(), Trouble> {
    // The prefix keeps names such as `-x` or `http:` from meaning anything else, the list keeps
    // playlists from reaching out.
    let mut input = OsString::from("file:");
    input.push(path);
    let child = Command::new(program)
        .args(["-nostdin", "-v", "error", "-xerror", "-protocol_whitelist", "file,pipe", "-i"])
        .arg(input)
        .args(["-map", "0:v:0", "-an", "-sn", "-dn", "-vf", FILTER])
        .args(["-f", "yuv4mpegpipe", "-"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = Running(child.map_err(|err| match err.kind() {
        ErrorKind::NotFound | ErrorKind::PermissionDenied => Trouble::NoFfmpeg,
        _ => Trouble::Io(err),
    })?);
    let (Some(pictures), Some(report)) = (child.0.stdout.take(), child.0.stderr.take()) else {
        return Err(Trouble::Io(io::Error::other("ffmpeg has no pipes")));
    };
    let report = thread::spawn(move || collect(report));
    // The pipe is closed at the end of this line, so that ffmpeg does not wait for a reader.
    let outcome = y4m::read(&mut BufReader::with_capacity(1 << 20, pictures), show);
    if matches!(outcome, Err(Trouble::Stopped | Trouble::TooLarge(_))) {
        return outcome;
    }
    let status = child.0.wait()?;
    let report = report.join().unwrap_or_default();
    match (outcome, report.lines().next_back()) {
        (Ok(()), _) if status.success() => Ok(()),
        (Ok(()), None) => Err(Trouble::Damaged(format!("ffmpeg ended with {status}"))),
        (Ok(()) | Err(Trouble::Damaged(_)), Some(line)) => {
            let words: String = line.trim().chars().take(200).collect();
            Err(Trouble::Damaged(format!("ffmpeg says \"{words}\"")))
        }
        (outcome, _) => outcome,
    }
}

/// The beginning of what `pipe` holds; the rest is read too, or the writer would wait.
fn collect(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    // What cannot be read cannot be reported.
    let _ = pipe.by_ref().take(MAX_REPORT).read_to_end(&mut bytes);
    let _ = io::copy(&mut pipe, &mut io::sink());
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}

/// A program that does not outlive its reader.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail for a program that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
