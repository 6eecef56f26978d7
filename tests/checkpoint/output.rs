//! Outputs appear whole or not at all.

use crate::{full_message, read_reference, temporary};
use qvgen::pipeline::atomic::{AtomicFile, AtomicFolder, Existing, OutputError};
use qvgen::pipeline::checkpoint::{Dtype, SafetensorsWriter, TensorSpec, Tensors};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("Unicode"))
        .collect();
    names.sort();
    names
}

fn spec(name: &str, dtype: Dtype, shape: &[usize]) -> TensorSpec {
    TensorSpec { name: name.to_owned(), dtype, shape: shape.to_vec() }
}

/// Odd sizes first, so that a naive layout would leave the others unaligned.
fn specs() -> [TensorSpec; 4] {
    [
        spec("bytes", Dtype::U8, &[3]),
        spec("codes", Dtype::U32, &[2, 2]),
        spec("empty", Dtype::F32, &[0, 5]),
        spec("scale", Dtype::F16, &[1]),
    ]
}

fn bytes_of(tensor: &TensorSpec) -> Vec<u8> {
    (0..tensor.byte_len()).map(|i| tensor.name.len() as u8 * 16 + i as u8).collect()
}

fn write_all(folder: &Path, max_shard_bytes: u64) -> std::path::PathBuf {
    let metadata = BTreeMap::from([("scheme".to_owned(), "W4A4 \"quoted\"".to_owned())]);
    let mut writer = SafetensorsWriter::create(folder, "m", &specs(), &metadata, max_shard_bytes)
        .expect("a temporary folder takes it");
    for tensor in specs() {
        writer.write(&tensor.name, &bytes_of(&tensor)).expect("a temporary folder takes it");
    }
    writer.finish().expect("a temporary folder takes it")
}

#[test]
fn what_is_written_is_read_back_by_both_readers() {
    let folder = temporary();
    for (max_shard_bytes, files) in [
        (u64::MAX, vec!["m.safetensors"]),
        (
            16,
            vec![
                "m-00001-of-00003.safetensors",
                "m-00002-of-00003.safetensors",
                "m-00003-of-00003.safetensors",
                "m.safetensors.index.json",
            ],
        ),
    ] {
        let out = folder.path().join(max_shard_bytes.to_string());
        fs::create_dir(&out).unwrap();
        let path = write_all(&out, max_shard_bytes);
        assert_eq!(names(&out), files);
        assert_eq!(path, out.join(files[files.len() - 1]));
        let tensors = Tensors::open(&path).unwrap();
        assert_eq!(tensors.names().len(), 4);
        assert_eq!(tensors.metadata()["scheme"], "W4A4 \"quoted\"");
        for tensor in specs() {
            let raw = tensors.raw(&tensor.name).unwrap();
            assert_eq!((raw.dtype, &raw.shape), (tensor.dtype.into(), &tensor.shape));
            assert_eq!(raw.bytes, bytes_of(&tensor), "{}", tensor.name);
        }
        let reference: usize = files
            .iter()
            .filter(|file| file.ends_with(".safetensors"))
            .map(|file| read_reference(&out.join(file)).len())
            .sum();
        assert_eq!(reference, 4);
    }
}

#[test]
fn every_tensor_starts_at_a_multiple_of_its_element() {
    let folder = temporary();
    let bytes = fs::read(write_all(folder.path(), u64::MAX)).unwrap();
    let (header_len, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert!(header_len.is_multiple_of(8));
    for tensor in specs() {
        let start = header.info(&tensor.name).unwrap().data_offsets.0;
        assert!((start * 8).is_multiple_of(tensor.dtype.bitsize()), "{} at {start}", tensor.name);
    }
}

#[test]
fn a_writer_without_tensors_writes_a_readable_file() {
    let folder = temporary();
    let writer = SafetensorsWriter::create(folder.path(), "m", &[], &BTreeMap::new(), 1).unwrap();
    assert_eq!(Tensors::open(&writer.finish().unwrap()).unwrap().names().len(), 0);
}

#[test]
fn an_abandoned_writer_leaves_nothing() {
    let folder = temporary();
    let mut writer =
        SafetensorsWriter::create(folder.path(), "m", &specs(), &BTreeMap::new(), 16).unwrap();
    writer.write("bytes", &[1, 2, 3]).unwrap();
    assert_eq!(names(folder.path()).len(), 3);
    drop(writer);
    assert!(names(folder.path()).is_empty());
}

fn writer_in(folder: &Path) -> SafetensorsWriter {
    SafetensorsWriter::create(folder, "m", &specs(), &BTreeMap::new(), 16)
        .expect("a temporary folder takes it")
}

#[test]
#[should_panic(expected = "in the order announced")]
fn a_writer_refuses_another_order() {
    let _ = writer_in(temporary().path()).write("codes", &[0; 16]);
}

#[test]
#[should_panic(expected = "another size than announced")]
fn a_writer_refuses_another_length() {
    let _ = writer_in(temporary().path()).write("bytes", &[0; 4]);
}

#[test]
#[should_panic(expected = "has not been written")]
fn a_writer_refuses_to_finish_early() {
    let _ = writer_in(temporary().path()).finish();
}

#[test]
#[should_panic(expected = "announced twice")]
fn a_writer_refuses_a_repeated_name() {
    let twice = [spec("a", Dtype::U8, &[1]), spec("a", Dtype::U8, &[1])];
    let _ = SafetensorsWriter::create(temporary().path(), "m", &twice, &BTreeMap::new(), 16);
}

#[test]
fn a_file_appears_on_commit_and_replaces_the_old_one() {
    let folder = temporary();
    let target = folder.path().join("video.mp4");
    fs::write(&target, "old").unwrap();
    let mut file = AtomicFile::create(&target).unwrap();
    file.write_all(b"?ew").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(b"n").unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "old");
    file.commit().unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "new");
    let mut abandoned = AtomicFile::create(&target).unwrap();
    abandoned.write_all(b"half").unwrap();
    drop(abandoned);
    assert_eq!(fs::read_to_string(&target).unwrap(), "new");
    assert_eq!(names(folder.path()), ["video.mp4"]);
}

