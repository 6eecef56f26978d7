//! Videos: every format written, read back by another reader, and refused when it should be.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails by panicking, as they do")]

mod apng;
mod content;
mod files;
mod gif;
mod mp4;
mod read;
mod y4m;

use qvgen::pipeline::video::Frames;
use serde_json::{Value, json};
use std::path::Path;

/// A smooth picture that moves: every pixel, channel and frame differs from its neighbors.
pub(crate) fn moving_gradient(width: usize, height: usize, count: usize) -> Frames {
    let mut data = Vec::with_capacity(width * height * count * 3);
    for frame in 0..count {
        for y in 0..height {
            for x in 0..width {
                let (u, v) = (x as f32 / width as f32, y as f32 / height as f32);
                let t = frame as f32 / 16.0;
                let waves = [(5.0 * (u + t)).sin(), (4.0 * (v - t)).cos(), (3.0 * (u + v)).sin()];
                data.extend(waves.map(|wave| (127.5 + 100.0 * wave) as u8));
            }
        }
    }
    Frames::new(width, height, 16.0, data).unwrap()
}

/// Frames without any order: the hardest content for every encoder.
pub(crate) fn noise(width: usize, height: usize, count: usize) -> Frames {
    let mut state = 1_u32;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let data = (0..width * height * count * 3).map(|_| byte()).collect();
    Frames::new(width, height, 16.0, data).unwrap()
}

/// Settings with text that is neither ASCII nor harmless.
pub(crate) fn settings() -> Value {
    json!({ "prompt": "Une forêt \"noire\"\n森", "steps": 50, "guidance": 5.0 })
}

/// Writes `frames` as `name` into a fresh folder and returns both.
pub(crate) fn written(frames: &Frames, name: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    qvgen::pipeline::video::write(frames, &path, &settings()).unwrap();
    (folder, path)
}

/// Names in `folder`, sorted.
pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Peak signal-to-noise ratio, dB.
pub(crate) fn psnr(actual: &[u8], expected: &[u8]) -> f64 {
    assert_eq!(actual.len(), expected.len(), "lengths differ");
    let squares: f64 =
        actual.iter().zip(expected).map(|(&a, &e)| (f64::from(a) - f64::from(e)).powi(2)).sum();
    10.0 * (255.0 * 255.0 * actual.len() as f64 / squares.max(1e-9)).log10()
}

#[test]
fn the_ratio_falls_with_the_error() {
    let clip = moving_gradient(32, 32, 2);
    let off_by = |by: u8| clip.data().iter().map(|v| v.wrapping_add(by)).collect::<Vec<_>>();
    assert!((psnr(&off_by(1), clip.data()) - 48.13).abs() < 0.01);
    assert!((psnr(&off_by(16), clip.data()) - 24.05).abs() < 0.01);
}
