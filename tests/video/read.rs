//! Reading clips: what our writers wrote, what others write, and what nobody should.

use crate::{moving_gradient, noise, psnr, written};
use gif::DisposalMethod;
use png::{BitDepth, BlendOp, ColorType, DisposeOp};
use qvgen::pipeline::video::Frames;
use qvgen::pipeline::video::read::{ClipReader, ReadError};
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

/// Width, height and all pixels of a clip.
type Clip = (usize, usize, Vec<u8>);

fn read(path: &Path) -> Result<Clip, ReadError> {
    read_some(path, usize::MAX)
}

fn read_some(path: &Path, most: usize) -> Result<Clip, ReadError> {
    let (mut clip, mut left) = ((0, 0, Vec::new()), most);
    ClipReader::default().read(path, &mut |picture| {
        (clip.0, clip.1) = (picture.width, picture.height);
        clip.2.extend_from_slice(picture.rgb);
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(clip)
}

/// Fails with a sentence that has all of `words` and ends in the name of the file.
#[track_caller]
fn assert_refused(path: &Path, words: &[&str]) {
    let error = read(path).map(|(width, height, _)| (width, height)).unwrap_err().to_string();
    for word in words {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
    let name = path.file_name().unwrap().to_string_lossy();
    assert!(error.ends_with(&*name), "{name} does not end {error:?}");
}

fn has_ffmpeg() -> bool {
    Command::new("ffmpeg").arg("-version").output().is_ok_and(|output| output.status.success())
}

#[test]
fn lossless_formats_come_back_exactly() {
    for clip in [moving_gradient(51, 37, 12), noise(16, 9, 2), moving_gradient(1, 1, 1)] {
        for name in ["clip.apng", "frames"] {
            let (_folder, path) = written(&clip, name);
            let (width, height, data) = read(&path).unwrap();
            assert_eq!((width, height), (clip.width(), clip.height()), "{name}");
            assert!(data == clip.data(), "{name} of {clip:?} came back changed");
        }
    }
}

#[test]
fn gif_with_few_colors_comes_back_exactly_and_y4m_up_to_rounding() {
    let color = |i: usize| [i * 3, 255 - i, i * 7].map(|v| v as u8);
    let data = (0..6 * 24 * 20).flat_map(|i| color(i * 31 % 200)).collect();
    let clip = Frames::new(24, 20, 16.0, data).unwrap();
    let (_folder, path) = written(&clip, "clip.gif");
    assert!(read(&path).unwrap() == (24, 20, clip.data().to_vec()));
    for clip in [moving_gradient(51, 37, 4), noise(16, 9, 2)] {
        let (_folder, path) = written(&clip, "clip.y4m");
        let (width, height, data) = read(&path).unwrap();
        assert_eq!((width, height), (clip.width(), clip.height()));
        let ratio = psnr(&data, clip.data());
        assert!(ratio > 48.0, "{clip:?}: {ratio} dB");
    }
}

#[test]
fn reading_stops_when_enough_was_seen() {
    let clip = moving_gradient(32, 32, 9);
    for name in ["clip.y4m", "clip.gif", "clip.apng", "frames"] {
        let (_folder, path) = written(&clip, name);
        assert_eq!(read_some(&path, 2).unwrap().2.len(), 2 * 32 * 32 * 3, "{name}");
    }
    if has_ffmpeg() {
        let (_folder, path) = written(&clip, "clip.mp4");
        assert_eq!(read_some(&path, 2).unwrap().2.len(), 2 * 32 * 32 * 3);
    }
}

#[test]
fn mp4_is_read_by_ffmpeg_where_it_is_installed() {
    for clip in [moving_gradient(96, 64, 9), moving_gradient(50, 34, 3)] {
        let (_folder, path) = written(&clip, "clip.mp4");
        if !has_ffmpeg() {
            assert_refused(&path, &["install ffmpeg", ".y4m or .gif"]);
            continue;
        }
        let (width, height, data) = read(&path).unwrap();
        assert_eq!((width, height), (clip.width(), clip.height()));
        // The matrix in the file is BT.709: with the wrong one the ratio is below 30.
        let ratio = psnr(&data, clip.data());
        assert!(ratio > 38.0, "{clip:?}: {ratio} dB");
    }
}

#[test]
fn a_missing_ffmpeg_is_said_with_the_remedy() {
    let (_folder, path) = written(&moving_gradient(16, 16, 1), "clip.mp4");
    let reader = ClipReader { ffmpeg: "/nowhere/ffmpeg".into() };
    let error = reader.read(&path, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(matches!(error, ReadError::NoFfmpeg { .. }), "{error:?}");
    let error = error.to_string();
    assert!(error.contains("install ffmpeg, or convert the clip to .y4m or .gif"), "{error}");
    assert!(error.ends_with("clip.mp4"), "{error}");
}

#[test]
fn halved_planes_of_color_are_spread_over_their_pixels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.y4m");
    // Red, and in the last columns gray; 5x3 has odd planes.
    for (name, columns, rows) in
        [("420jpeg", 3, 2), ("420mpeg2", 3, 2), ("422", 3, 3), ("444", 5, 3), ("", 3, 2)]
    {
        let token = if name.is_empty() { String::new() } else { format!(" C{name}") };
        let mut bytes = format!("YUV4MPEG2 W5 H3 F25:1{token}\nFRAME\n").into_bytes();
        bytes.extend([81; 15]);
        for code in [90, 240] {
            let gray = |i| i % columns >= columns - 1;
            bytes.extend((0..columns * rows).map(|i| if gray(i) { 128 } else { code }));
        }
        fs::write(&path, bytes).unwrap();
        let (width, height, data) = read(&path).unwrap();
        assert_eq!((width, height), (5, 3));
        for row in data.chunks_exact(15) {
            let [r, g, b] = [row[0], row[1], row[2]];
            assert!(r > 250 && g < 3 && b < 3, "{name}: {row:?}");
            let [r, g, b] = [row[12], row[13], row[14]];
            assert!(r.abs_diff(g) < 70 && g.abs_diff(b) < 70, "{name}: {row:?}");
        }
    }
    let mut bytes = b"YUV4MPEG2 W2 H1 Cmono XCOLORRANGE=FULL\nFRAME Ip\n".to_vec();
    bytes.extend([0, 255]);
    fs::write(&path, bytes).unwrap();
    assert_eq!(read(&path).unwrap().2, [0, 0, 0, 255, 255, 255]);
}

#[test]
fn our_reader_agrees_with_ffmpeg_on_halved_planes() {
    if !has_ffmpeg() {
        return;
    }
    let clip = moving_gradient(64, 48, 3);
    let (folder, path) = written(&clip, "clip.y4m");
    for format in ["yuv420p", "yuv422p", "yuv444p", "yuvj420p"] {
        let halved = folder.path().join(format!("{format}.y4m"));
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-i"]).arg(&path).args(["-strict", "-1"]);
        ffmpeg.args(["-sws_flags", "accurate_rnd+full_chroma_int", "-pix_fmt", format]);
        assert!(ffmpeg.arg(&halved).status().unwrap().success());
        let ratio = psnr(&read(&halved).unwrap().2, clip.data());
        assert!(ratio > 40.0, "{format}: {ratio} dB");
    }
}

#[test]
fn gif_frames_change_their_canvas_as_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.gif");
    let palette = [0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255];
    let mut encoder = gif::Encoder::new(File::create(&path).unwrap(), 2, 2, &palette).unwrap();
    let mut frame = |place: [u16; 4], pixels: &[u8], dispose| {
        let [left, top, width, height] = place;
        let frame = gif::Frame {
            left,
            top,
            width,
            height,
            dispose,
            transparent: Some(0),
            buffer: pixels.to_vec().into(),
            ..gif::Frame::default()
        };
        encoder.write_frame(&frame).unwrap();
    };
    frame([0, 0, 2, 2], &[1, 1, 1, 1], DisposalMethod::Keep);
    frame([1, 0, 1, 2], &[2, 0], DisposalMethod::Background);
    frame([0, 1, 1, 1], &[3], DisposalMethod::Previous);
    frame([0, 0, 1, 1], &[2], DisposalMethod::Any);
    // Reaches beyond the canvas.
    frame([1, 1, 5, 5], &[3; 25], DisposalMethod::Any);
    let _ = encoder.into_inner().unwrap();
    let (r, g, b, k) = ([255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]);
    let expected =
        [[r, r, r, r], [r, g, r, r], [r, k, b, k], [g, k, r, k], [g, k, r, b]].concat().concat();
    assert_eq!(read(&path).unwrap(), (2, 2, expected));
}

#[test]
fn png_animations_change_their_canvas_as_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clip.apng");
    let mut encoder = png::Encoder::new(File::create(&path).unwrap(), 2, 1);
    encoder.set_color(ColorType::Rgba);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_animated(4, 0).unwrap();
    let mut writer = encoder.write_header().unwrap();
    let (r, g) = ([255, 0, 0, 255], [0, 255, 0, 255]);
    writer.write_image_data(&[r, r].concat()).unwrap();
    let mut frame = |left, pixels: &[u8], dispose, blend| {
        writer.set_frame_dimension(1, 1).unwrap();
        writer.set_frame_position(left, 0).unwrap();
        writer.set_dispose_op(dispose).unwrap();
        writer.set_blend_op(blend).unwrap();
        writer.write_image_data(pixels).unwrap();
    };
    frame(1, &g, DisposeOp::Previous, BlendOp::Source);
    frame(0, &[0, 0, 0, 0], DisposeOp::Background, BlendOp::Over);
    frame(1, &[0, 255, 0, 102], DisposeOp::None, BlendOp::Over);
    writer.finish().unwrap();
    let pixels = read(&path).unwrap().2;
    let expected = [
        [[255, 0, 0], [255, 0, 0]],
        [[255, 0, 0], [0, 255, 0]],
        [[255, 0, 0], [255, 0, 0]],
        [[0, 0, 0], [153, 102, 0]],
    ];
    assert_eq!(pixels, expected.concat().concat());
}

#[test]
fn pictures_of_every_color_type_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture.png");
    let gray: [u8; 3] = [200; 3];
    let cases: [(ColorType, BitDepth, &[u8], [u8; 3]); 7] = [
        (ColorType::Grayscale, BitDepth::Eight, &[200], gray),
        (ColorType::Grayscale, BitDepth::Sixteen, &[200, 9], gray),
        (ColorType::Grayscale, BitDepth::One, &[0x80], [255; 3]),
        (ColorType::GrayscaleAlpha, BitDepth::Eight, &[255, 100], [100; 3]),
        (ColorType::Rgb, BitDepth::Sixteen, &[1, 0, 2, 0, 3, 0], [1, 2, 3]),
        (ColorType::Rgba, BitDepth::Eight, &[9, 8, 7, 0], [0; 3]),
        (ColorType::Indexed, BitDepth::Eight, &[1], [4, 5, 6]),
    ];
    for (color, depth, data, expected) in cases {
        let mut encoder = png::Encoder::new(File::create(&path).unwrap(), 1, 1);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == ColorType::Indexed {
            encoder.set_palette(vec![1, 2, 3, 4, 5, 6]);
        }
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(data).unwrap();
        writer.finish().unwrap();
        assert_eq!(read(&path).unwrap(), (1, 1, expected.to_vec()), "{color:?} {depth:?}");
    }
}

