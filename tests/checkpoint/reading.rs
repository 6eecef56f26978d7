//! Values and shapes arrive as they were stored, whatever the type and however many files.

use crate::common::assert_close;
use crate::{Stored, file_of, read_reference, temporary, wan, write_reference};
use burn::tensor::{Device, Tensor, TensorData};
use half::{bf16, f16};
use qvgen::nn::{Linear, WeightError, WeightSource};
use qvgen::pipeline::checkpoint::{Checkpoint, Dtype, Tensors};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

fn transformer() -> PathBuf {
    wan().join("transformer/diffusion_pytorch_model.safetensors")
}

fn one_tensor(path: &Path, tensor: Stored) -> Checkpoint {
    write_reference(path, &[tensor]);
    Checkpoint::open(path).expect("a valid file")
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn every_tensor_of_the_fixture_is_read_as_the_reference_reads_it() {
    for file in [
        transformer(),
        wan().join("vae/diffusion_pytorch_model.safetensors"),
        wan().join("text_encoder/model.safetensors"),
    ] {
        let expected = read_reference(&file);
        let checkpoint = Checkpoint::open(&file).unwrap();
        assert_eq!(checkpoint.tensors().names().len(), expected.len());
        assert_eq!(checkpoint.tensors().metadata()["format"], "pt");
        for tensor in expected {
            assert!(checkpoint.has(&tensor.name));
            let values = checkpoint.values(&tensor.name, &tensor.shape).unwrap();
            assert_eq!(values, tensor.f32(), "{}", tensor.name);
            let raw = checkpoint.tensors().raw(&tensor.name).unwrap();
            assert_eq!(
                (raw.dtype, raw.shape, raw.bytes),
                (Dtype::F32.into(), tensor.shape, tensor.bytes)
            );
        }
    }
}

#[test]
fn shards_are_read_like_one_file() {
    let folder = temporary();
    let mut tensors = read_reference(&transformer());
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let mut weight_map = BTreeMap::new();
    for (number, shard) in tensors.chunks(25).enumerate() {
        let name = format!("m-{:05}-of-00003.safetensors", number + 1);
        write_reference(&folder.path().join(&name), shard);
        weight_map.extend(shard.iter().map(|tensor| (tensor.name.clone(), name.clone())));
    }
    let index = folder.path().join("m.safetensors.index.json");
    let text = json!({"metadata": {"total_size": 1}, "weight_map": weight_map}).to_string();
    fs::write(&index, text).unwrap();

    let sharded = Tensors::open(&index).unwrap();
    assert_eq!(sharded.path(), index);
    assert_eq!(sharded.names().len(), tensors.len());
    for tensor in &tensors {
        assert_eq!(sharded.floats(&tensor.name).unwrap(), tensor.f32());
        assert_eq!(sharded.path_of(&tensor.name), folder.path().join(&weight_map[&tensor.name]));
    }
}

#[test]
fn half_precision_copies_give_the_rounded_values() {
    let folder = temporary();
    let tensors = read_reference(&transformer());
    let convert = |dtype, f: fn(f32) -> Vec<u8>| -> Vec<Stored> {
        let bytes = |tensor: &Stored| tensor.f32().into_iter().flat_map(f).collect();
        tensors.iter().map(|t| Stored::new(&t.name, dtype, &t.shape, bytes(t))).collect()
    };
    for (dtype, bytes, rounded) in [
        (
            Dtype::F16,
            (|v| f16::from_f32(v).to_le_bytes().to_vec()) as fn(f32) -> Vec<u8>,
            (|v| f16::from_f32(v).to_f32()) as fn(f32) -> f32,
        ),
        (Dtype::BF16, |v| bf16::from_f32(v).to_le_bytes().to_vec(), |v| bf16::from_f32(v).to_f32()),
        (Dtype::F64, |v| f64::from(v).to_le_bytes().to_vec(), |v| v),
    ] {
        let path = folder.path().join(format!("{dtype}.safetensors"));
        write_reference(&path, &convert(dtype, bytes));
        let checkpoint = Checkpoint::open(&path).unwrap();
        for tensor in &tensors {
            let expected: Vec<f32> = tensor.f32().into_iter().map(rounded).collect();
            assert_eq!(checkpoint.values(&tensor.name, &tensor.shape).unwrap(), expected);
        }
    }
}

#[test]
fn a_tensor_longer_than_a_chunk_keeps_its_order_and_its_bad_element() {
    let folder = temporary();
    let path = folder.path().join("long.safetensors");
    let mut values: Vec<f32> = (0..700_001).map(|i| i as f32).collect();
    let tensor = |values: &[f32]| Stored::new("x", Dtype::F32, &[700_001], f32_bytes(values));
    assert_eq!(one_tensor(&path, tensor(&values)).values("x", &[700_001]).unwrap(), values);
    values[600_123] = f32::NEG_INFINITY;
    values[650_000] = f32::NAN;
    let err = one_tensor(&path, tensor(&values)).values("x", &[700_001]).unwrap_err();
    assert!(
        matches!(&err, WeightError::NotFinite { value, index: 600_123, path: at, .. }
            if *value == f32::NEG_INFINITY && *at == path),
        "{err}"
    );
}

#[test]
fn doubles_beyond_f32_are_not_finite() {
    let folder = temporary();
    let bytes = [1.0, 1e300_f64].into_iter().flat_map(f64::to_le_bytes).collect();
    let checkpoint =
        one_tensor(&folder.path().join("d.safetensors"), Stored::new("x", Dtype::F64, &[2], bytes));
    let err = checkpoint.values("x", &[2]).unwrap_err();
    assert!(matches!(err, WeightError::NotFinite { index: 1, .. }), "{err}");
}

#[test]
fn rows_come_from_anywhere_in_a_file_larger_than_memory_need_be() {
    let folder = temporary();
    let path = folder.path().join("huge.safetensors");
    let (rows, columns) = (1 << 20, 2048); // 8 GiB of f32, a hole on disk
    let bytes = rows as u64 * columns as u64 * 4;
    let header = json!({
        "table": {"dtype": "F32", "shape": [rows, columns], "data_offsets": [0, bytes]},
        "tail": {"dtype": "BF16", "shape": [2], "data_offsets": [bytes, bytes + 4]}
    });
    let start = file_of(&header.to_string(), &[]);
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&start).unwrap();
    let row = 1_000_000_u64;
    file.seek(SeekFrom::Start(start.len() as u64 + row * columns as u64 * 4)).unwrap();
    file.write_all(&f32_bytes(&vec![2.5; columns])).unwrap();
    file.seek(SeekFrom::Start(start.len() as u64 + bytes)).unwrap();
    file.write_all(&[0x80, 0x3F, 0x00, 0xC0]).unwrap();
    drop(file);

    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.values("tail", &[2]).unwrap(), [1.0, -2.0]);
    let got = checkpoint.rows("table", [rows, columns], &[1_000_000, 3, 1_000_000]).unwrap();
    let expected = [vec![2.5; columns], vec![0.0; columns], vec![2.5; columns]].concat();
    assert_eq!(got, expected);
    let err = checkpoint.rows("table", [rows, columns], &[rows]).unwrap_err();
    assert!(err.to_string().contains("row 1048576 was asked for"), "{err}");
}

