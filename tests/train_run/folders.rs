//! The output folder: what is in it, and whose it is.

use super::{Place, names, text};
use qvgen::train::Metric;
use std::fs;
use std::process::Stdio;

#[test]
fn a_training_leaves_a_model_measurements_figures_and_checkpoints() {
    let place = Place::new();
    let sampling = [
        "--set",
        "log.sample_every=20",
        "--set",
        "log.sample_steps=2",
        "--set",
        "log.sample_prompts=[\"a red ball\", \"a blue ball\"]",
    ];
    let output = place.run(&sampling);
    let (said, result) = (text(&output.stderr), text(&output.stdout));
    assert!(output.status.success(), "{said}");
    assert!(result.contains("lsq w4a4 after 20 steps"), "{result}");
    for line in ["method   lsq w4a4, 20 of 26", "step     5/20", "held out", "saved"] {
        assert!(said.contains(line), "{line:?} is not in {said}");
    }
    assert_eq!(place.checkpoints(), ["step-000016", "step-000020"]);
    assert_eq!(names(&place.out().join("samples")), ["step-000020-0.mp4", "step-000020-1.mp4"]);
    let figures = names(&place.out().join("figures"));
    assert_eq!(figures, ["gradient.svg", "loss.svg", "schedule.svg"]);
    let kinds: Vec<bool> =
        place.metrics().iter().map(|metric| matches!(metric, Metric::Validation(_))).collect();
    assert_eq!(kinds.iter().filter(|&&is_validation| is_validation).count(), 4);
    assert_eq!(kinds.len(), 24);

    let video = place.out().join("clip.mp4");
    let sample = std::process::Command::new(env!("CARGO_BIN_EXE_qvgen"))
        .arg("sample")
        .arg(place.out().join("model"))
        .args(["--device", "cpu", "--frames", "5", "--size", "32x32", "--steps", "2"])
        .args(["--prompt", "a red ball", "--out"])
        .arg(&video)
        .output()
        .expect("the program starts");
    assert!(sample.status.success(), "{}", text(&sample.stderr));

    // The written configuration describes the same training.
    let again = Place::new();
    fs::copy(place.out().join("config.toml"), again.config()).expect("a copy");
    let out = again.out();
    again.trains(&["--out", out.to_str().expect("UTF-8"), "--set", "log.sample_every=0"]);
    assert_eq!(again.trajectory(), place.trajectory());
    assert_eq!(again.weights(), place.weights());
}

#[test]
fn a_folder_with_a_training_is_not_touched_without_being_told() {
    let place = Place::new();
    place.trains(&["--steps", "4"]);
    let weights = place.weights();
    let words = ["holds a training of 4 steps", "--resume", "--restart"];
    place.is_refused(&["--steps", "4"], &words);
    assert_eq!(place.weights(), weights);
    fs::write(place.out().join("notes.txt"), "mine").expect("written");
    place.trains(&["--steps", "3", "--restart"]);
    assert_eq!(place.checkpoints(), ["step-000003"]);
    assert_eq!(place.trajectory().len(), 4, "three updates and a measurement");
    assert_eq!(fs::read_to_string(place.out().join("notes.txt")).expect("notes"), "mine");
}

#[test]
fn a_finished_training_resumed_exports_the_same_again() {
    let place = Place::new();
    place.trains(&["--steps", "4"]);
    let weights = place.weights();
    fs::remove_dir_all(place.out().join("model")).expect("removed");
    place.trains(&["--steps", "4", "--resume"]);
    assert_eq!(place.weights(), weights);
}

#[test]
fn two_trainings_do_not_share_a_folder() {
    let place = Place::new();
    let mut first = place.command(&["--steps", "100000"]);
    let mut first =
        first.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    while !place.out().join("metrics.jsonl").exists() {
        assert!(first.try_wait().expect("a child").is_none(), "the first one ended");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    place.is_refused(&["--resume"], &["another training is writing to"]);
    first.kill().expect("a child to kill");
    first.wait().expect("an end");
}

#[test]
fn a_dry_run_prints_the_plan_and_writes_nothing() {
    let place = Place::new();
    let output = place.run(&["--dry-run", "--method", "qvgen", "--set", "recipe.rank=4"]);
    let plan = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for words in ["qvgen w4a4, 20 of 26 linear layers", "rank 4, 2, 1 for 6 each", "moments"] {
        assert!(plan.contains(words), "{words:?} is not in {plan}");
    }
    assert!(!place.out().exists());
    place.is_refused(&["--max-memory", "100000"], &["--max-memory allows", "GiB"]);
    assert!(!place.out().exists());
}

#[test]
fn the_quiet_training_says_nothing() {
    let place = Place::new();
    let output = place.run(&["--steps", "2", "--quiet"]);
    assert!(output.status.success());
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_model_is_trained_from_nothing_in_full_precision() {
    let place = Place::new();
    let text = fs::read_to_string(place.config()).expect("a configuration");
    let text =
        text.replace("bits = \"w4a4\"\nmethod = \"lsq\"", "bits = \"full\"\nstart = \"random\"");
    fs::write(place.config(), text).expect("written");
    place.trains(&["--steps", "12"]);
    let losses: Vec<f64> = place
        .metrics()
        .iter()
        .filter_map(|metric| match metric {
            Metric::Step(step) => Some(step.loss),
            _ => None,
        })
        .collect();
    assert!(losses.iter().all(|loss| loss.is_finite()));
    let model = qvgen::pipeline::model::VideoModel::open(&place.out().join("model"));
    model.expect("a model").check_files().expect("complete");
}