#[test]
fn folders_are_read_in_natural_order() {
    let (_folder, frames) = written(&moving_gradient(8, 8, 3), "frames");
    let names = ["9.png", "10.PNG", "100.png"];
    for (number, name) in names.iter().enumerate() {
        fs::rename(frames.join(format!("frame_000{number}.png")), frames.join(name)).unwrap();
    }
    fs::write(frames.join("notes.txt"), "not a picture").unwrap();
    fs::write(frames.join("._9.png"), "nor is this").unwrap();
    assert_eq!(read(&frames).unwrap().2, moving_gradient(8, 8, 3).data());

    let other = moving_gradient(9, 8, 1);
    let (_other_folder, picture) = written(&other, "other");
    fs::copy(picture.join("frame_0000.png"), frames.join("101.png")).unwrap();
    assert_refused(&frames, &["9x8", "8x8", "in 101.png"]);
    fs::write(frames.join("10.PNG"), "no picture").unwrap();
    assert_refused(&frames, &["damaged", "in 10.PNG"]);
    let empty = tempfile::tempdir().unwrap();
    assert_refused(empty.path(), &["no .png files"]);
}

#[test]
fn what_is_no_clip_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    assert_refused(&folder.path().join("gone.gif"), &["cannot read"]);
    assert_refused(&file("a.gif", b""), &["damaged"]);
    assert_refused(&file("a.y4m", b""), &["empty"]);
    assert_refused(&file("a.png", b"GIF89a"), &["damaged"]);
    assert_refused(&file("b.y4m", b"YUV4MPEG2 W4 H4\n"), &["no pictures"]);
    assert_refused(&file("c.y4m", b"YUV4MPEG2 W4 H4\nFRAME\nshort"), &["ends within a frame"]);
    assert_refused(&file("d.y4m", b"YUV4MPEG2 W1 H1 C444\nFRAME\nabcNONSENSE\n"), &["frame 2"]);
    assert_refused(&file("e.y4m", b"YUV4MPEG2 W4 H4 C420p10\n"), &["420p10", "-pix_fmt yuv444p"]);
    assert_refused(&file("f.y4m", &[b'x'; 5000]), &["line of text"]);
    let words = if has_ffmpeg() { ["damaged", "ffmpeg says"] } else { ["install", "ffmpeg"] };
    assert_refused(&file("a.mp4", b"no video"), &words);
    assert_refused(&file("-i.mkv", b"no video"), &words);
}

