//! `qvgen quantize --method` as a user runs it.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A tiny model with random weights in a folder of its own.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wan_a");
        copy_tree(&fixture, &place.path("model"));
        let suggested = json!({
            "frames": 5, "width": 32, "height": 32, "steps": 2, "guidance_scale": 3.0,
        });
        place.write("model/sampling.json", suggested.to_string().as_bytes());
        place.write("prompts.txt", b"rain\n\nsnow on a roof\n");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).expect("a writable folder");
    }

    /// Runs `qvgen quantize model` on the CPU, in the folder, with a cache of its own.
    fn quantize(&self, more: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_qvgen"))
            .env_remove("RUST_LOG")
            .current_dir(self.folder.path())
            .args(["quantize", "model", "--device", "cpu"])
            .args(more)
            .output()
            .expect("the program starts")
    }

    #[track_caller]
    fn assert_refused(&self, more: &[&str], words: &[&str]) {
        let output = self.quantize(&[&["--out", "out"], more].concat());
        let message = text(&output.stderr);
        assert!(!output.status.success(), "{more:?}");
        let error = message.lines().find(|line| line.starts_with("error: "));
        let error = error.unwrap_or_else(|| panic!("no error line in {message:?}"));
        for word in words {
            assert!(error.contains(word), "{more:?}: no {word:?} in {error:?}");
        }
        assert!(!self.path("out").exists(), "{more:?}: something was written");
    }
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

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_method_observes_quantizes_and_reports() {
    let place = Place::new();
    let command = [
        "--method",
        "qvd",
        "--bits",
        "w4a8",
        "--prompts",
        "prompts.txt",
        "--calibration-clips",
        "2",
        "--calibration-cache",
        "cache",
        "--report",
        "report.html",
        "--out",
        "packed",
    ];
    let output = place.quantize(&command);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    for word in ["qvd", "output error", "2 clips of 2 steps", "stays in full precision"] {
        assert!(printed.contains(word), "no {word:?} in {printed}");
    }
    let report = std::fs::read_to_string(place.path("packed/quantization.json")).expect("a report");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!((&report["method"], &report["calibration"]["clips"]), (&json!("qvd"), &json!(2)));
    let layers = report["layers"].as_array().expect("layers");
    assert!(layers.iter().all(|layer| layer["measures"]["output_snr_db"].is_number()));
    assert!(layers.iter().any(|layer| layer["measures"]["temporal"].is_object()), "{report:#}");
    let page = std::fs::read_to_string(place.path("report.html")).expect("a page");
    assert!(
        page.contains("<svg") && page.contains("td_score_recon") && page.ends_with("</html>\n")
    );
    assert!(
        !page.contains("http://")
            || page.matches("http://").count() == page.matches("http://www.w3.org").count()
    );

    // Another method goes on from what was observed.
    let again = ["--method", "mse", "--bits", "w4a8", "--prompts", "prompts.txt", "--json"];
    let more = ["--calibration-clips", "2", "--calibration-cache", "cache", "--out", "other"];
    let output = place.quantize(&[&again[..], &more].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(document["report"]["method"], "mse");
}

#[test]
fn data_free_work_says_so() {
    let place = Place::new();
    let output =
        place.quantize(&["--method", "gptq", "--calibration-clips", "0", "--out", "packed"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("data-free"), "{}", text(&output.stdout));
}

#[test]
fn unusable_prompts_are_refused_by_file_and_line() {
    let place = Place::new();
    let with = |file: &'static str| ["--method", "qvd", "--prompts", file];
    place.assert_refused(&with("nowhere.txt"), &["--prompts", "cannot be read", "nowhere.txt"]);
    place.write("latin.txt", b"rain\ncaf\xe9\n");
    place.assert_refused(&with("latin.txt"), &["line 2", "UTF-8", "latin.txt"]);
    place.write("utf16.txt", b"\xff\xfer\0a\0i\0n\0");
    place.assert_refused(&with("utf16.txt"), &["UTF-16", "utf16.txt"]);
    place.write("empty.txt", b"\n \n");
    place.assert_refused(&with("empty.txt"), &["no prompt", "empty.txt"]);
    place.write("list.jsonl", b"{\"caption\": \"rain\"}\n{\"file\": \"a.mp4\"}\n");
    place.assert_refused(&with("list.jsonl"), &["line 2", "prompt, caption, text", "list.jsonl"]);
    place.write("long.txt", &vec![b'x'; 5000]);
    place.assert_refused(&with("long.txt"), &["line 1", "4096", "long.txt"]);
}

#[test]
fn flags_that_contradict_each_other_are_refused_in_a_sentence() {
    let place = Place::new();
    let cases: [(&[&str], &[&str]); 9] = [
        (&["--activations", "static"], &["--activations", "--method"]),
        (&["--method", "qvd"], &["--prompts", "--calibration-clips 0"]),
        (&["--method", "mse", "--budget-bits", "4"], &["--budget-bits", "--method auto"]),
        (
            &["--method", "auto", "--budget-bits", "0", "--prompts", "prompts.txt"],
            &["--budget-bits: 0"],
        ),
        (
            &["--method", "auto", "--max-error", "7", "--prompts", "prompts.txt"],
            &["--max-error: 7"],
        ),
        (
            &["--method", "mse", "--activations", "static", "--calibration-clips", "0"],
            &["--activations static", "observing"],
        ),
        (
            &["--method", "gptq", "--prompts", "prompts.txt", "--calibration-samples", "1"],
            &["--calibration-samples: 1"],
        ),
        (
            &["--method", "gptq", "--prompts", "prompts.txt", "--calibration-frames", "6"],
            &["--calibration-frames", "5 or 9"],
        ),
        (&["--method", "svdquant", "--prompts", "prompts.txt", "--rank", "0"], &["--rank"]),
    ];
    for (arguments, words) in cases {
        place.assert_refused(arguments, words);
    }
    let output = place.quantize(&["--method", "magic", "--out", "out"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("svdquant"), "{}", text(&output.stderr));
}
