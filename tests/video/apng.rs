//! APNG and folders of PNG files hold exactly the pixels given.

use crate::{moving_gradient, names_in, noise, settings, written};
use qvgen::pipeline::video::{Frames, read_metadata, write};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

struct Decoded {
    /// All frames, RGB8.
    data: Vec<u8>,
    size: (u32, u32),
    /// Of the first frame, if animated: numerator and denominator, seconds.
    delay: Option<(u16, u16)>,
}

/// Reads a PNG or APNG file.
fn decoded(path: &Path) -> Decoded {
    let mut reader =
        png::Decoder::new(BufReader::new(File::open(path).unwrap())).read_info().unwrap();
    let info = reader.info();
    let size = (info.width, info.height);
    let count = info.animation_control.map_or(1, |control| control.num_frames);
    let delay = info.frame_control.map(|control| (control.delay_num, control.delay_den));
    let mut data = Vec::new();
    for _ in 0..count {
        let mut frame = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut frame).unwrap();
        data.extend(frame);
    }
    assert!(reader.next_frame(&mut vec![0; 1 << 16]).is_err(), "more frames than announced");
    Decoded { data, size, delay }
}

#[test]
fn an_animation_returns_its_pixels_and_rate() {
    for clip in [moving_gradient(51, 37, 5), noise(16, 16, 2), moving_gradient(1, 1, 1)] {
        let (_folder, path) = written(&clip, "clip.apng");
        let Decoded { data, size, delay } = decoded(&path);
        assert_eq!(size, (clip.width() as u32, clip.height() as u32));
        assert_eq!(delay, Some((1, 16)));
        assert!(data == clip.data(), "{clip:?} came back with other pixels");
        assert_eq!(read_metadata(&path), Some(settings()));
    }
}

#[test]
fn a_folder_has_one_exact_file_per_frame() {
    let clip = moving_gradient(33, 20, 12);
    let (_folder, path) = written(&clip, "frames");
    assert_eq!(names_in(&path).len(), 12);
    for (number, frame) in clip.iter().enumerate() {
        let file = path.join(format!("frame_{number:04}.png"));
        assert!(decoded(&file).data == frame, "frame {number} came back with other pixels");
        assert_eq!(decoded(&file).delay, None);
    }
    assert_eq!(read_metadata(&path), Some(settings()));
}

#[test]
fn a_shorter_video_leaves_no_frames_of_the_longer_one() {
    let (folder, path) = written(&moving_gradient(16, 16, 12), "frames");
    write(&moving_gradient(16, 16, 3), &path, &settings()).unwrap();
    assert_eq!(names_in(&path), ["frame_0000.png", "frame_0001.png", "frame_0002.png"]);
    assert_eq!(names_in(folder.path()), ["frames"]);
}

#[test]
fn rates_that_are_no_whole_numbers_are_kept() {
    let clip = moving_gradient(8, 8, 2);
    let clip = Frames::new(8, 8, 23.976, clip.data().to_vec()).unwrap();
    let (_folder, path) = written(&clip, "clip.apng");
    assert_eq!(decoded(&path).delay, Some((1001, 24_000)));
}
