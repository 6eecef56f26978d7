//! The same model under the names of other programs, and files given as something they are not.

use crate::gguf_file::Gguf;
use crate::{Stored, copy_folder, full_message, read_reference, temporary, wan, write_reference};
use qvgen::nn::WeightSource;
use qvgen::pipeline::ModelFiles;
use qvgen::pipeline::checkpoint::{Checkpoint, ComponentKind, Layout, ModelFolder, Tensors};
use qvgen::pipeline::model::VideoModel;
use safetensors::Dtype;
use std::fs;
use std::path::{Path, PathBuf};

const TRANSFORMER: &str = "transformer/diffusion_pytorch_model.safetensors";
const TEXT_ENCODER: &str = "text_encoder/model.safetensors";

/// Ours and theirs, from `convert_wan_to_diffusers.py` of diffusers; order matters.
const WAN: [(&str, &str); 17] = [
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("proj_out", "head.head"),
    ("norm2", "norm3"),
    ("attn1", "self_attn"),
    ("attn2", "cross_attn"),
    ("to_out.0", "o"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    (".scale_shift_table", ".modulation"),
    ("scale_shift_table", "head.modulation"),
];

/// Ours and theirs, from `gguf-py/gguf/constants.py` of llama.cpp.
const LLAMA_CPP: [(&str, &str); 13] = [
    ("encoder.block.", "enc.blk."),
    ("layer.0.SelfAttention.relative_attention_bias", "attn_rel_b"),
    ("layer.0.SelfAttention.q", "attn_q"),
    ("layer.0.SelfAttention.k", "attn_k"),
    ("layer.0.SelfAttention.v", "attn_v"),
    ("layer.0.SelfAttention.o", "attn_o"),
    ("layer.0.layer_norm", "attn_norm"),
    ("layer.1.DenseReluDense.wi_0", "ffn_gate"),
    ("layer.1.DenseReluDense.wi_1", "ffn_up"),
    ("layer.1.DenseReluDense.wo", "ffn_down"),
    ("layer.1.layer_norm", "ffn_norm"),
    ("encoder.final_layer_norm", "enc.output_norm"),
    ("shared", "token_embd"),
];

/// Ours and theirs, from `wan/modules/t5.py` of Wan's repository.
const WAN_T5: [(&str, &str); 13] = [
    ("encoder.block.", "blocks."),
    ("layer.0.SelfAttention.relative_attention_bias", "pos_embedding.embedding"),
    ("layer.0.SelfAttention.q", "attn.q"),
    ("layer.0.SelfAttention.k", "attn.k"),
    ("layer.0.SelfAttention.v", "attn.v"),
    ("layer.0.SelfAttention.o", "attn.o"),
    ("layer.0.layer_norm", "norm1"),
    ("layer.1.DenseReluDense.wi_0", "ffn.gate.0"),
    ("layer.1.DenseReluDense.wi_1", "ffn.fc1"),
    ("layer.1.DenseReluDense.wo", "ffn.fc2"),
    ("layer.1.layer_norm", "norm2"),
    ("encoder.final_layer_norm", "norm"),
    ("shared", "token_embedding"),
];

fn theirs(pairs: &[(&str, &str)], ours: &str) -> String {
    pairs.iter().fold(ours.to_owned(), |name, (ours, theirs)| name.replace(ours, theirs))
}

fn renamed(file: &str, rename: impl Fn(&str) -> String) -> Vec<Stored> {
    let tensors = read_reference(&wan().join(file));
    tensors.into_iter().map(|tensor| Stored { name: rename(&tensor.name), ..tensor }).collect()
}

/// A GGUF file of f32 tensors, or of f16 where `half` says so.
fn gguf_of(architecture: &str, tensors: &[Stored], half: bool) -> Gguf {
    tensors.iter().fold(Gguf::new(architecture), |file, tensor| {
        let halved = |value: f32| half::f16::from_f32(value).to_le_bytes();
        let halves: Vec<u8> = tensor.f32().into_iter().flat_map(halved).collect();
        if half && tensor.shape.len() == 2 {
            file.with(&tensor.name, &tensor.shape, 1, &halves)
        } else {
            file.with(&tensor.name, &tensor.shape, 0, &tensor.bytes)
        }
    })
}

fn opened(kind: ComponentKind, file: &Path) -> Result<Checkpoint, String> {
    let folder = ModelFolder::open(&wan()).unwrap().with_weights(kind, file.to_owned());
    folder.component(kind).unwrap().weights().map_err(|err| full_message(&err))
}

/// Every tensor of `file` has the name and values of the fixture's.
#[track_caller]
fn assert_same(kind: ComponentKind, file: &Path, ours: &str) {
    let checkpoint = opened(kind, file).unwrap();
    let expected = read_reference(&wan().join(ours));
    assert_eq!(checkpoint.tensors().names().len(), expected.len());
    for tensor in expected {
        let values = checkpoint.values(&tensor.name, &tensor.shape).unwrap();
        assert_eq!(values, tensor.f32(), "{}", tensor.name);
    }
}

#[test]
fn wan_s_own_names_are_read_with_and_without_comfy_s_prefix() {
    let folder = temporary();
    let path = folder.path().join("wan.safetensors");
    for prefix in ["", "model.diffusion_model.", "diffusion_model."] {
        let tensors = renamed(TRANSFORMER, |ours| format!("{prefix}{}", theirs(&WAN, ours)));
        assert!(tensors.iter().any(|t| t.name == format!("{prefix}blocks.1.norm3.weight")));
        write_reference(&path, &tensors);
        assert_same(ComponentKind::Transformer, &path, TRANSFORMER);
    }
    // A file of several components, as Comfy saves them.
    let mut tensors = renamed(TRANSFORMER, |name| format!("model.diffusion_model.{name}"));
    tensors.push(Stored::new("first_stage_model.conv1.weight", Dtype::F32, &[1], vec![0; 4]));
    write_reference(&path, &tensors);
    assert_same(ComponentKind::Transformer, &path, TRANSFORMER);
}

#[test]
fn a_transformer_in_gguf_keeps_its_five_dimensions() {
    let folder = temporary();
    let path = folder.path().join("wan.gguf");
    let mut tensors = renamed(TRANSFORMER, |ours| theirs(&WAN, ours));
    let patch = tensors.iter_mut().find(|tensor| tensor.shape.len() == 5).expect("a convolution");
    let shape = std::mem::take(&mut patch.shape);
    patch.shape = vec![shape[0], shape[1..].iter().product()];
    let mut file = gguf_of("wan", &tensors, false);
    let mut list = [5_u32.to_le_bytes().to_vec(), 5_u64.to_le_bytes().to_vec()].concat();
    shape.iter().for_each(|&dim| list.extend((dim as u32).to_le_bytes()));
    let key = "comfy.gguf.orig_shape.patch_embedding.weight".to_owned();
    file.metadata.push((key, crate::gguf_file::LIST, list));
    fs::write(&path, file.bytes()).unwrap();
    assert_same(ComponentKind::Transformer, &path, TRANSFORMER);
    fs::write(&path, gguf_of("flux", &tensors, false).bytes()).unwrap();
    let err = opened(ComponentKind::Transformer, &path).unwrap_err();
    assert!(
        err.contains("architecture \"flux\" as transformer is not supported, only wan"),
        "{err}"
    );
}

#[test]
fn text_encoders_of_llama_cpp_and_of_wan_s_repository_are_read() {
    let folder = temporary();
    let gguf = folder.path().join("umt5.gguf");
    let mut tensors = renamed(TEXT_ENCODER, |ours| theirs(&LLAMA_CPP, ours));
    assert!(tensors.iter().any(|tensor| tensor.name == "enc.blk.1.attn_rel_b.weight"));
    // The decoder of a whole T5 is not needed.
    tensors.push(Stored::new("dec.blk.0.attn_q.weight", Dtype::F32, &[1], vec![0; 4]));
    fs::write(&gguf, gguf_of("t5encoder", &tensors, false).bytes()).unwrap();
    assert_same(ComponentKind::TextEncoder, &gguf, TEXT_ENCODER);

    let original = folder.path().join("umt5.safetensors");
    write_reference(&original, &renamed(TEXT_ENCODER, |ours| theirs(&WAN_T5, ours)));
    assert_same(ComponentKind::TextEncoder, &original, TEXT_ENCODER);

    fs::write(&gguf, gguf_of("llama", &tensors, false).bytes()).unwrap();
    let err = opened(ComponentKind::TextEncoder, &gguf).unwrap_err();
    assert!(
        err.contains("\"llama\" as text_encoder is not supported, only t5, t5encoder"),
        "{err}"
    );
}

#[test]
fn a_gguf_file_in_the_folder_of_the_text_encoder_is_found() {
    let folder = temporary();
    copy_folder(&wan(), folder.path());
    let old = folder.path().join(TEXT_ENCODER);
    let tensors = renamed(TEXT_ENCODER, |ours| theirs(&LLAMA_CPP, ours));
    fs::write(old.with_file_name("model.gguf"), gguf_of("t5", &tensors, true).bytes()).unwrap();
    fs::remove_file(old).unwrap();
    let model = VideoModel::open(folder.path()).unwrap();
    model.check_files().unwrap();
    let weights = model.weights(ComponentKind::TextEncoder, None, usize::MAX).unwrap();
    let name = "encoder.block.0.layer.0.SelfAttention.q.weight";
    let expected = read_reference(&wan().join(TEXT_ENCODER));
    let expected = expected.iter().find(|tensor| tensor.name == name).unwrap();
    let rounded: Vec<f32> =
        expected.f32().into_iter().map(|value| half::f16::from_f32(value).to_f32()).collect();
    assert_eq!(weights.source().values(name, &expected.shape).unwrap(), rounded);
}

fn one(name: &str) -> Stored {
    Stored::new(name, Dtype::F32, &[1, 1], vec![0; 4])
}

#[test]
fn a_file_given_as_something_else_says_what_it_is_and_where_it_belongs() {
    let folder = temporary();
    let path = folder.path().join("file.safetensors");
    for (kind, name, expected) in [
        (ComponentKind::Transformer, "transformer.blocks.0.attn1.to_q.lora_A.weight", "a LoRA"),
        (ComponentKind::Transformer, "lora_unet_blocks_0_self_attn_q.lora_down.weight", "--lora"),
        (ComponentKind::Transformer, "blocks.0.attn1.to_q.wquantizer.scale", "`qvgen import`"),
        (ComponentKind::Transformer, "blocks.0.cross_attn.k_img.weight", "text-to-video"),
        (
            ComponentKind::Transformer,
            "model.diffusion_model.transformer.layers.0.attention.query_key_value.weight",
            "CogVideoX in the layout of its own (SAT) repository",
        ),
        (
            ComponentKind::Transformer,
            "transformer_blocks.0.attn1.to_q.weight",
            "a CogVideoX transformer in the diffusers layout, expected the transformer \
             (WanTransformer3DModel)",
        ),
        (ComponentKind::Transformer, "decoder.conv_in.weight", "a VAE in the diffusers layout"),
        (ComponentKind::Transformer, "decoder.middle.0.residual.0.gamma", "a VAE in the layout of"),
        (ComponentKind::Transformer, "enc.blk.0.attn_q.weight", "a T5 text encoder"),
        (ComponentKind::TextEncoder, "blocks.0.attn1.to_q.weight", "a Wan transformer"),
        (ComponentKind::TextEncoder, "decoder.conv_in.weight", "expected the text encoder ("),
    ] {
        write_reference(&path, &[one(name)]);
        let err = opened(kind, &path).unwrap_err();
        assert!(err.contains(expected), "{err}\nexpected {expected:?}");
        assert!(err.starts_with("this is ") && err.ends_with("file.safetensors"), "{err}");
    }
    write_reference(&path, &[one("blocks.0.self_attn.q.weight"), one("vace_blocks.0.x.weight")]);
    let err = opened(ComponentKind::Transformer, &path).unwrap_err();
    assert!(err.contains("tensor \"vace_blocks.0.x.weight\" in a Wan transformer"), "{err}");
}

#[test]
fn every_layout_of_the_fixture_is_known() {
    let layout = |file: &str| Layout::of(&Tensors::open(&wan().join(file)).unwrap());
    assert_eq!(layout(TRANSFORMER), Some(Layout::Wan));
    assert_eq!(layout(TEXT_ENCODER), Some(Layout::T5));
    assert_eq!(layout("vae/diffusion_pytorch_model.safetensors"), Some(Layout::Vae));
}

#[test]
fn one_shard_of_several_is_refused_before_its_tensors_are_missed() {
    let folder = temporary();
    let path = folder.path().join("m-00001-of-00002.safetensors");
    write_reference(&path, &[one("blocks.0.attn1.to_q.weight")]);
    let err = opened(ComponentKind::Transformer, &path).unwrap_err();
    assert!(err.contains("one of 2 shards"), "{err}");
    assert!(err.contains("m.safetensors.index.json"), "{err}");
}

#[test]
fn a_transformer_of_other_sizes_names_the_first_tensor_that_differs() {
    let folder = temporary();
    let path: PathBuf = folder.path().join("other.safetensors");
    let mut tensors = renamed(TRANSFORMER, |ours| theirs(&WAN, ours));
    let wider = tensors.iter_mut().find(|t| t.name == "time_embedding.0.weight").unwrap();
    wider.shape[0] *= 2;
    wider.bytes = [wider.bytes.clone(), wider.bytes.clone()].concat();
    write_reference(&path, &tensors);
    let files = ModelFiles { transformer: Some(path), ..ModelFiles::default() };
    let model = VideoModel::open_with(&wan(), &files).unwrap();
    let err = full_message(&model.check_files().unwrap_err());
    assert!(err.contains("condition_embedder.time_embedder.linear_1.weight"), "{err}");
    assert!(err.contains("expected [32, ") && err.ends_with("other.safetensors"), "{err}");
}