#[test]
fn words_keep_their_bits_and_other_types_are_refused_by_name() {
    let folder = temporary();
    let path = folder.path().join("w.safetensors");
    let words = [0_u32, 1, 0xDEAD_BEEF];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    write_reference(
        &path,
        &[
            Stored::new("u", Dtype::U32, &[3], bytes.clone()),
            Stored::new("i", Dtype::I32, &[3], bytes),
            Stored::new("b", Dtype::U8, &[3], vec![1, 2, 3]),
        ],
    );
    let tensors = Tensors::open(&path).unwrap();
    assert_eq!(tensors.words("u").unwrap(), words);
    assert_eq!(tensors.words("i").unwrap(), words);
    assert_eq!(tensors.raw("b").unwrap().bytes, [1, 2, 3]);
    let err = tensors.words("b").unwrap_err().to_string();
    assert!(err.starts_with("tensor \"b\" is stored as U8, expected U32 or I32 in "), "{err}");
    let err = Checkpoint::from(tensors).values("u", &[3]).unwrap_err().to_string();
    assert!(
        err.contains("is stored as U32, expected F32, F16, BF16, F64 or blocks of GGUF"),
        "{err}"
    );
    assert!(err.ends_with("w.safetensors"), "{err}");
}

#[test]
fn a_missing_tensor_and_a_wrong_shape_are_named() {
    let checkpoint = Checkpoint::open(&transformer()).unwrap();
    let err = checkpoint.values("patch_embedding.wait", &[1]).unwrap_err();
    assert!(
        matches!(&err, WeightError::Missing { tensor, .. } if tensor == "patch_embedding.wait")
    );
    let err = checkpoint.values("patch_embedding.bias", &[1, 32]).unwrap_err();
    assert!(
        matches!(&err, WeightError::Shape { actual, expected, .. }
            if *actual == [32] && *expected == [1, 32]),
        "{err}"
    );
}

#[test]
fn an_alias_is_used_only_where_the_name_itself_is_absent() {
    let folder = temporary();
    let path = folder.path().join("a.safetensors");
    let checkpoint = one_tensor(&path, Stored::new("a", Dtype::F32, &[1], f32_bytes(&[1.0])))
        .with_alias("b", "nowhere")
        .with_alias("b", "a")
        .with_alias("a", "b");
    assert!(checkpoint.has("a") && checkpoint.has("b") && !checkpoint.has("nowhere"));
    assert_eq!(checkpoint.values("b", &[1]).unwrap(), [1.0]);
    let err = checkpoint.values("b", &[2]).unwrap_err().to_string();
    assert!(err.starts_with("tensor \"a\" has shape [1]"), "{err}");
}

#[test]
fn a_linear_layer_is_the_same_in_one_part_and_in_many() {
    let device = Device::flex();
    let name = "blocks.0.ffn.net.0.proj"; // [72, 32]
    let x: Vec<f32> = (0..3 * 32).map(|i| (i as f32 * 0.37).sin()).collect();
    let forward = |linear: Linear| -> Vec<f32> {
        let x = Tensor::<2>::from_data(TensorData::new(x.clone(), [3, 32]), &device);
        linear.forward(x).into_data().try_to_vec().unwrap()
    };
    let whole = Checkpoint::open(&transformer()).unwrap();
    let split = Checkpoint::open(&transformer()).unwrap().with_max_elements(5 * 32);
    let weight = whole.values(&format!("{name}.weight"), &[72, 32]).unwrap();
    let bias = whole.values(&format!("{name}.bias"), &[72]).unwrap();
    let expected: Vec<f32> = x
        .chunks(32)
        .flat_map(|x| {
            let dot = |w: &[f32]| x.iter().zip(w).map(|(x, w)| x * w).sum::<f32>();
            weight.chunks(32).zip(&bias).map(move |(w, b)| dot(w) + b).collect::<Vec<f32>>()
        })
        .collect();
    for checkpoint in [whole, split] {
        let y = forward(checkpoint.linear(name, 72, 32, true, &device).unwrap());
        assert_close(name, &y, &expected, 1e-5, 1e-5);
        assert!(checkpoint.linear(name, 32, 72, true, &device).is_err());
    }
}
