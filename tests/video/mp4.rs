//! MP4: the index agrees with the data, and where ffmpeg is installed it shows the right pictures.

use crate::{moving_gradient, noise, psnr, settings, written};
use qvgen::pipeline::video::{Frames, VideoError, read_metadata, write};
use std::path::Path;
use std::process::{Command, Stdio};

/// Sizes of one macroblock, several, ragged, and odd.
const SIZES: [(usize, usize); 5] = [(16, 16), (48, 32), (50, 34), (49, 33), (2, 2)];

/// The content of the box at `path`, each step the first of its kind; `skip` bytes of a box's
/// content come before its children.
fn find<'a>(mut bytes: &'a [u8], path: &[(&str, usize)]) -> &'a [u8] {
    for (kind, skip) in path {
        let mut rest = bytes;
        bytes = loop {
            let len = u32_at(rest, 0) as usize;
            if rest[4..8] == *kind.as_bytes() {
                break &rest[8 + skip..len];
            }
            rest = &rest[len..];
        };
    }
    bytes
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes[at..at + 2].try_into().unwrap())
}

/// The box `kind` of the sample table, after version and flags.
fn table<'a>(file: &'a [u8], kind: &str) -> &'a [u8] {
    let stbl = [("moov", 0), ("trak", 0), ("mdia", 0), ("minf", 0), ("stbl", 0), (kind, 4)];
    find(file, &stbl)
}

#[test]
fn the_index_describes_the_samples() {
    for (width, height) in SIZES {
        for count in [1, 7] {
            let (_folder, path) = written(&moving_gradient(width, height, count), "clip.mp4");
            let file = std::fs::read(path).unwrap();
            let mvhd = find(&file, &[("moov", 0), ("mvhd", 4)]);
            assert_eq!([u32_at(mvhd, 0), u32_at(mvhd, 4)], [0, 0], "a time of day");
            assert_eq!(u32_at(mvhd, 12) * 16, u32_at(mvhd, 8) * count as u32, "duration");
            let stts = table(&file, "stts");
            assert_eq!([u32_at(stts, 0), u32_at(stts, 4)], [1, count as u32]);
            assert_eq!(u32_at(stts, 8) * 16, u32_at(mvhd, 8), "frame duration");
            assert_eq!(u32_at(table(&file, "stss"), 4), 1, "the first frame is no key frame");

            let stsz = table(&file, "stsz");
            assert_eq!([u32_at(stsz, 0), u32_at(stsz, 4)], [0, count as u32]);
            let sizes: Vec<usize> = (0..count).map(|i| u32_at(stsz, 8 + 4 * i) as usize).collect();
            let mdat = find(&file, &[("mdat", 0)]);
            assert_eq!(sizes.iter().sum::<usize>(), mdat.len());
            let offset = u32_at(table(&file, "stco"), 4) as usize;
            assert_eq!(offset, mdat.as_ptr() as usize - file.as_ptr() as usize);
            for (start, size) in sizes.iter().scan(0, |at, size| {
                *at += size;
                Some((*at - size, *size))
            }) {
                require_whole_nal_units(&mdat[start..start + size]);
            }
        }
    }
}

fn require_whole_nal_units(mut sample: &[u8]) {
    while !sample.is_empty() {
        let len = u32_at(sample, 0) as usize;
        let kind = sample[4] & 0x1f;
        assert!(kind == 1 || kind == 5, "NAL unit type {kind} inside a sample");
        sample = &sample[4 + len..];
    }
}

#[test]
fn the_index_comes_before_the_data() {
    let (_folder, path) = written(&moving_gradient(16, 16, 2), "clip.mp4");
    let file = std::fs::read(path).unwrap();
    let (mut kinds, mut at) = (Vec::new(), 0);
    while at < file.len() {
        kinds.push(String::from_utf8(file[at + 4..at + 8].to_vec()).unwrap());
        at += u32_at(&file, at) as usize;
    }
    assert_eq!((kinds.join(" ").as_str(), at), ("ftyp moov mdat", file.len()));
}

