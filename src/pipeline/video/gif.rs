//! Animated GIF: one palette, ordered dithering, repeats forever, the settings in a comment.

use super::frames::Frames;
use super::output::Failure;
use super::palette::{MAX_COLORS, Palette};
use gif::{AnyExtension, DisposalMethod, Encoder, EncodingError, Extension, Frame, Repeat};
use std::borrow::Cow;
use std::io::{Read, Write};

/// The highest rate: browsers stretch delays under two hundredths of a second to ten.
const MAX_FPS: f64 = 50.0;
/// The index that leaves a pixel as it was; palettes have fewer colors.
const UNCHANGED: u8 = MAX_COLORS as u8;
/// Largest comment read, bytes.
const MAX_COMMENT: usize = 16 << 20;

/// Writes `frames` with `metadata` as the comment of the file.
pub(super) fn write(frames: &Frames, metadata: &str, out: &mut dyn Write) -> Result<(), Failure> {
    let (Ok(width), Ok(height)) = (u16::try_from(frames.width()), u16::try_from(frames.height()))
    else {
        return Err(Failure::Limit(format!(
            "a GIF is up to 65535 pixels a side, this video has {}x{}; write APNG instead",
            frames.width(),
            frames.height()
        )));
    };
    if frames.fps() > MAX_FPS {
        return Err(Failure::Limit(format!(
            "a GIF shows up to {MAX_FPS} frames per second, this video has {}; write MP4 instead",
            frames.fps()
        )));
    }
    let mut palette = Palette::from_frames(frames);
    // Filled up to 256 entries, so that the index of unchanged pixels is one of the table.
    let mut table = palette.bytes();
    table.resize(3 * (MAX_COLORS + 1), 0);
    let mut encoder = Encoder::new(out, width, height, &table)?;
    encoder.set_repeat(Repeat::Infinite)?;
    let comment = AnyExtension(Extension::Comment as u8);
    encoder.write_raw_extension(comment, &[metadata.as_bytes()])?;
    let mut before: Vec<u8> = Vec::new();
    for (number, rgb) in frames.iter().enumerate() {
        let indices = palette.indices(rgb, frames.width());
        encoder.write_frame(&Frame {
            delay: delay(number, frames.fps()),
            dispose: DisposalMethod::Keep,
            transparent: Some(UNCHANGED),
            width,
            height,
            buffer: Cow::Owned(changes(&before, &indices)),
            ..Frame::default()
        })?;
        before = indices;
    }
    encoder.into_inner()?.flush()?;
    Ok(())
}

/// How long frame `number` is shown, hundredths of a second, so that the sum never drifts.
fn delay(number: usize, fps: f64) -> u16 {
    let shown_at = |number: usize| (number as f64 * 100.0 / fps).round();
    (shown_at(number + 1) - shown_at(number)) as u16
}

/// `indices` with [`UNCHANGED`] where `before` had the same, which compresses better.
fn changes(before: &[u8], indices: &[u8]) -> Vec<u8> {
    if before.is_empty() {
        return indices.to_vec();
    }
    before.iter().zip(indices).map(|(&b, &i)| if b == i { UNCHANGED } else { i }).collect()
}

impl From<EncodingError> for Failure {
    fn from(error: EncodingError) -> Self {
        match error {
            EncodingError::Io(error) => Self::Io(error),
            other => Self::Encoder(other.to_string()),
        }
    }
}

/// The comments of a GIF file before its second frame; a damaged file has those before the damage.
pub(super) fn read_comments(file: &mut impl Read) -> Vec<String> {
    let mut comments = Vec::new();
    let _until_damage = scan(file, &mut comments);
    comments
}

fn scan(file: &mut impl Read, comments: &mut Vec<String>) -> Option<()> {
    let head: [u8; 13] = take(file)?;
    if !head.starts_with(b"GIF8") {
        return None;
    }
    skip_table(file, head[10])?;
    let mut frames = 0;
    while frames < 2 {
        match take(file)? {
            [0x21] => {
                let [label] = take(file)?;
                let text = sub_blocks(file, label == Extension::Comment as u8)?;
                comments.extend(String::from_utf8(text).ok().filter(|text| !text.is_empty()));
            }
            [0x2c] => {
                let place: [u8; 9] = take(file)?;
                skip_table(file, place[8])?;
                let [_code_size] = take(file)?;
                sub_blocks(file, false)?;
                frames += 1;
            }
            _ => return None,
        }
    }
    Some(())
}

fn take<const N: usize>(file: &mut impl Read) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

/// Passes over the color table that `flags` announce.
fn skip_table(file: &mut impl Read, flags: u8) -> Option<()> {
    if flags & 0x80 != 0 {
        for _ in 0..1_usize << ((flags & 7) + 1) {
            take::<3>(file)?;
        }
    }
    Some(())
}

/// Reads sub-blocks up to the empty one and returns their content if it is `wanted`.
fn sub_blocks(file: &mut impl Read, wanted: bool) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let [len] = take(file)?;
        if len == 0 {
            return Some(content);
        }
        let mut block = [0; 255];
        let block = &mut block[..usize::from(len)];
        file.read_exact(block).ok()?;
        if wanted {
            content.extend_from_slice(block);
            if content.len() > MAX_COMMENT {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_add_up_to_the_duration() {
        for (fps, frames) in [(16.0, 81), (24.0, 49), (30.0, 100), (50.0, 10), (0.5, 3)] {
            let total: u32 = (0..frames).map(|number| u32::from(delay(number, fps))).sum();
            assert_eq!(total, (frames as f64 * 100.0 / fps).round() as u32, "{fps}");
        }
    }
}
