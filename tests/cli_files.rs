//! Files that stand for parts of a model, as a user gives them.

#[path = "common/gguf.rs"]
mod gguf_file;

use gguf_file::Gguf;
use half::f16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wan_a")
}

/// The program with these words and paths.
fn run(words: &[&str], paths: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qvgen"));
    command.args(words);
    for (flag, path) in paths {
        command.arg(flag).arg(path);
    }
    command.output().expect("the program starts")
}

#[track_caller]
fn assert_done(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[track_caller]
fn assert_refused(output: &Output, words: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

/// A LoRA of rank 2 for one layer that is quantized and one that is not.
fn write_lora(path: &Path) {
    let tensors = [("blocks.1.ffn.net.0.proj", 72, 32), ("proj_out", 16, 32)];
    let pieces: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .flat_map(|&(layer, out, width)| {
            let name = |part: &str| format!("transformer.{layer}.{part}.weight");
            [(name("lora_A"), vec![2, width]), (name("lora_B"), vec![out, 2])]
        })
        .map(|(name, shape)| {
            let len: usize = shape.iter().product();
            let values = (0..len).flat_map(|i| (0.3 * (i as f32 * 0.9).sin()).to_le_bytes());
            (name, shape, values.collect())
        })
        .collect();
    let views = pieces.iter().map(|(name, shape, bytes)| {
        (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).expect("a tensor"))
    });
    fs::write(path, safetensors::serialize(views, None).expect("a file")).expect("written");
}

/// The fixture's text encoder in half precision, in the layout of llama.cpp.
fn write_text_encoder(path: &Path) {
    let bytes = fs::read(fixture().join("text_encoder/model.safetensors")).expect("the fixture");
    let tensors = SafeTensors::deserialize(&bytes).expect("a file");
    let file =
        tensors.tensors().into_iter().fold(Gguf::new("t5encoder"), |file, (name, tensor)| {
            let halves: Vec<u8> = tensor
                .data()
                .chunks_exact(4)
                .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")))
                .flat_map(|value| f16::from_f32(value).to_le_bytes())
                .collect();
            let name = [
                ("encoder.block.", "enc.blk."),
                ("layer.0.SelfAttention.relative_attention_bias", "attn_rel_b"),
                ("layer.0.SelfAttention.", "attn_"),
                ("layer.0.layer_norm", "attn_norm"),
                ("layer.1.layer_norm", "ffn_norm"),
                ("layer.1.DenseReluDense.wi_0", "ffn_gate"),
                ("layer.1.DenseReluDense.wi_1", "ffn_up"),
                ("layer.1.DenseReluDense.wo", "ffn_down"),
                ("encoder.final_layer_norm", "enc.output_norm"),
                ("shared", "token_embd"),
            ]
            .iter()
            .fold(name, |name, (ours, theirs)| name.replace(ours, theirs));
            file.with(&name, tensor.shape(), 1, &halves)
        });
    fs::write(path, file.bytes()).expect("written");
}

const SAMPLE: [&str; 12] = [
    "--prompt",
    "rain",
    "--device",
    "cpu",
    "--frames",
    "5",
    "--size",
    "32x32",
    "--steps",
    "2",
    "--guidance",
    "3",
];

/// The frames of a run, and the message beside them.
fn sample(model: &Path, more: &[&str], files: &[(&str, &Path)], out: &Path) -> Vec<u8> {
    let words = [&["sample", model.to_str().expect("UTF-8")], &SAMPLE[..], more].concat();
    assert_done(&run(&words, &[files, &[("--out", out)]].concat()));
    fs::read(out).expect("the video")
}

#[test]
fn a_folder_quantized_with_other_files_samples_what_they_give_directly() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| place.path().join(name);
    let (lora, gguf) = (at("style.safetensors"), at("umt5.gguf"));
    write_lora(&lora);
    write_text_encoder(&gguf);
    let files = [("--lora", lora.as_path()), ("--text-encoder", gguf.as_path())];
    let bits = ["--bits", "w4a4"];
    let plain = sample(&fixture(), &bits, &[], &at("plain.y4m"));
    let direct = sample(&fixture(), &bits, &files, &at("direct.y4m"));
    assert_ne!(plain, direct, "the files change the video");

    let model = fixture();
    let quantize = ["quantize", model.to_str().expect("UTF-8"), "--device", "cpu"];
    for form in [&[][..], &["--refer"]] {
        let packed = at(&format!("packed{}", form.len()));
        let words = [&quantize[..], &bits, form].concat();
        assert_done(&run(&words, &[&files[..], &[("--out", &packed)]].concat()));
        let copied = packed.join("text_encoder/model.gguf").exists();
        assert_eq!(copied, form.is_empty());
        assert!(!packed.join("text_encoder/model.safetensors").exists());
        let marker = fs::read_to_string(packed.join("qvgen.json")).expect("the marker");
        assert!(marker.contains("style.safetensors=1"), "{marker}");
        assert_eq!(sample(&packed, &[], &[], &at("packed.y4m")), direct, "{form:?}");
    }
    let packed = at("packed0");
    let words = ["sample", packed.to_str().expect("UTF-8"), "--prompt", "rain", "--device", "cpu"];
    let again = run(&words, &[("--lora", &lora), ("--out", &at("again.y4m"))]);
    assert_refused(&again, &["--lora: the transformer is already quantized to w4a4"]);
}

