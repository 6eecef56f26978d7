//! Clips of any origin, frame by frame.
//!
//! | path | decoder |
//! |---|---|
//! | a folder | its PNG files in natural order |
//! | `.png`, `.apng` | the frames of an animation, or one picture |
//! | `.gif` | every frame on its canvas |
//! | `.y4m` | 8-bit 4:2:0, 4:2:2, 4:4:4 or gray, BT.601 |
//! | anything else | the program `ffmpeg`, through a pipe of YUV4MPEG2 |
//!
//! Nothing a file says about itself is believed: sizes are bounded before memory is reserved,
//! frames are handed over one at a time, and a file that ends early is an error.

mod canvas;
mod ffmpeg;
mod gif;
mod order;
mod png;
mod y4m;

pub use order::natural_order;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Most pixels of a frame: 8K UHD, 7680x4320, fits.
pub const MAX_PIXELS: usize = 1 << 25;
/// Most frames of a clip: nearly an hour at 30 per second.
pub const MAX_FRAMES: usize = 100_000;

/// Extensions of files that are taken for clips where nothing else names them.
const EXTENSIONS: [&str; 19] = [
    "y4m", "gif", "apng", "png", "mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts",
    "wmv", "flv", "ogv", "3gp", "webp", "mxf",
];

/// Why a clip cannot be read; one sentence that names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The operating system refused.
    #[error("cannot read the clip, {message}: {}", path.display())]
    Io {
        /// What the operating system said.
        message: String,
        /// The clip.
        path: PathBuf,
    },
    /// The contents are not what the name says, or end too early.
    #[error("the clip is damaged, {message}: {}", path.display())]
    Damaged {
        /// In the words of the decoder.
        message: String,
        /// The clip.
        path: PathBuf,
    },
    /// A variant that is not read.
    #[error("the clip cannot be read, {message}: {}", path.display())]
    Unsupported {
        /// What was found and what to do.
        message: String,
        /// The clip.
        path: PathBuf,
    },
    /// Larger than anything sensible.
    #[error("the clip is too large, {message}: {}", path.display())]
    TooLarge {
        /// What was found and what the limit is.
        message: String,
        /// The clip.
        path: PathBuf,
    },
    /// Only ffmpeg could read it.
    #[error(
        "the program {} was not found; install ffmpeg, or convert the clip to .y4m or .gif: {}",
        program.display(),
        path.display()
    )]
    NoFfmpeg {
        /// The program looked for.
        program: PathBuf,
        /// The clip.
        path: PathBuf,
    },
}

/// One picture of a clip.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// Pixels across, the same for all pictures of a clip.
    pub width: usize,
    /// Pixels down, the same for all pictures of a clip.
    pub height: usize,
    /// RGB8 `[height, width, 3]`; transparent pixels are black.
    pub rgb: &'a [u8],
}

/// Told of each picture; may stop the reading.
pub type Visit<'a> = dyn FnMut(Picture<'_>) -> ControlFlow<()> + 'a;

/// Reads clips.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClipReader {
    /// The program for formats that are not read here: a name on the `PATH`, or a path.
    pub ffmpeg: PathBuf,
}

impl Default for ClipReader {
    fn default() -> Self {
        Self { ffmpeg: "ffmpeg".into() }
    }
}

impl ClipReader {
    /// Shows the pictures of the clip at `path` to `visit`, at least one, until it breaks.
    ///
    /// # Errors
    ///
    /// If the clip cannot be read, is damaged or too large. Pictures before the damage were shown.
    pub fn read(&self, path: &Path, visit: &mut Visit<'_>) -> Result<(), ReadError> {
        let mut show = Show { visit, size: None, count: 0 };
        let result = self.decode(path, &mut show).and_then(|()| match show.count {
            0 => Err(Trouble::Damaged("it has no pictures".to_owned())),
            _ => Ok(()),
        });
        let path = path.to_owned();
        match result {
            Ok(()) | Err(Trouble::Stopped) => Ok(()),
            Err(Trouble::Io(err)) => Err(ReadError::Io { message: err.to_string(), path }),
            Err(Trouble::Damaged(message)) => Err(ReadError::Damaged { message, path }),
            Err(Trouble::Unsupported(message)) => Err(ReadError::Unsupported { message, path }),
            Err(Trouble::TooLarge(message)) => Err(ReadError::TooLarge { message, path }),
            Err(Trouble::NoFfmpeg) => {
                Err(ReadError::NoFfmpeg { program: self.ffmpeg.clone(), path })
            }
        }
    }

