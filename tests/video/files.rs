//! Paths, atomic replacement, determinism, and settings read from damaged files.

use crate::{moving_gradient, names_in, settings, written};
use qvgen::pipeline::atomic::OutputError;
use qvgen::pipeline::video::{Frames, VideoError, VideoFormat, read_metadata, write};
use std::fs;
use std::path::Path;

const FILES: [&str; 4] = ["clip.mp4", "clip.gif", "clip.apng", "clip.y4m"];

#[test]
fn the_name_decides_the_format() {
    let folder = tempfile::tempdir().unwrap();
    let named_like_a_file = folder.path().join("frames.mp4");
    fs::create_dir(&named_like_a_file).unwrap();
    for (path, format) in [
        (Path::new("a/clip.mp4"), VideoFormat::Mp4),
        (Path::new("clip.v2.MP4"), VideoFormat::Mp4),
        (Path::new("clip.gif"), VideoFormat::Gif),
        (Path::new("clip.apng"), VideoFormat::Apng),
        (Path::new("clip.y4m"), VideoFormat::Y4m),
        (Path::new("frames"), VideoFormat::PngFolder),
        (Path::new("frames.d/"), VideoFormat::PngFolder),
        (&named_like_a_file, VideoFormat::PngFolder),
    ] {
        assert_eq!(VideoFormat::from_path(path).unwrap(), format, "{}", path.display());
    }
}

#[test]
fn any_other_name_is_refused_with_the_list_of_formats() {
    for name in ["clip.avi", "clip.webp", "clip.png", "clip.", ".mp4", "", "..", "/"] {
        let error = VideoFormat::from_path(Path::new(name)).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, VideoError::UnknownFormat { .. }), "{name}: {error:?}");
        assert!(VideoFormat::SUPPORTED.split(", ").all(|format| text.contains(format)), "{text}");
    }
}

#[test]
fn the_same_frames_give_the_same_bytes() {
    let clip = moving_gradient(50, 34, 6);
    for name in FILES {
        let bytes = || {
            let (_folder, path) = written(&clip, name);
            fs::read(path).unwrap()
        };
        assert!(bytes() == bytes(), "{name} differs");
    }
}

#[test]
fn a_missing_folder_is_named_and_nothing_is_created() {
    let folder = tempfile::tempdir().unwrap();
    for name in FILES.into_iter().chain(["frames", "frames/"]) {
        let path = folder.path().join("missing").join(name);
        let error = write(&moving_gradient(8, 8, 1), &path, &settings()).unwrap_err();
        assert!(
            matches!(error, VideoError::Output(OutputError::MissingParent { .. })),
            "{error:?}"
        );
        assert!(error.to_string().ends_with("missing"), "{error}");
    }
    assert!(names_in(folder.path()).is_empty());
}

#[test]
fn finished_files_are_alone_in_their_folder_and_readable_as_any_file() {
    for name in ["clip.mp4", "clip.gif", "clip.apng", "frames"] {
        let (folder, path) = written(&moving_gradient(8, 8, 2), name);
        assert_eq!(names_in(folder.path()), [name]);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let plain = folder.path().join("plain");
            if path.is_dir() {
                fs::create_dir(&plain).unwrap();
            } else {
                fs::write(&plain, "").unwrap();
            }
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode(&path), mode(&plain), "{name}");
        }
    }
}

#[test]
fn a_failed_write_leaves_the_old_file_as_it_was() {
    let (folder, path) = written(&moving_gradient(8, 8, 2), "clip.gif");
    let before = fs::read(&path).unwrap();
    let too_fast = Frames::new(8, 8, 100.0, vec![3; 8 * 8 * 3]).unwrap();
    write(&too_fast, &path, &settings()).unwrap_err();
    assert!(fs::read(&path).unwrap() == before);
    assert_eq!(names_in(folder.path()), ["clip.gif"]);
}

#[test]
fn a_new_file_replaces_the_old_one() {
    for name in FILES {
        let (_folder, path) = written(&moving_gradient(8, 8, 2), name);
        let before = fs::read(&path).unwrap();
        write(&moving_gradient(16, 8, 3), &path, &settings()).unwrap();
        assert!(fs::read(&path).unwrap() != before, "{name}");
    }
}

#[test]
fn folders_with_other_files_are_never_replaced() {
    let (folder, path) = written(&moving_gradient(8, 8, 2), "frames");
    fs::write(path.join("notes.txt"), "keep me").unwrap();
    let error = write(&moving_gradient(8, 8, 1), &path, &settings()).unwrap_err();
    assert!(matches!(error, VideoError::Output(OutputError::ForeignFile { .. })), "{error:?}");
    assert!(error.to_string().contains("notes.txt"), "{error}");
    assert_eq!(names_in(&path), ["frame_0000.png", "frame_0001.png", "notes.txt"]);
    assert_eq!(names_in(folder.path()), ["frames"]);
}

#[test]
fn a_slash_or_an_empty_folder_makes_a_folder_of_any_name() {
    let folder = tempfile::tempdir().unwrap();
    let existing = folder.path().join("new.frames");
    fs::create_dir(&existing).unwrap();
    for path in [existing, folder.path().join("other.frames/")] {
        write(&moving_gradient(8, 8, 1), &path, &settings()).unwrap();
        assert_eq!(names_in(&path), ["frame_0000.png"]);
    }
    assert_eq!(names_in(folder.path()), ["new.frames", "other.frames"]);
}

#[test]
fn settings_of_damaged_files_are_absent_or_right_but_never_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["clip.mp4", "clip.gif", "clip.apng"] {
        let (_kept, source) = written(&moving_gradient(8, 8, 2), name);
        let good = fs::read(source).unwrap();
        let path = folder.path().join(name);
        let ends = (0..good.len()).step_by(good.len() / 200 + 1);
        for end in ends {
            fs::write(&path, &good[..end]).unwrap();
            let found = read_metadata(&path);
            assert!(found.is_none() || found == Some(settings()), "{name} cut at {end}");
        }
        for at in 0..good.len().min(600) {
            for value in [0, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                fs::write(&path, &bad).unwrap();
                read_metadata(&path);
            }
        }
    }
}

#[test]
fn files_without_settings_have_none() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(read_metadata(&folder.path().join("missing.mp4")), None);
    for name in FILES {
        let path = folder.path().join(name);
        for content in [&b""[..], b"not a video", &[0xff; 4096], &[0; 4096]] {
            fs::write(&path, content).unwrap();
            assert_eq!(read_metadata(&path), None, "{name}");
        }
    }
    assert_eq!(read_metadata(folder.path()), None);
}
