//! GGUF files: every type of block against independent values, and files that do harm.
//!
//! `fixtures/gguf/blocks.gguf` and `blocks.safetensors` were written by a script with the Python
//! package `gguf` 0.19 of ggml's authors and numpy, seeded: three rows of 256 normal values with
//! outliers, quantized by `gguf.quants.quantize` for `Q4_0` to `Q8_0`; random bytes with scales
//! between −0.02 and 0.02 for the K types, which that package only decodes; small F32, F16 and BF16
//! tensors; and one whose shape stands in the metadata, as ComfyUI-GGUF writes it. The second file
//! holds what `gguf.quants.dequantize` makes of them, for `Q8_K` scale times code.

use crate::common::fixture;
use crate::gguf_file::{Gguf, LIST, TEXT, U32, string};
use crate::hostile::{Random, exercise, mutate};
use crate::{full_message, read_reference, temporary};
use qvgen::pipeline::checkpoint::{BlockType, StoredType, Tensors};
use std::fs;

#[test]
fn every_type_of_block_reads_as_the_reference_reads_it() {
    let folder = fixture("gguf");
    let tensors = Tensors::open(&folder.join("blocks.gguf")).unwrap();
    let expected = read_reference(&folder.join("blocks.safetensors"));
    assert_eq!(tensors.names().len(), expected.len());
    for tensor in expected {
        let info = tensors.info(&tensor.name).expect(&tensor.name);
        assert_eq!(info.shape(), tensor.shape, "{}", tensor.name);
        assert_eq!(tensors.floats(&tensor.name).unwrap(), tensor.f32(), "{}", tensor.name);
        if tensor.name != "reshaped" {
            assert_eq!(info.dtype().to_string(), tensor.name);
        }
    }
    for blocks in BlockType::ALL {
        let info = tensors.info(blocks.name()).expect("one of each");
        assert_eq!(info.dtype(), StoredType::Blocks(blocks));
        assert_eq!(info.elements(), 768);
    }
    assert_eq!(tensors.metadata()["general.architecture"], "t5encoder");
    assert_eq!(tensors.metadata()["t5encoder.block_count"], "1");
    assert!(!tensors.metadata().contains_key("tokenizer.ggml.tokens"));
}

#[test]
fn rows_of_blocks_are_read_without_the_others() {
    let tensors = Tensors::open(&fixture("gguf").join("blocks.gguf")).unwrap();
    for blocks in BlockType::ALL {
        let all = tensors.floats(blocks.name()).unwrap();
        let rows = tensors.float_rows(blocks.name(), &[2, 0, 2]).unwrap();
        let expected = [&all[512..], &all[..256], &all[512..]].concat();
        assert_eq!(rows, expected, "{}", blocks.name());
        assert!(tensors.float_rows(blocks.name(), &[3]).is_err());
    }
}

/// Changes of a good file, and part of the message expected.
fn bad_files() -> Vec<(Gguf, &'static str)> {
    let good = || Gguf::new("t5").with("x", &[2, 32], 2, &[0; 36]);
    let with = |change: fn(&mut Gguf)| {
        let mut file = good();
        change(&mut file);
        file
    };
    let entry = |key: &str, number, value: Vec<u8>| {
        let mut file = good();
        file.metadata.push((key.into(), number, value));
        file
    };
    let list = |kind: u32, count: u64, rest: &[u8]| {
        [&kind.to_le_bytes()[..], &count.to_le_bytes(), rest].concat()
    };
    vec![
        (with(|file| file.version = 1), "GGUF version 1 is not supported"),
        (with(|file| file.version = 4), "GGUF version 4 is not supported"),
        (with(|file| file.version = 3_u32.swap_bytes()), "big-endian"),
        (with(|file| file.tensors[0].2 = 23), "tensor \"x\" of type 23 of ggml is not supported"),
        (with(|file| file.tensors[0].2 = 4), "of type 4 of ggml"),
        (with(|file| file.tensors[0].1 = vec![33, 2]), "no whole number of blocks"),
        (with(|file| file.tensors[0].1 = vec![1 << 40, 1 << 40]), "overflows"),
        (with(|file| file.tensors[0].1 = vec![u64::MAX, 32]), "tensor \"x\""),
        (with(|file| file.tensors[0].1 = vec![64, 2]), "ends at byte 72 of the data"),
        (with(|file| file.tensors[0].1 = vec![1; 17]), "has 17 dimensions"),
        (with(|file| file.tensors[0].3 = 4), "starts at byte 4, no multiple of 32"),
        (with(|file| file.tensors[0].3 = 1 << 63), "of the data, the file has"),
        (with(|file| file.tensors[0].3 = u64::MAX - 31), "of the data, the file has"),
        (with(|file| file.tensors.push(file.tensors[0].clone())), "\"x\" occurs twice"),
        (
            with(|file| {
                file.tensors.push(("y".into(), vec![32], 2, 32));
                file.tensors[0].1 = vec![32, 3];
                file.data.resize(64, 0);
            }),
            "tensor \"y\" overlaps another",
        ),
        (with(|file| file.metadata.push(file.metadata[0].clone())), "architecture\" twice"),
        (entry("a", 13, vec![]), "\"a\" is of the unknown type 13"),
        (entry("a", LIST, list(9, 1, &[])), "\"a\" is a list of the type 9"),
        (entry("a", LIST, list(99, 1, &[])), "\"a\" is a list of the type 99"),
        (entry("a", LIST, list(10, u64::MAX, &[])), "header takes more than"),
        (entry("a", LIST, list(TEXT, u64::MAX, &[])), "header"),
        (entry("a", LIST, list(TEXT, 2, &u64::MAX.to_le_bytes())), "header takes more than"),
        (entry("a", TEXT, u64::MAX.to_le_bytes().to_vec()), "has 18446744073709551615 bytes"),
        (entry("a", TEXT, (1_u64 << 26).to_le_bytes().to_vec()), "ends within its header"),
        (entry("a", TEXT, [&1_u64.to_le_bytes()[..], &[0xE9]].concat()), "utf-8"),
        (entry(&"k".repeat(70_000), TEXT, string("a")), "has 70000 bytes"),
        (entry("general.alignment", U32, 0_u32.to_le_bytes().into()), "general.alignment is 0"),
        (entry("general.alignment", U32, 24_u32.to_le_bytes().into()), "general.alignment is 24"),
        (entry("general.alignment", TEXT, string("x")), "general.alignment is x"),
        (entry("split.count", U32, 3_u32.to_le_bytes().into()), "one of 3 parts of a GGUF file"),
        (
            entry("comfy.gguf.orig_shape.x", LIST, list(5, 1, &65_u32.to_le_bytes())),
            "has shape [2, 32], but said to be [65]",
        ),
    ]
}

