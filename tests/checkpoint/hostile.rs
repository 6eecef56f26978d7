//! Files that are damaged, made up or malicious: an error each, never a panic.

use crate::{Stored, file_of, full_message, temporary, write_reference};
use qvgen::pipeline::checkpoint::{Dtype, Tensors};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

fn entry(dtype: &str, shape: &Value, offsets: &Value) -> Value {
    json!({"dtype": dtype, "shape": shape, "data_offsets": offsets})
}

/// Header, bytes of data, part of the message expected.
fn bad_headers() -> Vec<(String, usize, &'static str)> {
    let one = |entry: Value| json!({ "x": entry }).to_string();
    let simple = |dtype, shape, offsets| one(entry(dtype, &shape, &offsets));
    let f32s = |offsets| entry("F32", &json!([2]), &offsets);
    let two = |a: Value, b: Value| json!({"a": f32s(a), "b": f32s(b)}).to_string();
    let x = f32s(json!([0, 8])).to_string();
    vec![
        (String::new(), 0, "EOF"),
        ("{".into(), 0, "EOF"),
        ("[]".into(), 0, "expected an object"),
        ("7".into(), 0, "expected an object"),
        ("{} {}".into(), 0, "trailing characters"),
        ("{}".into(), 4, "its tensors take 0 bytes, the file has 4"),
        (json!({"x": 1}).to_string(), 0, "tensor \"x\": invalid type"),
        (json!({"x": {"dtype": "F32", "shape": [1]}}).to_string(), 4, "missing field"),
        (format!("{{\"x\":{x},\"x\":{x}}}"), 8, "\"x\" occurs twice"),
        (r#"{"x":{"dtype":"U8","dtype":"U8","shape":[],"data_offsets":[0,1]}}"#.into(), 1, "dup"),
        (r#"{"__metadata__":{},"__metadata__":{}}"#.into(), 0, "occurs twice"),
        (r#"{"__metadata__":{"a":"1","a":"2"}}"#.into(), 0, "\"a\" occurs twice"),
        (r#"{"__metadata__":{"a":1}}"#.into(), 0, "\"a\": invalid type"),
        (r#"{"__metadata__":null}"#.into(), 0, "expected an object"),
        (
            simple("Q4_0", json!([2]), json!([0, 8])),
            8,
            "tensor \"x\" has the unknown type \"Q4_0\"",
        ),
        (simple("F32", json!([-1]), json!([0, 8])), 8, "invalid value"),
        (simple("F32", json!([2.0]), json!([0, 8])), 8, "invalid type"),
        (simple("F32", json!([2]), json!([0])), 8, "invalid length"),
        (simple("F32", json!([2]), json!([0, 4, 8])), 8, "tensor \"x\""),
        (simple("F32", json!([2]), json!([0, 8])), 7, "ends at byte 8 of the data, the file has 7"),
        (simple("F32", json!([2]), json!([0, 8])), 9, "its tensors take 8 bytes, the file has 9"),
        (simple("F32", json!([3]), json!([0, 8])), 8, "takes 12 bytes, but 8 are stored"),
        (simple("F64", json!([2]), json!([0, 8])), 8, "takes 16 bytes, but 8 are stored"),
        (simple("F32", json!([2]), json!([8, 0])), 8, "ends at byte 0, before its start 8"),
        (simple("F32", json!([2]), json!([8, 16])), 16, "tensor \"x\" leaves a gap"),
        (simple("F32", json!([u64::MAX]), json!([0, 8])), 8, "overflows"),
        (simple("F32", json!([1_u64 << 40, 1_u64 << 40]), json!([0, 8])), 8, "overflows"),
        (simple("U8", json!([u64::MAX]), json!([0, u64::MAX])), 8, "overflows"),
        (simple("U8", json!([1_u64 << 60]), json!([0, 1_u64 << 60])), 8, "ends at byte 1152921"),
        (simple("F4", json!([3]), json!([0, 2])), 2, "whole byte"),
        (simple("U8", json!(vec![1; 17]), json!([0, 1])), 1, "has 17 dimensions"),
        (two(json!([0, 8]), json!([4, 12])), 12, "tensor \"b\" overlaps another"),
        (two(json!([0, 8]), json!([0, 8])), 8, "tensor \"b\" overlaps another"),
        (two(json!([8, 16]), json!([0, 8])), 15, "tensor \"a\" ends at byte 16"),
        (two(json!([0, 8]), json!([12, 20])), 20, "tensor \"b\" leaves a gap"),
    ]
}

/// Whole files that have no usable header.
fn bad_files() -> Vec<(Vec<u8>, &'static str)> {
    let announcing = |len: u64| [&len.to_le_bytes(), &b"{}"[..]].concat();
    let mut latin1 = file_of("{\"?\":1}", &[]);
    latin1[10] = 0xE9;
    vec![
        (vec![], "it has only 0 bytes"),
        (vec![0; 7], "it has only 7 bytes"),
        (vec![0; 8], "EOF"),
        (announcing(3), "it has 10 bytes but announces a header of 3"),
        (announcing(u64::MAX), "announces a header of"),
        (announcing(1 << 63), "announces a header of"),
        (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "git lfs pull"),
        (b"<!DOCTYPE html><html>not found</html>".to_vec(), "announces a header of"),
        (b"PK\x03\x04\x00\x00\x08\x08 pickled weights".to_vec(), "a pickled PyTorch file"),
        (latin1, "invalid utf-8"),
        (file_of(&format!("{}{}", "[".repeat(500), "]".repeat(500)), &[]), "expected an object"),
        (file_of(&format!("{{\"x\":{}", "[".repeat(100_000)), &[]), "tensor \"x\""),
    ]
}

#[test]
fn every_hostile_file_is_an_error_that_names_file_and_problem() {
    let folder = temporary();
    let path = folder.path().join("bad.safetensors");
    let from_header =
        |(header, data, expected): (String, usize, _)| (file_of(&header, &vec![0; data]), expected);
    for (bytes, expected) in bad_headers().into_iter().map(from_header).chain(bad_files()) {
        fs::write(&path, &bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        let err = Tensors::open(&path).map(drop).expect_err(&text);
        let message = full_message(&err);
        assert!(message.contains(expected), "{message}\nexpected {expected:?}\nfor {text}");
        assert!(message.contains("bad.safetensors"), "{message}");
        assert!(message.len() < 700, "{} bytes of message", message.len());
    }
}

#[test]
fn a_header_above_the_limit_is_refused_before_it_is_read() {
    let folder = temporary();
    let path = folder.path().join("big.safetensors");
    fs::write(&path, 100_000_001_u64.to_le_bytes()).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(200_000_000).unwrap();
    let message = Tensors::open(&path).unwrap_err().to_string();
    assert!(message.starts_with("more than 100000000 bytes"), "{message}");
}

#[test]
fn a_file_that_shrinks_after_opening_is_an_error() {
    let folder = temporary();
    let path = folder.path().join("shrinks.safetensors");
    write_reference(&path, &[Stored::new("x", Dtype::F32, &[4], vec![0; 16])]);
    let tensors = Tensors::open(&path).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    assert!(tensors.floats("x").is_err() && tensors.raw("x").is_err());
}

#[test]
fn names_with_control_characters_are_escaped_in_messages() {
    let folder = temporary();
    let path = folder.path().join("escape.safetensors");
    let header = json!({"a\u{1b}[2Jb\n": entry("F32", &json!([2]), &json!([0, 4]))}).to_string();
    fs::write(&path, file_of(&header, &[0; 4])).unwrap();
    let message = Tensors::open(&path).unwrap_err().to_string();
    assert!(message.contains(r#""a\u{1b}[2Jb\n""#) && !message.contains('\u{1b}'), "{message}");
}

#[test]
fn anything_but_a_file_is_refused() {
    let folder = temporary();
    let message = Tensors::open(folder.path()).unwrap_err().to_string();
    assert!(message.starts_with("expected a file"), "{message}");
    let message =
        full_message(&Tensors::open(&folder.path().join("none.safetensors")).unwrap_err());
    assert!(message.contains("cannot open") && message.contains("none.safetensors"), "{message}");
    #[cfg(unix)]
    assert!(Tensors::open(Path::new("/dev/zero")).is_err());
}

#[test]
fn every_hostile_index_is_an_error_that_names_file_and_problem() {
    let folder = temporary();
    let path = folder.path().join("bad.safetensors.index.json");
    write_reference(
        &folder.path().join("s.safetensors"),
        &[Stored::new("x", Dtype::F32, &[1], vec![0; 4])],
    );
    fs::write(folder.path().join("junk.safetensors"), "junk").unwrap();
    let map = |name: &str, shard: &str| json!({"weight_map": {name: shard}}).to_string();
    let many: Value = (0..501).map(|i| (format!("{i}"), json!(format!("{i}.st")))).collect();
    for (text, expected) in [
        (String::new(), "line 1, column 0"),
        ("{\n\"weight_map\":\n{\"x\" 1}}".into(), "line 3, column 6"),
        ("{}".into(), "missing field `weight_map`"),
        (json!({"weight_map": []}).to_string(), "expected an object"),
        (json!({"weight_map": {"x": 1}}).to_string(), "\"x\": invalid type"),
        (json!({"weight_map": {}}).to_string(), "lists no tensors"),
        (json!({"weight_map": many}).to_string(), "lists 501 shards"),
        (r#"{"weight_map":{"x":"s.safetensors","x":"s.safetensors"}}"#.into(), "occurs twice"),
        (map("x", "../s.safetensors"), "no plain file name"),
        (map("x", "/etc/passwd"), "no plain file name"),
        (map("x", "sub/s.safetensors"), "no plain file name"),
        (map("x", "..\\s.safetensors"), "no plain file name"),
        (map("x", "C:s.safetensors"), "no plain file name"),
        (map("x", ""), "no plain file name"),
        (map("x", "s2.safetensors"), "the shard \"s2.safetensors\" is missing"),
        (map("y", "s.safetensors"), "\"s.safetensors\" does not hold tensor \"y\""),
    ] {
        fs::write(&path, &text).unwrap();
        let message = full_message(&Tensors::open(&path).map(drop).expect_err(&text));
        assert!(message.contains(expected), "{message}\nexpected {expected:?}");
        assert!(message.contains("bad.safetensors.index.json"), "{message}");
    }
    fs::write(&path, map("x", "junk.safetensors")).unwrap();
    let message = Tensors::open(&path).unwrap_err().to_string();
    assert!(message.ends_with("junk.safetensors"), "{message}");
    fs::write(&path, " ".repeat((16 << 20) + 1)).unwrap();
    assert!(Tensors::open(&path).unwrap_err().to_string().starts_with("more than"));
    fs::write(&path, map("x", "s.safetensors")).unwrap();
    assert!(Tensors::open(&path).is_ok());
}

/// A small generator; the sequence is the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % limit
    }
}

/// Flips, deletes and inserts bytes, mostly near the start; sometimes cuts the end off.
pub(crate) fn mutate(original: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for _ in 0..=random.below(3) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len());
        match random.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, random.below(256) as u8),
            3 => bytes[at] = b"0123456789[]{},:\"-"[random.below(18)],
            _ => bytes[at] ^= 1 << random.below(8),
        }
    }
    bytes
}

/// Everything that can be asked of a file.
pub(crate) fn exercise(path: &Path) -> bool {
    let Ok(tensors) = Tensors::open(path) else { return false };
    let names: Vec<&str> = tensors.names().collect();
    for name in names {
        let raw = tensors.raw(name).expect("what was opened can be read");
        assert_eq!(raw.bytes.len() as u64, tensors.info(name).expect("listed").byte_len());
        drop(tensors.floats(name));
        drop(tensors.float_rows(name, &[0, 1, usize::MAX]));
        drop(tensors.words(name));
    }
    true
}

#[test]
fn thousands_of_damaged_files_never_panic() {
    let folder = temporary();
    let path = folder.path().join("fuzz.safetensors");
    write_reference(
        &path,
        &[
            Stored::new("a.weight", Dtype::F32, &[2, 3], vec![0x3F; 24]),
            Stored::new("a.bias", Dtype::BF16, &[3], vec![0x40; 6]),
            Stored::new("codes", Dtype::U32, &[2], vec![7; 8]),
        ],
    );
    let original = fs::read(&path).unwrap();
    let mut random = Random(1);
    let opened = (0..4000)
        .filter(|_| {
            fs::write(&path, mutate(&original, &mut random)).unwrap();
            exercise(&path)
        })
        .count();
    // Both outcomes must occur, or the test exercises nothing.
    assert!((100..3500).contains(&opened), "{opened} of 4000 could still be opened");
}

#[test]
fn hundreds_of_damaged_indexes_never_panic() {
    let folder = temporary();
    let path = folder.path().join("fuzz.safetensors.index.json");
    write_reference(
        &folder.path().join("s.safetensors"),
        &[Stored::new("x", Dtype::F32, &[1], vec![0; 4])],
    );
    let original = json!({"weight_map": {"x": "s.safetensors"}}).to_string().into_bytes();
    let mut random = Random(2);
    for _ in 0..1000 {
        fs::write(&path, mutate(&original, &mut random)).unwrap();
        exercise(&path);
    }
}