#[cfg(unix)]
#[test]
fn an_output_is_as_readable_as_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = temporary();
    fs::write(folder.path().join("ordinary"), "").unwrap();
    AtomicFile::create(&folder.path().join("atomic")).unwrap().commit().unwrap();
    let mode = |name| fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
    assert_eq!(mode("atomic"), mode("ordinary"));
}

#[test]
fn a_target_that_cannot_be_written_is_named() {
    let folder = temporary();
    let missing = folder.path().join("no/such/video.mp4");
    let err = AtomicFile::create(&missing).unwrap_err();
    assert!(matches!(&err, OutputError::MissingParent { path } if path.ends_with("no/such")));
    let err = AtomicFile::create(folder.path()).unwrap_err();
    assert!(matches!(err, OutputError::WrongKind { wanted: "file", .. }));
    for path in ["", "/", "..", "a/.."] {
        let err = AtomicFile::create(Path::new(path)).unwrap_err();
        assert!(matches!(err, OutputError::NoName { .. }), "{path}: {err}");
    }
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let err = AtomicFile::create(&file.join("x")).unwrap_err();
    assert!(full_message(&err).contains("file"), "{err}");
    let err = AtomicFolder::create(&file, Existing::Refuse).unwrap_err();
    assert!(matches!(err, OutputError::WrongKind { wanted: "folder", .. }));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_called_so() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap().write_all(b"x");
    let err = OutputError::io("write", Path::new("video.mp4"))(full.unwrap_err());
    assert_eq!(
        err.to_string(),
        "the disk is full, make room and try again; nothing was kept of video.mp4"
    );
}

#[test]
fn a_folder_appears_on_commit_only() {
    let root = temporary();
    let target = root.path().join("model");
    for empty_before in [false, true] {
        if empty_before {
            fs::remove_dir_all(&target).unwrap();
            fs::create_dir(&target).unwrap();
        }
        let folder = AtomicFolder::create(&target, Existing::Refuse).unwrap();
        fs::write(folder.path().join("a"), "1").unwrap();
        assert!(!target.join("a").exists());
        folder.commit().unwrap();
        assert_eq!(names(&target), ["a"]);
        assert_eq!(names(root.path()), ["model"]);
    }
    let abandoned = AtomicFolder::create(&root.path().join("other"), Existing::Refuse).unwrap();
    fs::write(abandoned.path().join("a"), "1").unwrap();
    drop(abandoned);
    assert_eq!(names(root.path()), ["model"]);
}

#[test]
fn a_folder_with_contents_is_replaced_only_if_it_is_an_earlier_output() {
    let root = temporary();
    let target = root.path().join("model");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("photo"), "").unwrap();
    let replace = Existing::ReplaceIfItHas("model_index.json");
    let err = AtomicFolder::create(&target, Existing::Refuse).unwrap_err();
    assert!(matches!(err, OutputError::NotEmpty { .. }));
    let err = AtomicFolder::create(&target, replace).unwrap_err();
    assert!(matches!(&err, OutputError::NotOurs { .. }));
    fs::write(target.join("model_index.json"), "old").unwrap();
    let folder = AtomicFolder::create(&target, replace).unwrap();
    fs::write(folder.path().join("model_index.json"), "new").unwrap();
    assert_eq!(names(&target), ["model_index.json", "photo"]);
    folder.commit().unwrap();
    assert_eq!(names(&target), ["model_index.json"]);
    assert_eq!(fs::read_to_string(target.join("model_index.json")).unwrap(), "new");
    assert_eq!(names(root.path()), ["model"]);
}

#[test]
fn a_folder_filled_by_someone_else_meanwhile_is_not_replaced() {
    let root = temporary();
    let target = root.path().join("model");
    let folder = AtomicFolder::create(&target, Existing::Refuse).unwrap();
    fs::create_dir(&target).unwrap();
    fs::write(target.join("theirs"), "").unwrap();
    assert!(matches!(folder.commit().unwrap_err(), OutputError::NotEmpty { .. }));
    assert_eq!(names(&target), ["theirs"]);
    assert_eq!(names(root.path()), ["model"]);
}
