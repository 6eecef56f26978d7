//! Each LoRA: what it adds, to what, and which files are refused.

use crate::{Stored, full_message, read_reference, temporary, wan, write_reference};
use qvgen::pipeline::checkpoint::{ComponentKind, LoraFile};
use qvgen::pipeline::model::VideoModel;
use qvgen::pipeline::{ModelFiles, PipelineError};
use safetensors::Dtype;
use std::path::{Path, PathBuf};

const LAYER: &str = "blocks.1.attn2.to_k";
const WIDTH: usize = 32;

fn f32s(name: &str, shape: &[usize], values: &[f32]) -> Stored {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Stored::new(name, Dtype::F32, shape, bytes)
}

/// Values between −1 and 1 that differ by position.
fn wave(len: usize, seed: f32) -> Vec<f32> {
    (0..len).map(|i| (seed + 0.7 * i as f32).sin()).collect()
}

/// `lora_A` `[rank, 32]` and `lora_B` `[32, rank]` of a layer.
fn pair(a: &str, b: &str, rank: usize) -> [Stored; 2] {
    [
        f32s(a, &[rank, WIDTH], &wave(rank * WIDTH, 1.0)),
        f32s(b, &[WIDTH, rank], &wave(rank * WIDTH, 2.0)),
    ]
}

fn open(files: &[(&Path, f32)]) -> Result<VideoModel, PipelineError> {
    let lora = |&(path, strength): &(&Path, f32)| LoraFile { path: path.to_owned(), strength };
    let loras = files.iter().map(lora).collect();
    VideoModel::open_with(&wan(), &ModelFiles { loras, ..ModelFiles::default() })
}

fn values(model: &VideoModel, name: &str, shape: &[usize]) -> Vec<f32> {
    let weights = model.weights(ComponentKind::Transformer, None, usize::MAX).unwrap();
    weights.source().values(name, shape).unwrap()
}

fn stored(name: &str) -> Stored {
    let tensors = read_reference(&wan().join("transformer/diffusion_pytorch_model.safetensors"));
    tensors.into_iter().find(|tensor| tensor.name == name).unwrap()
}

/// `W + factor · B · A` by the definition, in f64.
fn merged(weight: &[f32], rank: usize, factor: f64) -> Vec<f32> {
    let (a, b) = (wave(rank * WIDTH, 1.0), wave(rank * WIDTH, 2.0));
    let product = |row: usize, column: usize| -> f64 {
        (0..rank).map(|r| f64::from(b[row * rank + r]) * f64::from(a[r * WIDTH + column])).sum()
    };
    weight
        .iter()
        .enumerate()
        .map(|(i, &w)| (f64::from(w) + factor * product(i / WIDTH, i % WIDTH)) as f32)
        .collect()
}

#[track_caller]
fn assert_near(actual: &[f32], expected: &[f32]) {
    crate::common::assert_close("the merged weight", actual, expected, 1e-5, 1e-5);
}

#[test]
fn a_low_rank_pair_is_added_under_every_program_s_names() {
    let folder = temporary();
    let path = folder.path().join("lora.safetensors");
    let weight = stored(&format!("{LAYER}.weight")).f32();
    for (a, b) in [
        (
            format!("transformer.{LAYER}.lora_A.weight"),
            format!("transformer.{LAYER}.lora_B.weight"),
        ),
        (
            format!("base_model.model.{LAYER}.lora_A.default.weight"),
            format!("base_model.model.{LAYER}.lora_B.default.weight"),
        ),
        (
            "diffusion_model.blocks.1.cross_attn.k.lora_down.weight".into(),
            "diffusion_model.blocks.1.cross_attn.k.lora_up.weight".into(),
        ),
        (
            "lora_unet_blocks_1_cross_attn_k.lora_down.weight".into(),
            "lora_unet_blocks_1_cross_attn_k.lora_up.weight".into(),
        ),
    ] {
        write_reference(&path, &pair(&a, &b, 4));
        let model = open(&[(&path, 0.5)]).unwrap();
        let name = format!("{LAYER}.weight");
        assert_near(&values(&model, &name, &[WIDTH, WIDTH]), &merged(&weight, 4, 0.5));
        let other = stored("blocks.0.attn2.to_k.weight");
        assert_eq!(values(&model, &other.name, &other.shape), other.f32());
    }
}

