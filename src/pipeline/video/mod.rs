//! Videos in memory and as files: MP4, GIF, APNG, YUV4MPEG2, folders of PNG; [`read`] has the way
//! back, for clips of any origin.
//!
//! | path | format | pixels | settings in |
//! |---|---|---|---|
//! | `x.mp4` | H.264 Main, 4:2:0, BT.709 | nearly lossless; odd sizes grow to even | the comment |
//! | `x.gif` | one palette of 255 colors | dithered; exact up to 255 colors | a comment |
//! | `x.apng` | animated PNG | exact | a text chunk |
//! | `x.y4m` | YUV4MPEG2, 4:4:4, BT.601 | exact up to rounding | `x.y4m.json` |
//! | `x/` | `frame_0000.png` … | exact | a text chunk of every file |
//!
//! Files appear under their name only when they are complete, and the same frames and settings
//! give the same bytes.

mod color;
mod frames;
mod gif;
mod h264;
mod mp4;
mod output;
mod palette;
mod png;
pub mod read;
mod y4m;

pub use frames::{BLACK_LEVEL, Degenerate, FLAT_STD_DEV, FRAME_RATES, Frames};

use crate::pipeline::atomic::{AtomicFolder, Existing, OutputError};
use output::stage;
use serde_json::Value;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

/// Largest settings file read, bytes.
const MAX_SETTINGS: u64 = 16 << 20;

/// Why a video could not be made or written; messages say what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VideoError {
    /// There is nothing to show.
    #[error("a video needs at least one frame of at least one pixel")]
    NoFrames,
    /// The values are not whole frames.
    #[error("{values} values are no whole number of {width}x{height} RGB frames")]
    Shape {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// Number of values given.
        values: usize,
    },
    /// The frame rate is not in [`FRAME_RATES`].
    #[error(
        "{fps} frames per second cannot be written, give a rate from {} to {}",
        FRAME_RATES.start(),
        FRAME_RATES.end()
    )]
    FrameRate {
        /// Frames per second.
        fps: f64,
    },
    /// The decoder returned NaN or infinity.
    #[error(
        "{bad} of {values} pixel values are not finite, the first in frame {frame}; \
         the weights are damaged or a calculation overflowed (--vae-precision exact has the wider \
         range)"
    )]
    NotFinite {
        /// Index of the first frame with such a value.
        frame: usize,
        /// Number of such values in the video.
        bad: usize,
        /// Number of values in the video.
        values: usize,
    },
    /// The video shows nothing.
    #[error("{0}; weights or settings are probably wrong, --allow-degenerate lets it pass")]
    Degenerate(Degenerate),
    /// The path names no format that can be written.
    #[error(
        "the path names no video format, supported are {}: {}",
        VideoFormat::SUPPORTED,
        path.display()
    )]
    UnknownFormat {
        /// The path as given.
        path: PathBuf,
    },
    /// The path of a picture does not say that it is a PNG file.
    #[error("a picture is a PNG file, its name has to end in .png: {}", path.display())]
    NoPicture {
        /// The path as given.
        path: PathBuf,
    },
    /// The format has no room for this video.
    #[error("{limit}: {}", path.display())]
    Limit {
        /// What the limit is and which format to take instead.
        limit: String,
        /// The file that was to be written.
        path: PathBuf,
    },
    /// The file system refused.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// An encoder gave up.
    #[error("the encoder reports \"{message}\", another format may work: {}", path.display())]
    Encoder {
        /// In the words of the encoder.
        message: String,
        /// The file that was to be written.
        path: PathBuf,
    },
}

/// How a video is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VideoFormat {
    /// H.264 in an MP4 file.
    Mp4,
    /// Animated GIF.
    Gif,
    /// Animated PNG.
    Apng,
    /// Uncompressed YUV4MPEG2.
    Y4m,
    /// Folder of numbered PNG files.
    PngFolder,
}

impl VideoFormat {
    /// The formats in words, for messages.
    pub const SUPPORTED: &str =
        ".mp4, .gif, .apng, .y4m, or a folder of PNG files (no extension, or a slash at the end)";

    /// The format that `path` asks for.
    ///
    /// # Errors
    ///
    /// [`VideoError::UnknownFormat`] for any other extension: a video is never stored in a format
    /// that its name does not say.
    pub fn from_path(path: &Path) -> Result<Self, VideoError> {
        let unknown = || VideoError::UnknownFormat { path: path.to_path_buf() };
        let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(unknown)?;
        if ends_with_separator(path) || path.is_dir() {
            return Ok(Self::PngFolder);
        }
        match name.rsplit_once('.') {
            None => Ok(Self::PngFolder),
            // A name like ".mp4" is an extension without a name.
            Some(("", _)) => Err(unknown()),
            Some((_, extension)) => match extension.to_ascii_lowercase().as_str() {
                "mp4" => Ok(Self::Mp4),
                "gif" => Ok(Self::Gif),
                "apng" => Ok(Self::Apng),
                "y4m" => Ok(Self::Y4m),
                _ => Err(unknown()),
            },
        }
    }
}

