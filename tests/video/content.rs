//! From decoder output to frames, and videos that show nothing.

use crate::{moving_gradient, noise};
use qvgen::pipeline::video::{Degenerate, Frames, VideoError};

/// A clip of 3 frames of 4x4 with values from `value(frame, pixel, channel)`.
fn clip(value: impl Fn(usize, usize, usize) -> u8) -> Frames {
    let data = (0..3 * 16 * 3).map(|i| value(i / 48, i % 48 / 3, i % 3)).collect();
    Frames::new(4, 4, 8.0, data).unwrap()
}

#[test]
fn unit_values_are_rounded_and_clamped() {
    let values = [0.0, 1.0, 0.5, 0.4999 / 255.0, 0.5001 / 255.0, 254.6 / 255.0, -0.2, 1.7, 0.25];
    let frames = Frames::from_unit_values(&values, [1, 1, 3], 16.0).unwrap();
    assert_eq!(frames.data(), [0, 255, 128, 0, 1, 255, 0, 255, 64]);
}

#[test]
fn shapes_are_frames_height_width() {
    let frames = Frames::from_unit_values(&[0.5; 5 * 2 * 7 * 3], [5, 2, 7], 16.0).unwrap();
    assert_eq!((frames.len(), frames.height(), frames.width()), (5, 2, 7));
    assert!((frames.seconds() - 5.0 / 16.0).abs() < 1e-12);
    let shorter = Frames::from_unit_values(&[0.5; 9], [5, 2, 7], 16.0).unwrap_err();
    assert!(matches!(shorter, VideoError::Shape { values: 9, .. }), "{shorter}");
    let huge = Frames::from_unit_values(&[], [usize::MAX, 2, 7], 16.0).unwrap_err();
    assert!(matches!(huge, VideoError::Shape { .. }), "{huge}");
}

#[test]
fn values_that_are_not_finite_are_counted_and_placed() {
    let mut values = vec![0.5_f32; 4 * 2 * 2 * 3];
    values[2 * 12 + 5] = f32::NAN;
    values[3 * 12] = f32::NEG_INFINITY;
    let error = Frames::from_unit_values(&values, [4, 2, 2], 16.0).unwrap_err();
    assert!(matches!(error, VideoError::NotFinite { frame: 2, bad: 2, values: 48 }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("2 of 48") && text.contains("frame 2"), "{text}");
}

#[test]
fn videos_without_frames_or_with_impossible_rates_are_refused() {
    assert!(matches!(Frames::new(4, 4, 16.0, Vec::new()), Err(VideoError::NoFrames)));
    assert!(matches!(Frames::new(0, 4, 16.0, vec![1]), Err(VideoError::NoFrames)));
    assert!(matches!(Frames::new(2, 2, 16.0, vec![0; 13]), Err(VideoError::Shape { .. })));
    for fps in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e6] {
        let error = Frames::new(1, 1, fps, vec![0; 3]).unwrap_err();
        assert!(matches!(error, VideoError::FrameRate { .. }), "{error}");
    }
}

#[test]
fn black_one_color_and_flat_videos_are_recognized() {
    assert_eq!(clip(|_, _, c| c as u8).degenerate(), Some(Degenerate::Black));
    assert_eq!(
        clip(|_, _, c| [10, 20, 30][c]).degenerate(),
        Some(Degenerate::OneColor([10, 20, 30]))
    );
    // Colors that change from frame to frame show no more than one color does.
    let flashing = clip(|frame, pixel, _| (80 * frame + pixel % 2) as u8);
    assert!(matches!(flashing.degenerate(), Some(Degenerate::Flat { std_dev }) if std_dev < 1.0));
}

#[test]
fn faint_noisy_and_still_videos_are_let_through() {
    assert_eq!(clip(|_, pixel, _| 100 + (pixel % 2 * 3) as u8).degenerate(), None);
    assert_eq!(moving_gradient(8, 8, 1).degenerate(), None);
    assert_eq!(noise(8, 8, 2).degenerate(), None);
    // One frame with a picture is enough.
    assert_eq!(clip(|frame, pixel, _| (frame / 2 * pixel * 9) as u8).degenerate(), None);
}

#[test]
fn the_refusal_says_what_was_found_and_how_to_go_on() {
    let text = clip(|_, _, _| 0).require_content().unwrap_err().to_string();
    assert!(text.contains("every frame is black"), "{text}");
    assert!(text.contains("--allow-degenerate"), "{text}");
    let text = clip(|_, _, _| 0x7f).require_content().unwrap_err().to_string();
    assert!(text.contains("#7f7f7f"), "{text}");
    moving_gradient(8, 8, 2).require_content().unwrap();
}