    fn decode(&self, path: &Path, show: &mut Show<'_>) -> Result<(), Trouble> {
        let metadata = fs::metadata(path)?;
        if metadata.is_dir() {
            return png::read_folder(path, show);
        }
        if !metadata.is_file() {
            return Err(Trouble::Unsupported("it is neither a file nor a folder".to_owned()));
        }
        let open = || Ok::<_, Trouble>(BufReader::with_capacity(1 << 16, File::open(path)?));
        match extension(path).as_str() {
            "y4m" => y4m::read(&mut open()?, show),
            "gif" => gif::read(open()?, show),
            "png" | "apng" => png::read(open()?, show),
            _ => ffmpeg::read(&self.ffmpeg, path, show),
        }
    }
}

/// Whether a file of this name in a folder of clips is taken for a clip.
pub fn is_clip_name(path: &Path) -> bool {
    EXTENSIONS.contains(&extension(path).as_str())
}

/// The PNG files in `folder`, in natural order; hidden ones do not count.
///
/// # Errors
///
/// If the folder cannot be listed or has too many.
pub fn png_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_hidden =
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if extension(&path) == "png" && !is_hidden {
            if files.len() == MAX_FRAMES {
                return Err(io::Error::other(format!("it has more than {MAX_FRAMES} pictures")));
            }
            files.push(path);
        }
    }
    files.sort_by(|a, b| natural_order(&a.to_string_lossy(), &b.to_string_lossy()));
    Ok(files)
}

/// The extension in lower case; empty if there is none.
fn extension(path: &Path) -> String {
    path.extension().map(OsStr::to_string_lossy).unwrap_or_default().to_ascii_lowercase()
}

/// Why decoding ended, before the path is known.
#[derive(Debug)]
enum Trouble {
    Io(io::Error),
    Damaged(String),
    Unsupported(String),
    TooLarge(String),
    NoFfmpeg,
    /// The visitor has seen enough.
    Stopped,
}

impl From<io::Error> for Trouble {
    fn from(err: io::Error) -> Self {
        match err.kind() {
            io::ErrorKind::UnexpectedEof => Self::Damaged("it ends too early".to_owned()),
            _ => Self::Io(err),
        }
    }
}

/// The way of pictures to the visitor, which holds them to one size and a number.
struct Show<'a> {
    visit: &'a mut Visit<'a>,
    size: Option<[usize; 2]>,
    count: usize,
}

impl Show<'_> {
    fn picture(&mut self, picture: Picture<'_>) -> Result<(), Trouble> {
        let size = [picture.width, picture.height];
        let [width, height] = *self.size.get_or_insert(size);
        if size != [width, height] {
            return Err(Trouble::Damaged(format!(
                "picture {} has {}x{} pixels, those before {width}x{height}",
                self.count + 1,
                picture.width,
                picture.height
            )));
        }
        if self.count == MAX_FRAMES {
            return Err(Trouble::TooLarge(format!("it has more than {MAX_FRAMES} pictures")));
        }
        self.count += 1;
        match (self.visit)(picture) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Trouble::Stopped),
        }
    }
}

/// The number of pixels of a frame, if it is one that may be read.
fn pixels(width: usize, height: usize) -> Result<usize, Trouble> {
    match width.checked_mul(height) {
        Some(0) => Err(Trouble::Damaged(format!("its pictures have {width}x{height} pixels"))),
        Some(pixels) if pixels <= MAX_PIXELS => Ok(pixels),
        _ => Err(Trouble::TooLarge(format!(
            "its pictures have {width}x{height} pixels, the limit is {MAX_PIXELS} in all"
        ))),
    }
}