#[test]
fn every_hostile_file_is_an_error_that_names_file_and_problem() {
    let folder = temporary();
    let path = folder.path().join("bad.gguf");
    let good = Gguf::new("t5").with("x", &[2, 32], 2, &[0; 36]).bytes();
    fs::write(&path, &good).unwrap();
    assert_eq!(Tensors::open(&path).unwrap().floats("x").unwrap(), [0.0; 64]);
    let counts = |tensors: u64, entries: u64| {
        let mut bytes = good.clone();
        bytes[8..16].copy_from_slice(&tensors.to_le_bytes());
        bytes[16..24].copy_from_slice(&entries.to_le_bytes());
        bytes
    };
    let raw = [
        (counts(u64::MAX, 1), "it announces 18446744073709551615 tensors"),
        (counts(1, 1 << 60), "entries"),
        (counts(1 << 20, 1), "header"),
        (good[..20].to_vec(), "it ends within its header"),
        (good[..good.len() - 1].to_vec(), "ends at byte 36 of the data, the file has 35"),
        (b"GGUF\x03\0\0\0".to_vec(), "it ends within its header"),
    ];
    let files = bad_files().into_iter().map(|(file, expected)| (file.bytes(), expected));
    for (bytes, expected) in files.chain(raw) {
        fs::write(&path, &bytes).unwrap();
        let message = full_message(&Tensors::open(&path).map(drop).expect_err(expected));
        assert!(message.contains(expected), "{message}\nexpected {expected:?}");
        assert!(message.contains("bad.gguf"), "{message}");
        assert!(message.len() < 700, "{} bytes of message", message.len());
    }
}

#[test]
fn a_header_that_never_ends_is_refused_before_it_is_read() {
    let folder = temporary();
    let path = folder.path().join("big.gguf");
    let mut file = Gguf::new("t5");
    file.metadata.push(("a".into(), TEXT, (1_u64 << 40).to_le_bytes().into()));
    fs::write(&path, file.bytes()).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(1 << 41).unwrap();
    let message = full_message(&Tensors::open(&path).unwrap_err());
    assert!(message.contains("1099511627776 bytes"), "{message}");
}

#[test]
fn a_block_that_holds_no_number_is_named() {
    let folder = temporary();
    let path = folder.path().join("nan.gguf");
    let mut bytes = vec![0; 3 * 18];
    bytes[18..20].copy_from_slice(&half::f16::NAN.to_le_bytes());
    fs::write(&path, Gguf::new("t5").with("x", &[3, 32], 2, &bytes).bytes()).unwrap();
    let tensors = Tensors::open(&path).unwrap();
    let message = tensors.floats("x").unwrap_err().to_string();
    assert!(message.starts_with("tensor \"x\" holds NaN at element 32;"), "{message}");
    assert!(tensors.float_rows("x", &[0, 2]).is_ok());
}

#[test]
fn thousands_of_damaged_files_never_panic() {
    let folder = temporary();
    let path = folder.path().join("fuzz.gguf");
    let original = Gguf::new("t5")
        .with("enc.a.weight", &[2, 32], 2, &[0x11; 36])
        .with("b", &[3], 1, &[0x30; 6])
        .bytes();
    let mut random = Random(3);
    let opened = (0..2000)
        .filter(|_| {
            fs::write(&path, mutate(&original, &mut random)).unwrap();
            exercise(&path)
        })
        .count();
    assert!((100..1950).contains(&opened), "{opened} of 2000 could still be opened");
}