#[test]
fn alpha_is_divided_by_the_rank() {
    let folder = temporary();
    let path = folder.path().join("lora.safetensors");
    let [a, b] = pair(
        "lora_unet_blocks_1_cross_attn_k.lora_down.weight",
        "lora_unet_blocks_1_cross_attn_k.lora_up.weight",
        4,
    );
    let alpha = f32s("lora_unet_blocks_1_cross_attn_k.alpha", &[], &[8.0]);
    write_reference(&path, &[a, b, alpha]);
    let model = open(&[(&path, -0.25)]).unwrap();
    let weight = stored(&format!("{LAYER}.weight"));
    let expected = merged(&weight.f32(), 4, -0.25 * 8.0 / 4.0);
    assert_near(&values(&model, &weight.name, &weight.shape), &expected);
}

#[test]
fn several_files_and_plain_differences_add_up() {
    let folder = temporary();
    let low_rank = folder.path().join("a.safetensors");
    let differences = folder.path().join("b.safetensors");
    let name = |end: &str| format!("transformer.{LAYER}.{end}");
    write_reference(&low_rank, &pair(&name("lora_A.weight"), &name("lora_B.weight"), 2));
    let norm = stored("blocks.0.norm2.weight");
    write_reference(
        &differences,
        &[
            f32s(&name("diff"), &[WIDTH, WIDTH], &wave(WIDTH * WIDTH, 3.0)),
            f32s(&name("diff_b"), &[WIDTH], &wave(WIDTH, 4.0)),
            f32s("diffusion_model.blocks.0.norm3.diff", &norm.shape, &wave(WIDTH, 5.0)),
        ],
    );
    let model = open(&[(&low_rank, 1.0), (&differences, 0.5)]).unwrap();
    let weight = stored(&format!("{LAYER}.weight"));
    let add = |values: Vec<f32>, seed| -> Vec<f32> {
        let change = wave(values.len(), seed);
        values.iter().zip(change).map(|(value, change)| value + 0.5 * change).collect()
    };
    let expected = add(merged(&weight.f32(), 2, 1.0), 3.0);
    assert_near(&values(&model, &weight.name, &weight.shape), &expected);
    let bias = stored(&format!("{LAYER}.bias"));
    assert_near(&values(&model, &bias.name, &bias.shape), &add(bias.f32(), 4.0));
    assert_near(&values(&model, &norm.name, &norm.shape), &add(norm.f32(), 5.0));
}

#[test]
fn a_convolution_is_changed_through_its_filters() {
    let folder = temporary();
    let path = folder.path().join("lora.safetensors");
    let weight = stored("patch_embedding.weight");
    let width: usize = weight.shape[1..].iter().product();
    let a_shape = [&[2], &weight.shape[1..]].concat();
    let (a, b) = (wave(2 * width, 1.0), wave(weight.shape[0] * 2, 2.0));
    write_reference(
        &path,
        &[
            f32s("diffusion_model.patch_embedding.lora_down.weight", &a_shape, &a),
            f32s(
                "diffusion_model.patch_embedding.lora_up.weight",
                &[weight.shape[0], 2, 1, 1, 1],
                &b,
            ),
        ],
    );
    let expected: Vec<f32> = weight
        .f32()
        .iter()
        .enumerate()
        .map(|(i, w)| {
            let (row, column) = (i / width, i % width);
            w + b[row * 2] * a[column] + b[row * 2 + 1] * a[width + column]
        })
        .collect();
    let model = open(&[(&path, 1.0)]).unwrap();
    assert_near(&values(&model, &weight.name, &weight.shape), &expected);
}

