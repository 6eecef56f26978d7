//! The program as a user runs it.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn qvgen() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qvgen"));
    command.env_remove("RUST_LOG");
    command
}

fn run(arguments: &[&str]) -> Output {
    qvgen().args(arguments).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn place() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wan_a")
}

/// The smallest run of the embedded model, on the CPU.
const SMALL: [&str; 10] =
    ["sample", "--device", "cpu", "--frames", "5", "--size", "32x32", "--steps", "2", "--out"];

fn small(out: &Path, more: &[&str]) -> Output {
    let mut arguments: Vec<&str> = SMALL.to_vec();
    arguments.push(out.to_str().expect("UTF-8"));
    arguments.extend(more);
    run(&arguments)
}

/// Fails with exit code 1 and one sentence that contains all of `words`.
#[track_caller]
fn assert_refused(output: &Output, words: &[&str]) {
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let error = message.lines().find(|line| line.starts_with("error: "));
    let error = error.unwrap_or_else(|| panic!("no error line in {message:?}"));
    for word in words {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
    assert!(!error.contains("stopped in the middle"), "a panic: {error}");
    assert_eq!(text(&output.stdout), "", "results beside an error");
}

#[test]
fn every_command_explains_itself() {
    for command in [
        "sample", "quantize", "import", "pretrain", "train", "cache", "eval", "bench", "inspect",
        "devices", "setup",
    ] {
        let output = run(&[command, "--help"]);
        assert!(output.status.success());
        assert!(text(&output.stdout).contains("Usage: qvgen"), "{command}");
    }
    let help = text(&run(&["--help"]).stdout);
    for command in
        ["sample", "quantize", "pretrain", "train", "cache", "eval", "inspect", "devices", "setup"]
    {
        assert!(help.contains(command), "{command} is not in --help");
    }
}

#[test]
fn wrong_usage_exits_with_two() {
    for arguments in [
        &["sample", "--frames", "many"][..],
        &["sample", "--bits", "w5a5"],
        &["sample", "--size", "832"],
        &["sample", "--scheduler", "heun"],
        &["sample", "--backend", "cuda"],
        &["quantize"],
        &["paint"],
        &[],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn sample_writes_the_format_that_the_name_says() {
    let place = place();
    let magic: [(&str, &[u8], usize); 4] = [
        ("clip.mp4", b"ftyp", 4),
        ("clip.gif", b"GIF89a", 0),
        ("clip.apng", b"\x89PNG", 0),
        ("clip.y4m", b"YUV4MPEG2", 0),
    ];
    for (name, magic, offset) in magic {
        let out = place.path().join(name);
        let output = small(&out, &[]);
        assert!(output.status.success(), "{name}: {}", text(&output.stderr));
        let bytes = std::fs::read(&out).expect("the video");
        assert_eq!(&bytes[offset..offset + magic.len()], magic, "{name}");
    }
    let folder = place.path().join("frames");
    assert!(small(&folder, &[]).status.success());
    assert_eq!(std::fs::read_dir(&folder).expect("a folder").count(), 5);
}

#[test]
fn the_same_seed_gives_the_same_file_and_another_seed_another() {
    let place = place();
    let bytes = |name: &str, seed: &str| {
        let out = place.path().join(name);
        let output = small(&out, &["--seed", seed]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        std::fs::read(out).expect("the video")
    };
    let first = bytes("a.mp4", "7");
    assert_eq!(first, bytes("b.mp4", "7"));
    assert_ne!(first, bytes("c.mp4", "8"));
}

#[test]
fn the_video_remembers_its_settings() {
    let place = place();
    let out = place.path().join("clip.mp4");
    let flags = ["--prompt", "a \u{3c6} in the rain", "--bits", "w3a3"];
    let output = small(&out, &[&flags[..], &["--late-guidance-drop", "0.5"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let output = run(&["inspect", "--json", out.to_str().expect("UTF-8")]);
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let settings = &json["settings"];
    assert_eq!(settings["precision"], "w3a3");
    assert_eq!(settings["settings"]["prompt"], "a \u{3c6} in the rain");
    assert_eq!(settings["settings"]["frames"], 5);
    assert_eq!(settings["settings"]["late_guidance_drop"], 0.5);
}

#[test]
fn json_output_is_one_document() {
    let place = place();
    let out = place.path().join("clip.gif");
    let output = small(&out, &["--json"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["plan"]["precision"], "w4a4");
    assert_eq!(json["settings"]["steps"], 2);
    assert!(json["report"]["seconds_per_step"].as_f64().expect("a time") > 0.0);
    let output = run(&["devices", "--json"]);
    assert!(serde_json::from_slice::<Value>(&output.stdout).expect("JSON").is_array());
}

#[test]
fn a_dry_run_writes_nothing() {
    let place = place();
    let out = place.path().join("clip.mp4");
    let output = small(&out, &["--dry-run"]);
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("memory"), "{}", text(&output.stdout));
    assert!(!out.exists());
}

#[test]
fn impossible_settings_are_refused_with_the_way_out() {
    let place = place();
    let out = place.path().join("clip.mp4");
    let cases: [(&[&str], &[&str]); 21] = [
        (&["--frames", "6"], &["--frames", "5 or 9"]),
        (&["--frames", "0"], &["--frames", "1 or 5"]),
        (&["--frames", "4000000001"], &["--frames", "limit"]),
        (&["--size", "33x32"], &["--size", "width", "32 or 40"]),
        (&["--size", "32x0"], &["--size", "height", "8"]),
        (&["--size", "1000000000x32"], &["--size", "limit"]),
        (&["--steps", "0"], &["steps", "1 to 1000"]),
        (&["--steps", "2000"], &["steps", "1 to 1000"]),
        (&["--guidance", "NaN"], &["--guidance"]),
        (&["--flow-shift", "-1"], &["flow_shift"]),
        (&["--fps", "0"], &["frames per second"]),
        (&["--max-memory", "1000"], &["GiB", "--max-memory"]),
        (&["--size", "18446744073709551615x16"], &["--size", "limit"]),
        (&["--frames", "18446744073709551615"], &["--frames", "limit"]),
        (&["--size", "8192x8192", "--frames", "4093"], &["--frames", "--size"]),
        (&["--vae-tile", "21"], &["--vae-tile", "multiple"]),
        (&["--group-size", "33"], &["--group-size", "32"]),
        (&["--bits", "full", "--fake-quant"], &["--fake-quant", "--bits"]),
        (&["--backend", "gl"], &["--device cpu", "--backend"]),
        (&["--guidance", "1e38"], &["--guidance"]),
        (&["--late-guidance-drop", "1.5"], &["--late-guidance-drop", "0 to 1"]),
    ];
    for (flags, words) in cases {
        // Later flags override the earlier ones of `SMALL`.
        assert_refused(&small(&out, flags), words);
        assert!(!out.exists(), "{flags:?} wrote a video");
    }
}

#[test]
fn unusable_outputs_are_refused_before_the_work() {
    let place = place();
    let name = |name: &str| place.path().join(name);
    assert_refused(&small(&name("clip.webm"), &[]), &["clip.webm", ".mp4"]);
    assert_refused(&small(&name("clip.gif"), &["--fps", "60"]), &["50", "GIF"]);
    let size = &["--size", "8192x1168"];
    assert_refused(&small(&name("clip.mp4"), size), &["clip.mp4"]);
    assert_refused(&small(&name("no/such/folder/clip.mp4"), &[]), &["no/such/folder"]);
    assert_eq!(std::fs::read_dir(place.path()).expect("the folder").count(), 0);
}

#[test]
fn unusable_models_are_refused_by_name() {
    let place = place();
    let out = place.path().join("clip.mp4");
    let out = out.to_str().expect("UTF-8");
    let sample = |model: &Path| {
        let model = model.to_str().expect("UTF-8");
        run(&["sample", model, "--prompt", "x", "--device", "cpu", "--out", out])
    };
    assert_refused(&sample(&place.path().join("nothing")), &["nothing"]);
    assert_refused(&sample(place.path()), &["model_index.json"]);

    let model = place.path().join("model");
    copy_tree(&fixture(), &model);
    let config = model.join("transformer/config.json");
    let original = std::fs::read_to_string(&config).expect("a configuration");
    let changes = [
        ("\"num_layers\": 2", "\"num_layers\": 0", "num_layers"),
        ("\"num_layers\": 2", "\"num_layers\": 3", "blocks.2."),
        ("\"ffn_dim\": 72", "\"ffn_dim\": 80", "ffn.net.0.proj"),
        ("\"text_dim\": 24", "\"text_dim\": 32", "text_dim"),
        ("\"qk_norm\": \"rms_norm_across_heads\"", "\"qk_norm\": \"layer_norm\"", "qk_norm"),
        ("{", "", "config.json"),
    ];
    for (from, to, word) in changes {
        std::fs::write(&config, original.replacen(from, to, 1)).expect("a writable copy");
        assert_refused(&sample(&model), &[word]);
    }
    std::fs::write(&config, original).expect("a writable copy");
    std::fs::remove_file(model.join("tokenizer/tokenizer.json")).expect("a file");
    let _ = std::fs::remove_file(model.join("tokenizer/spiece.model"));
    assert_refused(&sample(&model), &["tokenizer"]);
}

#[test]
fn unknown_devices_and_rules_are_refused_with_what_exists() {
    let place = place();
    let out = place.path().join("clip.mp4");
    let out = out.to_str().expect("UTF-8");
    let output = run(&["sample", "--device", "no such adapter", "--out", out]);
    assert_refused(&output, &["no such adapter", "qvgen devices"]);
    let output = run(&[
        "sample",
        "--device",
        "cpu",
        "--bits",
        "w4a4",
        "--layer",
        "block.*=w8a8",
        "--out",
        out,
    ]);
    assert_refused(&output, &["block.*=w8a8", "names none"]);
}

#[test]
fn quantize_then_sample_works_from_another_folder() {
    let place = place();
    let packed = place.path().join("packed");
    let model = fixture();
    let output = run(&[
        "quantize",
        model.to_str().expect("UTF-8"),
        "--bits",
        "w4a4",
        "--device",
        "cpu",
        "--out",
        packed.to_str().expect("UTF-8"),
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    assert!(table.contains("blocks.0.attn1.to_q") && table.contains("relative error"), "{table}");

    let elsewhere = place.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a folder");
    let output = qvgen()
        .current_dir(&elsewhere)
        .args(["sample", "../packed", "--prompt", "rain", "--device", "cpu", "--frames", "5"])
        .args(["--size", "32x32", "--steps", "2"])
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(elsewhere.join("clip.mp4").exists());
    assert!(text(&output.stderr).contains("w4a4"), "{}", text(&output.stderr));
    let output = qvgen()
        .current_dir(&elsewhere)
        .args(["sample", "../packed", "--prompt", "rain", "--device", "cpu", "--bits", "w3a3"])
        .output()
        .expect("the program starts");
    assert_refused(&output, &["--bits", "already quantized"]);

    let output = run(&["inspect", packed.to_str().expect("UTF-8")]);
    assert!(text(&output.stdout).contains("packed w4a4"), "{}", text(&output.stdout));
}

#[test]
fn a_damaged_component_is_found_before_the_work() {
    let place = place();
    let model = place.path().join("model");
    copy_tree(&fixture(), &model);
    let vae = model.join("vae/diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&vae).expect("weights");
    std::fs::write(&vae, &bytes[..bytes.len() / 2]).expect("a writable copy");
    let path = model.to_str().expect("UTF-8");
    let out = place.path().join("out");
    let out = out.to_str().expect("UTF-8");
    let sample = ["sample", path, "--prompt", "x", "--device", "cpu", "--out", out];
    assert_refused(&run(&sample), &["diffusion_pytorch_model.safetensors"]);
    let quantize = ["quantize", path, "--device", "cpu", "--out", out];
    assert_refused(&run(&quantize), &["diffusion_pytorch_model.safetensors"]);
    assert!(!Path::new(out).exists());
}

#[cfg(unix)]
#[test]
fn a_closed_pipe_is_no_error() {
    let mut child = qvgen()
        .args(["inspect", "--layers", fixture().to_str().expect("UTF-8")])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("the program ends");
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_no_file() {
    let place = place();
    let out = place.path().join("clip.mp4");
    let mut child = qvgen()
        .args(["sample", "--device", "cpu", "--steps", "1000", "--frames", "17", "--out"])
        .arg(&out)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    std::thread::sleep(std::time::Duration::from_secs(2));
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().expect("kill").success());
    let status = child.wait().expect("the program ends");
    assert_eq!(status.code(), Some(1));
    assert_eq!(std::fs::read_dir(place.path()).expect("the folder").count(), 0);
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_tree(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("a copy");
        }
    }
}
