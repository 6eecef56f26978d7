//! GIF: right size, duration and repetition, and colors as close as 255 of them can be.

use crate::{moving_gradient, noise, psnr, settings, written};
use qvgen::pipeline::video::{Frames, VideoError, read_metadata, write};
use std::fs::File;
use std::path::Path;

struct Decoded {
    width: usize,
    height: usize,
    data: Vec<u8>,
    hundredths: u32,
    repeat: gif::Repeat,
}

/// Plays a GIF: pixels that a frame leaves out keep their color.
fn decoded(path: &Path) -> Decoded {
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::RGBA);
    let mut reader = options.read_info(File::open(path).unwrap()).unwrap();
    let (width, height) = (usize::from(reader.width()), usize::from(reader.height()));
    let mut canvas = vec![0_u8; width * height * 3];
    let (mut data, mut hundredths) = (Vec::new(), 0);
    while let Some(frame) = reader.read_next_frame().unwrap() {
        assert_eq!((frame.left, frame.top), (0, 0));
        assert_eq!((usize::from(frame.width), usize::from(frame.height)), (width, height));
        hundredths += u32::from(frame.delay);
        for (old, new) in canvas.chunks_exact_mut(3).zip(frame.buffer.chunks_exact(4)) {
            if new[3] != 0 {
                old.copy_from_slice(&new[..3]);
            }
        }
        data.extend_from_slice(&canvas);
    }
    Decoded { width, height, data, hundredths, repeat: reader.repeat() }
}

#[test]
fn a_clip_plays_at_its_size_and_speed_forever() {
    for clip in [moving_gradient(51, 37, 21), moving_gradient(1, 1, 1), noise(48, 32, 3)] {
        let (_folder, path) = written(&clip, "clip.gif");
        let decoded = decoded(&path);
        assert_eq!((decoded.width, decoded.height), (clip.width(), clip.height()));
        assert_eq!(decoded.data.len(), clip.data().len());
        assert_eq!(decoded.hundredths, (clip.seconds() * 100.0).round() as u32);
        assert_eq!(decoded.repeat, gif::Repeat::Infinite);
        assert_eq!(read_metadata(&path), Some(settings()));
    }
}

#[test]
fn colors_are_right_on_average_and_never_far_off() {
    let clip = moving_gradient(96, 64, 8);
    let (_folder, path) = written(&clip, "clip.gif");
    let shown = decoded(&path).data;
    let ratio = psnr(&shown, clip.data());
    assert!(ratio > 26.0, "pixels have {ratio} dB");
    let ratio = psnr(&block_means(&shown, 96), &block_means(clip.data(), 96));
    assert!(ratio > 39.0, "blocks have {ratio} dB");
}

/// Means of blocks of 8x8 pixels, which is what the eye sees of a dithered picture.
fn block_means(rgb: &[u8], width: usize) -> Vec<u8> {
    let block_rows = rgb.chunks_exact(8 * 3 * width);
    block_rows
        .flat_map(|rows| {
            (0..width / 8 * 3).map(move |i| {
                let first = i / 3 * 24 + i % 3;
                let sum: u32 =
                    (0..64).map(|k| u32::from(rows[k / 8 * 3 * width + first + k % 8 * 3])).sum();
                (sum / 64) as u8
            })
        })
        .collect()
}

#[test]
fn up_to_255_colors_are_exact() {
    for colors in [2, 255] {
        let color = |i: usize| [i, 255 - i, i * 7 % 256].map(|v| v as u8);
        let data = (0..3 * 24 * 20).flat_map(|i| color(i * 31 % colors)).collect();
        let clip = Frames::new(24, 20, 16.0, data).unwrap();
        let (_folder, path) = written(&clip, "clip.gif");
        assert!(decoded(&path).data == clip.data(), "{colors} colors came back changed");
    }
}

#[test]
fn what_gif_cannot_hold_is_refused_with_another_format() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.gif");
    let wide = Frames::new(65_536, 1, 16.0, vec![7; 65_536 * 3]).unwrap();
    let fast = Frames::new(2, 2, 60.0, vec![7; 12]).unwrap();
    for (clip, advice) in [(wide, "APNG"), (fast, "MP4")] {
        let error = write(&clip, &path, &settings()).unwrap_err();
        assert!(matches!(error, VideoError::Limit { .. }), "{error:?}");
        assert!(error.to_string().contains(advice), "{error}");
    }
    assert!(crate::names_in(folder.path()).is_empty());
}
