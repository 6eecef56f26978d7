//! PNG and APNG files, lossless, with the settings in a text chunk.

use super::frames::{Frames, Rate};
use super::output::{Failure, write_plain};
use png::{BitDepth, ColorType, Compression, Decoder, Encoder, EncodingError, Limits};
use rayon::prelude::*;
use std::ffi::OsStr;
use std::io::{BufRead, Seek, Write};
use std::path::Path;

/// Name of the text chunk.
const KEYWORD: &str = "qvgen";
/// Largest text read, bytes.
const MAX_TEXT: usize = 16 << 20;

/// Writes one animated PNG that repeats forever.
pub(super) fn write_animation(
    frames: &Frames,
    metadata: &str,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut encoder = encoder(frames, metadata, out)?;
    let (numerator, denominator) = delay_from_rate(frames.rate());
    let count = u32::try_from(frames.len())
        .map_err(|_| Failure::Limit("an APNG has up to 2^32 - 1 frames".to_string()))?;
    encoder.set_animated(count, 0)?;
    encoder.set_frame_delay(numerator, denominator)?;
    let mut writer = encoder.write_header()?;
    for frame in frames.iter() {
        writer.write_image_data(frame)?;
    }
    Ok(writer.finish()?)
}

/// Writes `frame_0000.png`, `frame_0001.png` … into `folder`.
pub(super) fn write_files(frames: &Frames, metadata: &str, folder: &Path) -> Result<(), Failure> {
    let all: Vec<&[u8]> = frames.iter().collect();
    all.par_iter().enumerate().try_for_each(|(number, frame)| {
        write_plain(&folder.join(frame_name(number)), |out| {
            let mut writer = encoder(frames, metadata, out)?.write_header()?;
            writer.write_image_data(frame)?;
            Ok(writer.finish()?)
        })
    })
}

/// Writes the first frame as one PNG.
pub(super) fn write_first(
    frames: &Frames,
    metadata: &str,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut writer = encoder(frames, metadata, out)?.write_header()?;
    writer.write_image_data(frames.iter().next().unwrap_or_default())?;
    Ok(writer.finish()?)
}

/// File name of frame `number`.
pub(super) fn frame_name(number: usize) -> String {
    format!("frame_{number:04}.png")
}

/// Whether `name` is one that [`frame_name`] gives.
pub(super) fn is_frame_name(name: &OsStr) -> bool {
    let digits = name
        .to_str()
        .and_then(|name| name.strip_prefix("frame_"))
        .and_then(|name| name.strip_suffix(".png"));
    digits.is_some_and(|text| text.len() >= 4 && text.bytes().all(|b| b.is_ascii_digit()))
}

/// The settings in a PNG or APNG file, if it has any; damaged files have none.
pub(super) fn read_text(file: impl BufRead + Seek) -> Option<String> {
    let decoder = Decoder::new_with_limits(file, Limits { bytes: MAX_TEXT });
    let reader = decoder.read_info().ok()?;
    let chunk = reader.info().utf8_text.iter().find(|chunk| chunk.keyword == KEYWORD)?;
    chunk.get_text().ok()
}

fn encoder<W: Write>(
    frames: &Frames,
    metadata: &str,
    out: W,
) -> Result<Encoder<'static, W>, Failure> {
    let (Ok(width), Ok(height)) = (u32::try_from(frames.width()), u32::try_from(frames.height()))
    else {
        return Err(Failure::Limit("a PNG is up to 2^31 - 1 pixels a side".to_string()));
    };
    let mut encoder = Encoder::new(out, width, height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Balanced);
    encoder.add_itxt_chunk(KEYWORD.to_string(), metadata.to_string())?;
    Ok(encoder)
}

/// The delay between frames as the two 16-bit numbers of an APNG, seconds.
fn delay_from_rate(rate: Rate) -> (u16, u16) {
    let divisor = greatest_common_divisor(rate.frames, rate.seconds);
    let (frames, seconds) = (rate.frames / divisor, rate.seconds / divisor);
    if let (Ok(frames), Ok(seconds)) = (u16::try_from(frames), u16::try_from(seconds)) {
        return (seconds, frames);
    }
    // Too fine for 16 bits: the closest fraction with as large a numerator as fits.
    let fps = f64::from(frames) / f64::from(seconds);
    let numerator = (f64::from(u16::MAX) / fps).floor().clamp(1.0, 1000.0);
    (numerator as u16, (numerator * fps).round() as u16)
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

impl From<EncodingError> for Failure {
    fn from(error: EncodingError) -> Self {
        match error {
            EncodingError::IoError(error) => Self::Io(error),
            EncodingError::LimitsExceeded => Self::Limit("too large for a PNG".to_string()),
            other => Self::Encoder(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_exact_where_sixteen_bits_allow() {
        let delay = |frames, seconds| delay_from_rate(Rate { frames, seconds });
        assert_eq!(delay(16, 1), (1, 16));
        assert_eq!(delay(24_000, 1001), (1001, 24_000));
        assert_eq!(delay(12_500, 1000), (2, 25));
        let (numerator, denominator) = delay(120_000, 1001);
        let fps = f64::from(denominator) / f64::from(numerator);
        assert!((fps - 120_000.0 / 1001.0).abs() < 2e-3, "{fps}");
    }

    #[test]
    fn only_numbered_frames_count_as_ours() {
        for name in ["frame_0000.png", "frame_12345.png"] {
            assert!(is_frame_name(OsStr::new(name)), "{name}");
        }
        for name in ["frame_000.png", "frame_00a0.png", "notes.txt", "frame_0000.PNG", "x.png"] {
            assert!(!is_frame_name(OsStr::new(name)), "{name}");
        }
    }
}