/// The measurements of an evaluation of `model`.
fn evaluation(model: &Path, more: &[&str], files: &[(&str, &Path)]) -> Value {
    let words = [&["eval", model.to_str().expect("UTF-8"), "--json"], &SAMPLE[2..], more].concat();
    let output = run(&words, files);
    assert_done(&output);
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn an_evaluation_is_of_the_model_with_its_lora() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| place.path().join(name);
    let (lora, packed, prompts) = (at("style.safetensors"), at("packed"), at("prompts.txt"));
    write_lora(&lora);
    fs::write(&prompts, "rain\n").expect("written");
    let bits = ["--bits", "w4a4"];
    let model = fixture();
    let quantize = ["quantize", model.to_str().expect("UTF-8"), "--device", "cpu"];
    let files = [("--lora", lora.as_path()), ("--out", packed.as_path())];
    assert_done(&run(&[&quantize[..], &bits].concat(), &files));
    let error = |files: &[(&str, &Path)]| {
        let json = evaluation(
            &fixture(),
            &bits,
            &[&[("--prompts", prompts.as_path())][..], files].concat(),
        );
        (json["evaluation"]["agreement"]["velocity_mse"]["mean"].as_f64().expect("a number"), json)
    };
    let (same, json) = error(&[("--lora", &lora), ("--reference", &packed)]);
    assert_eq!(same, 0.0, "{json}");
    assert_eq!(json["files"]["loras"][0], "style.safetensors=1");
    let (other, _) = error(&[("--reference", &packed)]);
    assert!(other > 0.0, "the LoRA changes nothing");
    let (_, json) = error(&[("--lora", &lora)]);
    let reference = &json["evaluation"]["agreement"]["reference"];
    assert_eq!(reference, "wan_a with style.safetensors=1 in full precision");
    let words = ["eval", packed.to_str().expect("UTF-8"), "--device", "cpu"];
    let again = run(&words, &[("--lora", &lora), ("--prompts", &prompts)]);
    assert_refused(&again, &["--lora: the transformer is already quantized to w4a4"]);
}

/// A configuration for one update of the fixture's weights that changes none of them.
fn write_training(path: &Path) {
    let text = format!(
        "model = {:?}\nout = {:?}\nbits = \"full\"\n[loop]\nsteps = 1\nbatch = 2\n\
         [optimizer]\nlearning_rate = 0.0\n\
         [data]\nrandom = 4\nframes = 5\nwidth = 32\nheight = 32\nhold_out = 0\n",
        fixture(),
        path.with_file_name("out")
    );
    fs::write(path, text).expect("written");
}