fn ends_with_separator(path: &Path) -> bool {
    let last = path.as_os_str().as_encoded_bytes().last();
    last.is_some_and(|&byte| std::path::is_separator(char::from(byte)))
}

/// Finds out whether a video of this size can be written to `path`, before the work is done: one
/// black frame is encoded under a temporary name and thrown away.
///
/// # Errors
///
/// Those of [`write()`]: what would fail later fails now.
pub fn check_target(path: &Path, width: usize, height: usize, fps: f64) -> Result<(), VideoError> {
    let len = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3));
    let len = len.ok_or(VideoError::Shape { width, height, values: usize::MAX })?;
    let frame = Frames::new(width, height, fps, vec![0; len])?;
    match VideoFormat::from_path(path)? {
        VideoFormat::PngFolder => {
            AtomicFolder::create(path, Existing::ReplaceIfAll(png::is_frame_name))?;
        }
        format => {
            stage(path, |out| write_file(format, &frame, "{}", out))?;
        }
    }
    Ok(())
}

/// Writes `frames` in the format that `path` names, with `metadata` inside or, for YUV4MPEG2,
/// beside it. What was at `path` stays as it was until the new video is complete.
///
/// # Errors
///
/// If the path names no format, the format has no room for the video, or the file system refuses.
pub fn write(frames: &Frames, path: &Path, metadata: &Value) -> Result<(), VideoError> {
    let text = metadata.to_string();
    let format = VideoFormat::from_path(path)?;
    if format == VideoFormat::PngFolder {
        return output::write_folder(path, png::is_frame_name, |folder| {
            png::write_files(frames, &text, folder)
        });
    }
    let video = stage(path, |out| write_file(format, frames, &text, out))?;
    if format == VideoFormat::Y4m {
        let settings = stage(&settings_path(path), |out| Ok(writeln!(out, "{metadata:#}")?))?;
        video.commit()?;
        return Ok(settings.commit()?);
    }
    Ok(video.commit()?)
}

/// Finds out whether [`write_picture`] can write to `path`, before the work is done.
///
/// # Errors
///
/// If the name does not end in `.png`, or as [`write_picture`].
pub fn check_picture_target(path: &Path) -> Result<(), VideoError> {
    let is_png = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png"));
    if !is_png {
        return Err(VideoError::NoPicture { path: path.to_path_buf() });
    }
    stage(path, |_| Ok(())).map(drop)
}

/// Writes the first of `frames` as one PNG file with `metadata` inside. What was at `path` stays
/// as it was until the new picture is complete.
///
/// # Errors
///
/// If the picture is too large for the format or the file system refuses.
pub fn write_picture(frames: &Frames, path: &Path, metadata: &Value) -> Result<(), VideoError> {
    let text = metadata.to_string();
    let picture = stage(path, |out| png::write_first(frames, &text, out))?;
    Ok(picture.commit()?)
}

/// The contents of a video that is one file.
fn write_file(
    format: VideoFormat,
    frames: &Frames,
    metadata: &str,
    out: &mut dyn Write,
) -> Result<(), output::Failure> {
    match format {
        VideoFormat::Mp4 => mp4::write(frames, metadata, out),
        VideoFormat::Gif => gif::write(frames, metadata, out),
        VideoFormat::Apng => png::write_animation(frames, metadata, out),
        VideoFormat::Y4m => y4m::write(frames, out),
        VideoFormat::PngFolder => Err(output::Failure::Limit("a folder is no file".to_owned())),
    }
}

/// The settings that [`write()`] stored with the video at `path`, if it has any.
///
/// Files of any origin may be given: what is missing, damaged, or no JSON object is `None`.
pub fn read_metadata(path: &Path) -> Option<Value> {
    let open = |path: &Path| File::open(path).ok().map(BufReader::new);
    let texts = match VideoFormat::from_path(path).ok()? {
        VideoFormat::Mp4 => vec![mp4::read_comment(&mut open(path)?)?],
        VideoFormat::Gif => gif::read_comments(&mut open(path)?),
        VideoFormat::Apng => vec![png::read_text(open(path)?)?],
        VideoFormat::PngFolder => vec![png::read_text(open(&path.join(png::frame_name(0)))?)?],
        VideoFormat::Y4m => {
            let mut text = String::new();
            let file = open(&settings_path(path))?;
            file.take(MAX_SETTINGS).read_to_string(&mut text).ok()?;
            vec![text]
        }
    };
    texts.iter().filter_map(|text| serde_json::from_str::<Value>(text).ok()).find(Value::is_object)
}

/// The file beside `path` for formats without a place for text.
fn settings_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".json");
    name.into()
}
