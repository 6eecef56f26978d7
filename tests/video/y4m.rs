//! YUV4MPEG2, read by the few lines that its format needs.

use crate::{moving_gradient, noise, psnr, settings, written};
use qvgen::pipeline::video::{Frames, read_metadata};

/// RGB of BT.601 limited-range codes.
fn rgb_from_codes(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    let luma = (f64::from(y) - 16.0) * 255.0 / 219.0;
    let [cb, cr] = [cb, cr].map(|code| (f64::from(code) - 128.0) * 255.0 / 224.0);
    [luma + 1.402 * cr, luma - 0.344_136 * cb - 0.714_136 * cr, luma + 1.772 * cb]
        .map(|v| v.round() as u8)
}

/// The header line and the RGB pixels of a 4:4:4 file.
fn decoded(bytes: &[u8], pixels: usize) -> (String, Vec<u8>) {
    let end = bytes.iter().position(|&b| b == b'\n').unwrap();
    let header = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut data = Vec::new();
    let mut rest = &bytes[end + 1..];
    while !rest.is_empty() {
        rest = rest.strip_prefix(b"FRAME\n").unwrap();
        let (planes, next) = rest.split_at(3 * pixels);
        for i in 0..pixels {
            data.extend(rgb_from_codes(planes[i], planes[pixels + i], planes[2 * pixels + i]));
        }
        rest = next;
    }
    (header, data)
}

#[test]
fn pixels_come_back_up_to_rounding() {
    for clip in [moving_gradient(51, 37, 4), noise(16, 9, 2)] {
        let (_folder, path) = written(&clip, "clip.y4m");
        let (header, data) = decoded(&std::fs::read(path).unwrap(), clip.width() * clip.height());
        assert_eq!(
            header,
            format!(
                "YUV4MPEG2 W{} H{} F16:1 Ip A1:1 C444 XCOLORRANGE=LIMITED",
                clip.width(),
                clip.height()
            )
        );
        let ratio = psnr(&data, clip.data());
        assert!(ratio > 48.0, "{clip:?}: {ratio} dB");
    }
}

#[test]
fn fractional_rates_are_fractions() {
    let clip = Frames::new(2, 2, 29.97, vec![9; 12]).unwrap();
    let (_folder, path) = written(&clip, "clip.y4m");
    let text = std::fs::read(path).unwrap();
    assert!(text.starts_with(b"YUV4MPEG2 W2 H2 F30000:1001 "));
}

#[test]
fn settings_lie_beside_the_file() {
    let (folder, path) = written(&moving_gradient(8, 8, 2), "clip.y4m");
    assert_eq!(crate::names_in(folder.path()), ["clip.y4m", "clip.y4m.json"]);
    assert_eq!(read_metadata(&path), Some(settings()));
}