#[test]
fn a_training_starts_from_the_model_with_its_lora() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| place.path().join(name);
    let (lora, config) = (at("style.safetensors"), at("train.toml"));
    write_lora(&lora);
    write_training(&config);
    let train = |more: &[&str], files: &[(&str, &Path)]| {
        let words = ["train", config.to_str().expect("UTF-8"), "--device", "cpu", "--json"];
        run(&[&words[..], more].concat(), files)
    };
    let half = format!("{}=0.5", lora.display());
    assert_done(&train(&["--lora", &half], &[]));
    let direct = sample(&fixture(), &["--lora", &half], &[], &at("direct.y4m"));
    let model = at("out/model");
    assert_eq!(sample(&model, &[], &[], &at("trained.y4m")), direct);
    let marker = fs::read_to_string(model.join("qvgen.json")).expect("the marker");
    assert!(marker.contains("style.safetensors=0.5"), "{marker}");
    // A checkpoint belongs to its LoRA as it belongs to its model, and a run remembers it.
    let remembered = fs::read_to_string(at("out/config.toml")).expect("the configuration");
    assert!(remembered.contains(&half), "{remembered}");
    assert_refused(&train(&["--resume"], &[("--lora", &lora)]), &["other LoRAs", "--restart"]);

    // The teacher has it, too: the student is only as far from it as eight bits are.
    let loss = |files: &[(&str, &Path)]| {
        let output = train(&["--restart", "--bits", "w8a8", "--method", "q-dm"], files);
        assert_done(&output);
        let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        json["outcome"]["loss"].as_f64().expect("a loss")
    };
    let (with, without) = (loss(&[("--lora", &lora)]), loss(&[]));
    assert!(with != without && with < 10.0 * without, "{with} with the LoRA, {without} without");

    let random = train(&["--restart", "--set", "start=random"], &[("--lora", &lora)]);
    assert_refused(&random, &["start = \"random\" has nothing to add a LoRA to"]);
    let model = fixture();
    let quantize = ["quantize", model.to_str().expect("UTF-8"), "--device", "cpu"];
    assert_done(&run(&quantize, &[("--out", &at("packed"))]));
    let packed = train(&["--restart"], &[("--lora", &lora), ("--model", &at("packed"))]);
    assert_refused(&packed, &["--lora: the transformer is already quantized to w4a4"]);
}

#[test]
fn inspect_says_what_a_file_is() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let (lora, gguf) = (place.path().join("style.safetensors"), place.path().join("umt5.gguf"));
    write_lora(&lora);
    write_text_encoder(&gguf);
    for (file, words) in [
        (&lora, &["a LoRA", "4 tensors: F32"][..]),
        (&gguf, &["a T5 text encoder in the layout of llama.cpp", "F16"]),
    ] {
        let output = run(&["inspect"], &[("--layers", file)]);
        assert_done(&output);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
}

#[test]
fn a_file_that_does_not_fit_is_refused_and_nothing_is_written() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| place.path().join(name);
    let model = fixture();
    let vae = model.join("vae/diffusion_pytorch_model.safetensors");
    let transformer = model.join("transformer/diffusion_pytorch_model.safetensors");
    let words = ["quantize", model.to_str().expect("UTF-8"), "--device", "cpu"];
    let out = at("out");
    for (flag, file, expected) in [
        ("--lora", &transformer, "this is no LoRA"),
        ("--lora", &at("nothing"), "cannot open"),
        ("--transformer", &vae, "this is a VAE in the diffusers layout"),
        ("--text-encoder", &transformer, "this is a Wan transformer"),
        ("--text-encoder", &at("nothing.gguf"), "nothing.gguf"),
    ] {
        let output = run(&words, &[(flag, file), ("--out", &out)]);
        assert_refused(&output, &[expected, &file.display().to_string()]);
        assert!(!out.exists(), "{flag} wrote a folder");
    }
    let output = run(&["sample", transformer.to_str().expect("UTF-8"), "--prompt", "x"], &[]);
    assert_refused(&output, &["this is a Wan transformer", "--transformer FILE"]);
}