#[test]
fn the_sample_entry_has_size_parameter_sets_and_color() {
    let (_folder, path) = written(&moving_gradient(49, 33, 1), "clip.mp4");
    let file = std::fs::read(path).unwrap();
    let avc1 = find(&table(&file, "stsd")[4..], &[("avc1", 0)]);
    assert_eq!([u16_at(avc1, 24), u16_at(avc1, 26)], [50, 34], "odd sizes grow to even");
    let boxes = &avc1[78..];
    let avcc = find(boxes, &[("avcC", 0)]);
    assert_eq!(avcc[0], 1);
    let sps = &avcc[8..8 + usize::from(u16_at(avcc, 6))];
    assert_eq!(sps[0] & 0x1f, 7, "no sequence parameter set");
    assert_eq!(sps[1..4], avcc[1..4], "profile and level differ");
    assert_eq!(sps[1], 77, "profile");
    let after = 8 + sps.len();
    assert_eq!((avcc[after], avcc[after + 3] & 0x1f), (1, 8), "no picture parameter set");
    assert_eq!(find(boxes, &[("colr", 0)]), b"nclx\0\x01\0\x01\0\x01\0");
}

#[test]
fn settings_are_the_comment() {
    let (_folder, path) = written(&moving_gradient(16, 16, 1), "clip.mp4");
    assert_eq!(read_metadata(&path), Some(settings()));
}

#[test]
fn pictures_beyond_decoders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let wide = Frames::new(8690, 2, 16.0, vec![7; 8690 * 2 * 3]).unwrap();
    let error = write(&wide, &folder.path().join("clip.mp4"), &settings()).unwrap_err();
    assert!(matches!(error, VideoError::Limit { .. }), "{error:?}");
}

#[test]
fn ffmpeg_shows_the_same_pictures() {
    if !has_ffmpeg() {
        return; // The tests above hold without it.
    }
    let still = Frames::new(50, 34, 16.0, moving_gradient(50, 34, 1).data().repeat(40)).unwrap();
    let mut clips: Vec<Frames> = SIZES.iter().map(|&(w, h)| moving_gradient(w, h, 9)).collect();
    clips.extend([moving_gradient(64, 48, 81), noise(50, 34, 5), still]);
    for clip in &clips {
        let (_folder, path) = written(clip, "clip.mp4");
        let [height, width] = [clip.height(), clip.width()].map(|len| len.next_multiple_of(2));
        let planes = decoded_by_ffmpeg(&path, &["-pix_fmt", "yuv420p"]);
        assert_eq!(planes.len(), width * height * 3 / 2 * clip.len(), "{clip:?}: frame count");
        let (mut shown, mut expected) = (Vec::new(), Vec::new());
        for (rgb, planes) in clip.iter().zip(planes.chunks_exact(width * height * 3 / 2)) {
            for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                let at = 3 * (y.min(clip.height() - 1) * clip.width() + x.min(clip.width() - 1));
                expected.push(luma(&rgb[at..at + 3]));
                shown.push(planes[y * width + x]);
            }
        }
        let ratio = psnr(&shown, &expected);
        assert!(ratio > 38.0, "{clip:?}: luma has {ratio} dB");
    }
}

#[test]
fn ffmpeg_shows_the_same_colors() {
    if !has_ffmpeg() {
        return;
    }
    for clip in [moving_gradient(320, 240, 3), moving_gradient(640, 480, 1)] {
        let (_folder, path) = written(&clip, "clip.mp4");
        let scale = "scale=flags=accurate_rnd+full_chroma_int";
        let shown = decoded_by_ffmpeg(&path, &["-vf", scale, "-pix_fmt", "rgb24"]);
        let ratio = psnr(&shown, clip.data());
        assert!(ratio > 42.0, "{clip:?}: {ratio} dB");
    }
}

/// BT.709 limited-range luma.
fn luma(rgb: &[u8]) -> u8 {
    let [r, g, b] = [rgb[0], rgb[1], rgb[2]].map(f64::from);
    (16.0 + (0.2126 * r + 0.7152 * g + 0.0722 * b) * 219.0 / 255.0).round() as u8
}

fn has_ffmpeg() -> bool {
    let mut probe = Command::new("ffmpeg");
    probe.arg("-version").stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

/// The raw frames of the video; any warning of the reader fails the test.
fn decoded_by_ffmpeg(path: &Path, arguments: &[&str]) -> Vec<u8> {
    let ffmpeg = |arguments: &[&str]| {
        let mut command = Command::new("ffmpeg");
        command.args(["-v", "warning", "-i"]).arg(path).args(arguments).arg("-");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    };
    let messages = ffmpeg(&["-f", "null"]).stderr;
    assert_eq!(String::from_utf8_lossy(&messages), "", "{}", path.display());
    ffmpeg(&[arguments, &["-f", "rawvideo"]].concat()).stdout
}
