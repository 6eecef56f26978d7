//! Every command on `CogVideoX` models, as a user runs them.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The tiny model of this name.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The models before 1.5 and of 1.5.
fn fixtures() -> [PathBuf; 2] {
    [fixture("cogvideox_2b_a"), fixture("cogvideox_1_5_a")]
}

/// What a successful run prints to stdout; the folder is where it runs.
#[track_caller]
fn run(folder: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qvgen"));
    let output = command.env_remove("RUST_LOG").current_dir(folder).args(arguments).output();
    let output = output.expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Arguments of the smallest video, written to `out`.
fn small<'a>(model: &'a str, out: &'a str) -> Vec<&'a str> {
    let mut arguments = vec!["sample", model, "--device", "cpu", "--prompt", "rain"];
    arguments.extend(["--frames", "9", "--size", "32x32", "--steps", "2", "--out", out]);
    arguments
}

#[test]
fn sample_and_quantize_make_the_same_video_of_packed_weights() {
    let place = tempfile::tempdir().expect("a temporary folder");
    for model in fixtures() {
        let (name, folder) = (model.file_name().expect("a name"), place.path());
        let model = model.to_str().expect("UTF-8");
        let said = run(folder, &small(model, "full.y4m"));
        assert!(said.contains("9 frames of 32x32"), "{said}");
        let mut packing = small(model, "loading.y4m");
        packing.extend(["--bits", "w4a4"]);
        run(folder, &packing);
        let packed = format!("packed-{}", name.to_string_lossy());
        let quantize = ["quantize", model, "--bits", "w4a4", "--out", &packed, "--device", "cpu"];
        let table = run(folder, &quantize);
        assert!(table.contains("transformer_blocks.0.attn1.to_q"), "{table}");
        let kept = "transformer_blocks.0.norm1.linear stays in full precision";
        assert!(table.contains(kept), "the timestep's layers stay: {table}");
        run(folder, &small(&packed, "packed.y4m"));
        // Behind the first line, which holds the settings.
        let frames = |name: &str| {
            let bytes = std::fs::read(folder.join(name)).expect("a video");
            let end = bytes.iter().position(|byte| *byte == b'\n').expect("a header");
            bytes[end..].to_vec()
        };
        assert!(frames("packed.y4m") == frames("loading.y4m"), "{model}");
        assert!(frames("packed.y4m") != frames("full.y4m"), "{model}");
    }
}

#[test]
fn an_even_number_of_latent_frames_gives_a_longer_video() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let model = fixture("cogvideox_1_5_a");
    let mut arguments = small(model.to_str().expect("UTF-8"), "clip.y4m");
    arguments.extend(["--frames", "13", "--dynamic-guidance", "--json"]);
    let json: Value = serde_json::from_str(&run(place.path(), &arguments)).expect("JSON");
    assert_eq!(json["settings"]["frames"], 13);
    assert_eq!(json["plan"]["frames"], 16);
    let video = std::fs::read(place.path().join("clip.y4m")).expect("a video");
    assert_eq!(video.windows(6).filter(|bytes| bytes == b"FRAME\n").count(), 16);
}

#[test]
fn inspect_names_the_parts() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let model = fixture("cogvideox_2b_a");
    let said = run(place.path(), &["inspect", model.to_str().expect("UTF-8")]);
    for part in ["CogVideoXPipeline", "AutoencoderKLCogVideoX", "T5EncoderModel"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}

#[test]
fn train_and_eval_and_cache_take_the_models() {
    let place = tempfile::tempdir().expect("a temporary folder");
    let folder = place.path();
    std::fs::write(folder.join("prompts.txt"), "rain\nsun\n").expect("a list");
    for model in fixtures() {
        let model = model.to_str().expect("UTF-8");
        let cache = ["cache", model, "--prompts", "prompts.txt", "--out", "cache", "--steps", "2"];
        let size = ["--frames", "9", "--size", "32x32", "--device", "cpu"];
        run(folder, &[&cache[..], &size].concat());
        let config = format!(
            "model = {model:?}\nout = \"run\"\nbits = \"w4a4\"\nmethod = \"qvgen\"\n\
             [recipe]\nranks = [2, 1]\n[loop]\nsteps = 6\nbatch = 1\nrecompute = true\n\
             [data]\ncache = \"cache\"\nframes = 9\nwidth = 32\nheight = 32\nhold_out = 0\n"
        );
        std::fs::write(folder.join("train.toml"), config).expect("a configuration");
        run(folder, &["train", "train.toml", "--device", "cpu"]);
        run(folder, &small("run/model", "student.gif"));
        let eval = ["eval", "run/model", "--reference", model, "--prompts", "prompts.txt"];
        let said = run(folder, &[&eval[..], &["--seeds", "1", "--steps", "2"], &size].concat());
        assert!(said.contains("PSNR"), "{said}");
        for made in ["cache", "run"] {
            std::fs::remove_dir_all(folder.join(made)).expect("removed");
        }
    }
}

#[test]
fn bench_lists_the_published_models() {
    let said = run(Path::new("."), &["bench", "list"]);
    for model in ["wan-1.3b", "cogvideox-2b", "cogvideox-5b", "cogvideox1.5-5b"] {
        assert!(said.contains(model), "{model} is not in {said}");
    }
}