#[test]
fn sizes_are_bounded_before_memory_is_reserved() {
    let folder = tempfile::tempdir().unwrap();
    let y4m = folder.path().join("a.y4m");
    for size in ["W100000 H100000", "W4294967296 H4294967296", "W33554433 H1"] {
        fs::write(&y4m, format!("YUV4MPEG2 {size}\nFRAME\n")).unwrap();
        assert_refused(&y4m, &["too large"]);
    }
    // The header alone is believed only as far as the file goes.
    fs::write(&y4m, "YUV4MPEG2 W5792 H5792\nFRAME\n").unwrap();
    assert_refused(&y4m, &["ends within"]);
    let gif = folder.path().join("a.gif");
    let mut encoder =
        gif::Encoder::new(File::create(&gif).unwrap(), 65_535, 65_535, &[0; 6]).unwrap();
    encoder
        .write_frame(&gif::Frame {
            width: 1,
            height: 1,
            buffer: vec![0].into(),
            ..gif::Frame::default()
        })
        .unwrap();
    drop(encoder);
    assert_refused(&gif, &["too large"]);
    let png = folder.path().join("a.png");
    let mut encoder = png::Encoder::new(File::create(&png).unwrap(), 100_000, 100_000);
    encoder.set_color(ColorType::Rgb);
    drop(encoder.write_header().unwrap());
    let mut bytes = fs::read(&png).unwrap();
    bytes.truncate(33);
    bytes.extend(b"\x00\x00\x00\x00IDAT\x35\xaf\x06\x1e");
    fs::write(&png, bytes).unwrap();
    assert_refused(&png, &["too large"]);
}

