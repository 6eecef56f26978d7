//! `qvgen eval` as a user runs it.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A tiny model in a folder of its own; its weights are random.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// `prompt` is what the model suggests.
    fn new(prompt: &str) -> Self {
        let place = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wan_a");
        copy_tree(&fixture, &place.path("model"));
        let suggested = json!({
            "prompt": prompt, "frames": 5, "width": 32, "height": 32, "steps": 2, "fps": 8.0,
            "guidance_scale": 3.0,
        });
        place.write("model/sampling.json", &suggested.to_string());
        place
    }

    /// One that seems to have learned the world's captions.
    fn of_captions() -> Self {
        Self::new("a red circle moves right over a blue background")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a writable folder");
    }

    /// Runs `qvgen` on the CPU, in the folder.
    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_qvgen"))
            .env_remove("RUST_LOG")
            .current_dir(self.folder.path())
            .args(arguments)
            .args(["--device", "cpu"])
            .output()
            .expect("the program starts")
    }

    fn eval(&self, more: &[&str]) -> Output {
        self.run(&[&["eval", "model"], more].concat())
    }

    #[track_caller]
    fn assert_refused(&self, more: &[&str], words: &[&str]) {
        let output = self.eval(more);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{more:?}: {message}");
        let error = message.lines().find(|line| line.starts_with("error: "));
        let error = error.unwrap_or_else(|| panic!("no error line in {message:?}"));
        for word in words {
            assert!(error.contains(word), "{word:?} is not in {error:?}");
        }
        assert!(!error.contains("stopped in the middle"), "a panic: {error}");
        assert_eq!(text(&output.stdout), "", "results beside an error");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
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

fn document(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn a_model_of_captions_is_scored_and_shown() {
    let place = Place::of_captions();
    let output = place.eval(&["--clips", "4", "--seeds", "2", "--contact-sheet", "sheet.png"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = text(&output.stdout);
    for word in ["caption accuracy", "held out", "ceiling", "flow loss", "±", "sheet.png"] {
        assert!(table.contains(word), "{word} is not in {table}");
    }
    assert!(!table.contains("PSNR"), "agreement with nobody: {table}");
    let sheet = std::fs::read(place.path("sheet.png")).expect("the sheet");
    assert_eq!(&sheet[..4], b"\x89PNG");
    let comment = String::from_utf8_lossy(&sheet);
    assert!(comment.contains("caption_accuracy"), "the sheet does not say what it shows");
}

#[test]
fn agreement_is_with_the_full_precision_of_what_is_quantized_while_loading() {
    let place = Place::of_captions();
    let json = document(&place.eval(&["--clips", "2", "--bits", "w3a4", "--json"]));
    assert_eq!((&json["precision"], &json["model"]), (&json!("w3a4"), &json!("model")));
    let agreement = &json["evaluation"]["agreement"];
    assert_eq!(agreement["reference"], "model in full precision");
    assert!(agreement["velocity_mse"]["mean"].as_f64().expect("a number") > 0.0);
    let clips = json["evaluation"]["clips"].as_array().expect("clips");
    assert_eq!(clips.len(), 2);
    assert_eq!((&clips[0]["is_held_out"], &clips[1]["is_held_out"]), (&json!(false), &json!(true)));
}

#[test]
fn a_packed_folder_agrees_with_its_reference_and_a_drop_of_guidance_is_recorded() {
    let place = Place::of_captions();
    let output = place.run(&["quantize", "model", "--bits", "w4a4", "--out", "packed"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let flags = ["--late-guidance-drop", "0.5", "--clips", "2", "--json"];
    let packed = [&["eval", "packed", "--reference", "model"], &flags[..]].concat();
    let json = document(&place.run(&packed));
    assert_eq!(json["evaluation"]["agreement"]["reference"], "model");
    assert_eq!(json["evaluation"]["settings"]["sampling"]["late_guidance_drop"], 0.5);
    let itself = document(&place.eval(&[&["--reference", "model"], &flags[..]].concat()));
    assert_eq!(itself["evaluation"]["agreement"]["psnr"]["mean"], 100.0);
}

#[test]
fn prompts_of_other_models_have_agreement_only() {
    let place = Place::new("A panda plays guitar in a bamboo forest.");
    place.assert_refused(&[], &["not trained on captions", "--prompts", "--reference"]);
    place.write("prompts.txt", "rain on a window\n\na panda\n");
    let prompts = ["--prompts", "prompts.txt"];
    place.assert_refused(&prompts, &["--reference"]);
    let flags = [&prompts[..], &["--reference", "model", "--json"]].concat();
    let json = document(&place.eval(&flags));
    assert_eq!(json["evaluation"]["captions"], Value::Null);
    assert_eq!(json["evaluation"]["clips"].as_array().expect("clips").len(), 2);
    assert_eq!(json["evaluation"]["agreement"]["velocity_mse"]["mean"], 0.0);
}

#[test]
fn impossible_evaluations_are_refused_with_the_way_out() {
    let place = Place::of_captions();
    place.write("empty.txt", "\n \n");
    let cases: [(&[&str], &[&str]); 9] = [
        (&["--clips", "0"], &["--clips", "1 to"]),
        (&["--seeds", "0"], &["--seeds", "1 to"]),
        (&["--steps", "0"], &["--steps", "1 to 1000"]),
        (&["--late-guidance-drop", "-1"], &["--late-guidance-drop", "0 to 1"]),
        (&["--prompts", "empty.txt"], &["empty.txt", "one per line"]),
        (&["--prompts", "nowhere.txt"], &["--prompts", "nowhere.txt"]),
        (&["--reference", "nowhere"], &["--reference", "nowhere"]),
        (&["--contact-sheet", "sheet.gif"], &["sheet.gif", ".png"]),
        (&["--contact-sheet", "no/such/folder/sheet.png"], &["no/such/folder"]),
    ];
    for (flags, words) in cases {
        place.assert_refused(flags, words);
    }
    let output = place.eval(&["--clips", "3", "--prompts", "empty.txt"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    let left = std::fs::read_dir(place.folder.path()).expect("the folder").count();
    assert_eq!(left, 2, "something was written");

    let other = place.path("other");
    copy_tree(&place.path("model"), &other);
    let config = other.join("transformer/config.json");
    let wide = std::fs::read_to_string(&config).expect("a configuration");
    std::fs::write(&config, wide.replace("\"text_dim\": 24", "\"text_dim\": 32")).expect("a copy");
    place.assert_refused(&["--reference", "other"], &["--reference", "text_dim"]);
}