#[test]
fn a_file_that_does_not_fit_says_which_layer_and_why() {
    let folder = temporary();
    let path: PathBuf = folder.path().join("lora.safetensors");
    let name = |end: &str| format!("transformer.{LAYER}.{end}");
    let [a, b] = pair(&name("lora_A.weight"), &name("lora_B.weight"), 2);
    let other =
        |part: &str| f32s(&format!("transformer.blocks.7.x.{part}.weight"), &[1, 1], &[1.0]);
    let reshaped = |tensor: &Stored, shape: &[usize]| {
        f32s(&tensor.name, shape, &vec![0.5; shape.iter().product()])
    };
    let cases: Vec<(Vec<Stored>, &str)> = vec![
        (
            vec![reshaped(&a, &[2, 48]), reshaped(&b, &[48, 2])],
            "layer \"blocks.1.attn2.to_k\" has shape [32, 32], but the LoRA changes [48, 48]",
        ),
        (vec![reshaped(&a, &[3, 32]), b.clone()], "has lora_A of rank 3 and lora_B of rank 2"),
        (vec![a.clone()], "has lora_A but no lora_B; the file is incomplete"),
        (vec![b.clone()], "has lora_B but no lora_A; the file is incomplete"),
        (vec![reshaped(&a, &[64]), b.clone()], "has no matrices: [64], [32, 2]"),
        (vec![f32s(&name("alpha"), &[], &[1.0])], "has an alpha but nothing that it scales"),
        (
            vec![a.clone(), b.clone(), f32s(&name("alpha"), &[2], &[1.0, 1.0])],
            "has an alpha of 2 values",
        ),
        (
            vec![a.clone(), b.clone(), other("lora_A"), other("lora_B")],
            "2 of its 4 tensors match no layer of this model \
             (\"transformer.blocks.7.x.lora_A.weight\", ",
        ),
        (vec![stored("proj_out.weight")], "this is no LoRA, no tensor has a name such as"),
        (vec![], "this is no LoRA"),
        (vec![f32s("a.hada_w1_a", &[1], &[1.0])], "belongs to the LoHa method"),
        (vec![f32s(&name("diff"), &[2, 2], &[1.0; 4])], "but the LoRA changes [2, 2]"),
        (
            vec![
                a.clone(),
                b.clone(),
                f32s("diffusion_model.blocks.1.cross_attn.k.lora_down.weight", &[1, 1], &[1.0]),
            ],
            "are for the same layer",
        ),
    ];
    for (tensors, expected) in cases {
        write_reference(&path, &tensors);
        let err = full_message(&open(&[(&path, 1.0)]).map(drop).expect_err(expected));
        assert!(err.contains(expected), "{err}\nexpected {expected:?}");
        assert!(err.ends_with("lora.safetensors") && err.len() < 600, "{err}");
    }
    std::fs::write(&path, "PK\x03\x04 pickled weights").unwrap();
    let err = full_message(&open(&[(&path, 1.0)]).unwrap_err());
    assert!(err.contains("a pickled PyTorch file"), "{err}");
}

#[test]
fn numbers_that_are_none_are_named_with_the_file() {
    let folder = temporary();
    let path = folder.path().join("lora.safetensors");
    let [a, mut b] = pair(
        &format!("transformer.{LAYER}.lora_A.weight"),
        &format!("transformer.{LAYER}.lora_B.weight"),
        2,
    );
    b.bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    write_reference(&path, &[a.clone(), b.clone()]);
    let name = format!("{LAYER}.weight");
    let read = |strength| {
        let model = open(&[(&path, strength)]).unwrap();
        let weights = model.weights(ComponentKind::Transformer, None, usize::MAX).unwrap();
        weights.source().values(&name, &[WIDTH, WIDTH]).unwrap_err().to_string()
    };
    let err = read(1.0);
    assert!(err.contains("holds NaN") && err.ends_with("lora.safetensors"), "{err}");
    b.bytes[..4].copy_from_slice(&1e30_f32.to_le_bytes());
    write_reference(&path, &[a, b]);
    let err = read(1e30);
    assert!(err.contains("with the LoRA added") && err.contains(LAYER), "{err}");
}