#[test]
fn damage_anywhere_never_panics() {
    let clip = noise(12, 10, 3);
    let mut state = 7_u32;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    for name in ["clip.gif", "clip.apng", "clip.y4m"] {
        let (folder, path) = written(&clip, name);
        let whole = fs::read(&path).unwrap();
        let damaged = folder.path().join(format!("damaged-{name}"));
        let mut refused = 0;
        for len in 0..whole.len().min(400) {
            let cut = whole.len() * len / whole.len().min(400);
            fs::write(&damaged, &whole[..cut]).unwrap();
            refused += usize::from(read(&damaged).is_err());
        }
        // Only YUV4MPEG2 has places where a part is a whole.
        assert!(refused >= 397, "{name}: {refused} of 400 parts were refused");
        for _ in 0..600 {
            let mut bytes = whole.clone();
            for _ in 0..=random(3) {
                let at = random(bytes.len().min(2000));
                bytes[at] = random(256) as u8;
            }
            fs::write(&damaged, bytes).unwrap();
            let _ = read(&damaged);
        }
    }
}

#[test]
fn a_truncated_mp4_is_damaged() {
    let (_folder, path) = written(&noise(64, 64, 9), "clip.mp4");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let words = if has_ffmpeg() { "damaged" } else { "install ffmpeg" };
    assert_refused(&path, &[words]);
}
