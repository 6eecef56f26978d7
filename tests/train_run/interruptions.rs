//! Killed, stopped, damaged: what follows equals the training that nothing happened to, bit for
//! bit.

use super::{Place, names, text};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Starts the training without waiting for it.
fn start(place: &Place, more: &[&str]) -> Child {
    let mut command = place.command(more);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().expect("the program starts")
}

fn lines(place: &Place) -> usize {
    fs::read(place.out().join("metrics.jsonl"))
        .map_or(0, |bytes| bytes.iter().filter(|&&byte| byte == b'\n').count())
}

/// Waits until there are `count` lines of measurements; `false` if the training ended before.
fn wait_for_lines(place: &Place, child: &mut Child, count: usize) -> bool {
    let start = Instant::now();
    while lines(place) < count {
        if child.try_wait().expect("a child").is_some() {
            return false;
        }
        assert!(start.elapsed() < Duration::from_secs(120), "{count} lines never came");
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// A training of `more` that nothing happens to.
fn undisturbed(more: &[&str]) -> Place {
    let place = Place::new();
    place.trains(more);
    place
}

#[test]
fn a_training_killed_anywhere_resumes_bit_for_bit() {
    // A checkpoint after every update: most kills hit the writing of one.
    for (every, kills) in [("4", 4), ("1", 8)] {
        let every = format!("checkpoint.every={every}");
        let arguments = ["--set", &every, "--steps", "24"];
        let reference = undisturbed(&arguments);
        let place = Place::new();
        let mut resume: Vec<&str> = arguments.to_vec();
        let mut interrupted = 0;
        for kill in 0..kills {
            let mut child = start(&place, &resume);
            if wait_for_lines(&place, &mut child, lines(&place) + 1 + kill % 3) {
                std::thread::sleep(Duration::from_millis(3 * kill as u64));
                interrupted += usize::from(child.try_wait().expect("a child").is_none());
                child.kill().expect("a child to kill");
            }
            child.wait().expect("an end");
            resume = [&arguments[..], &["--resume"]].concat();
        }
        assert!(interrupted >= 2, "only {interrupted} of {kills} kills came in time");
        place.trains(&resume);
        assert_eq!(place.trajectory(), reference.trajectory());
        assert_eq!(place.weights(), reference.weights());
        assert_eq!(place.checkpoints(), reference.checkpoints());
        let last = reference.checkpoints().pop().expect("a checkpoint");
        let state = |place: &Place| {
            let path = place.out().join("checkpoints").join(&last).join("state.safetensors");
            fs::read(path).expect("a state")
        };
        assert!(state(&place) == state(&reference), "the last checkpoints differ");
        let leftovers: Vec<String> =
            names(&place.out()).into_iter().filter(|name| name.starts_with(".qvgen")).collect();
        assert!(leftovers.is_empty(), "{leftovers:?}");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_writes_a_checkpoint_and_says_how_to_go_on() {
    let reference = undisturbed(&["--steps", "16"]);
    let place = Place::new();
    let arguments = ["--steps", "16", "--set", "checkpoint.every=1000"];
    let mut child = start(&place, &arguments);
    assert!(wait_for_lines(&place, &mut child, 3), "the training ended before it was stopped");
    let signal = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(signal.expect("kill").success());
    let output = child.wait_with_output().expect("an end");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("stopped after") && said.contains("--resume"), "{said}");
    assert_eq!(place.checkpoints().len(), 1, "{said}");
    place.trains(&[&arguments[..], &["--resume"]].concat());
    assert_eq!(place.trajectory(), reference.trajectory());
    assert_eq!(place.weights(), reference.weights());
}

#[test]
fn a_damaged_checkpoint_is_noticed_and_the_one_before_is_taken() {
    let reference = undisturbed(&["--steps", "12"]);
    for damage in ["cut", "changed", "missing", "description"] {
        let place = Place::new();
        place.trains(&["--steps", "12"]);
        assert_eq!(place.checkpoints(), ["step-000008", "step-000012"]);
        let newest = place.out().join("checkpoints/step-000012");
        let state = newest.join("state.safetensors");
        let mut bytes = fs::read(&state).expect("a state");
        match damage {
            "cut" => fs::write(&state, &bytes[..bytes.len() / 2]).expect("written"),
            "changed" => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(&state, bytes).expect("written");
            }
            "missing" => fs::remove_file(&state).expect("removed"),
            _ => fs::write(newest.join("state.json"), "{}").expect("written"),
        }
        let said = place.trains(&["--steps", "12", "--resume"]);
        assert!(said.contains("looking for an older checkpoint"), "{damage}: {said}");
        assert!(said.contains("resumed  after 8 steps"), "{damage}: {said}");
        assert_eq!(place.trajectory(), reference.trajectory(), "{damage}");
        assert_eq!(place.weights(), reference.weights(), "{damage}");
    }
}

#[test]
fn a_folder_of_damaged_checkpoints_is_refused() {
    let place = Place::new();
    place.trains(&["--steps", "4"]);
    for name in place.checkpoints() {
        let state = place.out().join("checkpoints").join(name).join("state.safetensors");
        fs::write(state, "nothing").expect("written");
    }
    place.is_refused(&["--steps", "4", "--resume"], &["no checkpoint can be read", "--restart"]);
}

#[test]
fn a_checkpoint_of_another_model_or_method_is_refused() {
    let place = Place::new();
    place.trains(&["--steps", "4"]);
    let resume = |more: &[&'static str]| [&["--steps", "4", "--resume"][..], more].concat();
    for (more, words) in [
        (&["--method", "q-dm"][..], &["method: \"lsq\" → \"q-dm\"", "--restart"][..]),
        (&["--bits", "w3a3"], &["bits", "w3a3"]),
        (&["--set", "data.random=13"], &["12 clips", "13"]),
        (&["--set", "layers=[\"blocks.0.*=w8a8\"]"], &["layers"]),
        (&["--seed", "5"], &["loop.seed: 0 → 5", "--allow-changes"]),
    ] {
        place.is_refused(&resume(more), words);
    }
    let said = place.trains(&resume(&["--seed", "5", "--allow-changes"]));
    assert!(said.contains("changed since the checkpoint: loop.seed: 0 → 5"), "{said}");

    let other = tempfile::tempdir().expect("a temporary folder");
    let other = other.path().join("model");
    copy(&super::model(), &other);
    let weights = other.join("transformer/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&weights).expect("weights");
    let last = bytes.len() - 4;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).expect("written");
    let model = other.to_str().expect("UTF-8");
    let arguments = ["--steps", "4", "--resume", "--model", model];
    place.is_refused(&arguments, &["another model", "--restart"]);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("a copy");
        }
    }
}
